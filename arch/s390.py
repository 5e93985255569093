# SPDX-License-Identifier: GPL-2.0
"""s390x (arch/s390/Kconfig)."""

from arch import Arch

ARCH = Arch(
    "s390",
    machines=("s390x",),
    never={
        "userfaultfd_wp": "s390 does not select HAVE_ARCH_USERFAULTFD_WP",
        "userfaultfd_minor_shmem": "s390 does not select HAVE_ARCH_USERFAULTFD_MINOR",
        "memory_failure": "s390 does not select ARCH_SUPPORTS_MEMORY_FAILURE",
        "unpoison": "s390 does not select ARCH_SUPPORTS_MEMORY_FAILURE",
        "pkeys": "s390 has storage keys, and no protection keys of processes",
        "mte": "only 64-bit ARM has the Memory Tagging Extension",
    },
    processor={"thp": "EDAT-1"},
    huge_pages={4: (1024,)},
    several_zero_pages=True,
)
