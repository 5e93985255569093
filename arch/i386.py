# SPDX-License-Identifier: GPL-2.0
"""32-bit x86 (arch/x86/Kconfig)."""

from arch import Arch

ARCH = Arch(
    "i386",
    machines=("i386", "i486", "i586", "i686"),
    never={
        "userfaultfd_wp": "only 64-bit x86 selects HAVE_ARCH_USERFAULTFD_WP",
        "mte": "only 64-bit ARM has the Memory Tagging Extension",
    },
)
