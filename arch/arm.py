# SPDX-License-Identifier: GPL-2.0
"""32-bit ARM (arch/arm/Kconfig)."""

from arch import Arch

ARCH = Arch(
    "arm",
    places_zeros_late=True,
    machines=("armv6l", "armv7l", "armv8l"),
    never={
        "userfaultfd_wp": "32-bit ARM page tables have no spare bit for userfaultfd write-protect",
        "soft_dirty": "32-bit ARM does not select HAVE_ARCH_SOFT_DIRTY",
        "mte": "only 64-bit ARM has the Memory Tagging Extension",
    },
)
