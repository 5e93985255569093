# SPDX-License-Identifier: GPL-2.0
"""64-bit RISC-V (arch/riscv/Kconfig)."""

from arch import Arch

# Write-protect and soft-dirty bits depend on the extension Svrsw60t59b: on the configuration.
ARCH = Arch(
    "riscv",
    machines=("riscv64",),
    never={"mte": "only 64-bit ARM has the Memory Tagging Extension"},
)
