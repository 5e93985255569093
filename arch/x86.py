# SPDX-License-Identifier: GPL-2.0
"""64-bit x86 (arch/x86/Kconfig)."""

from arch import Arch

ARCH = Arch(
    "x86",
    machines=("x86_64",),
    never={"mte": "only 64-bit ARM has the Memory Tagging Extension"},
    processor={
        "thp": "PSE",
        "pkeys": "PKU",
    },
    huge_pages={4: (2048,)},
    copies_survive_bad_memory=True,
)
