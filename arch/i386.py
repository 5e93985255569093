# SPDX-License-Identifier: GPL-2.0
"""32-bit x86 (arch/x86/Kconfig)."""

from arch import Arch

ARCH = Arch(
    "i386",
    machines=("i386", "i486", "i586", "i686"),
    never={
        "userfaultfd_wp": "only 64-bit x86 selects HAVE_ARCH_USERFAULTFD_WP",
        "userfaultfd_minor_shmem": "only 64-bit x86 selects HAVE_ARCH_USERFAULTFD_MINOR",
        "soft_dirty": "only 64-bit x86 selects HAVE_ARCH_SOFT_DIRTY",
        "move_pages": "32-bit x86 has no NUMA (up to 6.14 with X86_BIGSMP, for no machine)",
        "numa_nodes": "32-bit x86 has no NUMA (up to 6.14 with X86_BIGSMP, for no machine)",
        "merge_across_nodes": "32-bit x86 has no NUMA (up to 6.14 with X86_BIGSMP, for no machine)",
        "movable_memory": "only 64-bit x86 has memory hotplug",
        "pkeys": "only 64-bit x86 has protection keys",
        "hmm_mirror": "only 64-bit x86 has memory hotplug, and so memory of devices",
        "droppable_memory": "VMAs of 32-bit kernels have no flag for droppable memory",
        "sealing": "32-bit kernels have no mseal(2)",
        "mte": "only 64-bit ARM has the Memory Tagging Extension",
    },
    processor={"thp": "PSE"},
    huge_pages={4: (2048, 4096)},  # with PAE, without
)
