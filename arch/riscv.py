# SPDX-License-Identifier: GPL-2.0
"""64-bit RISC-V (arch/riscv/Kconfig)."""

from arch import Arch

ARCH = Arch(
    "riscv",
    machines=("riscv64",),
    never={
        "memory_failure": "RISC-V does not select ARCH_SUPPORTS_MEMORY_FAILURE",
        "unpoison": "RISC-V does not select ARCH_SUPPORTS_MEMORY_FAILURE",
        "pkeys": "RISC-V has no protection keys",
        "mte": "only 64-bit ARM has the Memory Tagging Extension",
    },
    processor={
        "userfaultfd_wp": "the extension Svrsw60t59b",
        "soft_dirty": "the extension Svrsw60t59b",
    },
    huge_pages={4: (2048,)},
)
