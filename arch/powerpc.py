# SPDX-License-Identifier: GPL-2.0
"""64-bit POWER with 4 or 64 KiB pages (arch/powerpc/Kconfig)."""

from arch import Arch

ARCH = Arch(
    "powerpc",
    machines=("ppc64le", "ppc64"),
    never={
        "userfaultfd_wp": "POWER does not select HAVE_ARCH_USERFAULTFD_WP",
        "mte": "only 64-bit ARM has the Memory Tagging Extension",
    },
)
