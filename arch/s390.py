# SPDX-License-Identifier: GPL-2.0
"""s390x (arch/s390/Kconfig). It has several zero pages: which one, depends on the address."""

from arch import Arch

ARCH = Arch(
    "s390",
    machines=("s390x",),
    never={
        "userfaultfd_wp": "s390 does not select HAVE_ARCH_USERFAULTFD_WP",
        "mte": "only 64-bit ARM has the Memory Tagging Extension",
    },
)
