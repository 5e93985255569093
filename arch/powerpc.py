# SPDX-License-Identifier: GPL-2.0
"""64-bit POWER with 4 or 64 KiB pages (arch/powerpc/Kconfig)."""

from arch import Arch

ARCH = Arch(
    "powerpc",
    machines=("ppc64le", "ppc64"),
    never={
        "userfaultfd_wp": "POWER does not select HAVE_ARCH_USERFAULTFD_WP",
        "userfaultfd_minor_shmem": "POWER does not select HAVE_ARCH_USERFAULTFD_MINOR",
        "mte": "only 64-bit ARM has the Memory Tagging Extension",
    },
    processor={
        "thp": "a radix MMU, or a hash MMU with pages of 64 KiB and of 16 MiB",
        "pkeys": "a hash MMU",
    },
    huge_pages={4: (2048,), 64: (2048, 16 * 1024)},  # radix, hash
    copies_survive_bad_memory=True,
)
