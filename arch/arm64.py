# SPDX-License-Identifier: GPL-2.0
"""64-bit ARM with 4, 16 or 64 KiB pages (arch/arm64/Kconfig)."""

from arch import Arch

ARCH = Arch(
    "arm64",
    machines=("aarch64",),
    never={
        "soft_dirty": "arm64 does not select HAVE_ARCH_SOFT_DIRTY",
        "movable_memory": "arm64 takes no memory offline that it booted with",
    },
    processor={
        "mte": "the Memory Tagging Extension, and firmware that reserves memory for tags",
        "pkeys": "the Permission Overlay Extension",
    },
    huge_pages={4: (2048,), 16: (32 * 1024,), 64: (512 * 1024,)},
)
