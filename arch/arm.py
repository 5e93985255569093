# SPDX-License-Identifier: GPL-2.0
"""32-bit ARM (arch/arm/Kconfig)."""

from arch import Arch

ARCH = Arch(
    "arm",
    places_zeros_late=True,
    machines=("armv6l", "armv7l", "armv8l"),
    never={
        "userfaultfd_wp": "32-bit ARM page tables have no spare bit for userfaultfd write-protect",
        "userfaultfd_minor_shmem": "32-bit ARM does not select HAVE_ARCH_USERFAULTFD_MINOR",
        "soft_dirty": "32-bit ARM does not select HAVE_ARCH_SOFT_DIRTY",
        "move_pages": "32-bit ARM has no NUMA",
        "numa_nodes": "32-bit ARM has no NUMA",
        "merge_across_nodes": "32-bit ARM has no NUMA",
        "movable_memory": "32-bit ARM has no memory hotplug",
        "memory_failure": "32-bit ARM does not select ARCH_SUPPORTS_MEMORY_FAILURE",
        "unpoison": "32-bit ARM does not select ARCH_SUPPORTS_MEMORY_FAILURE",
        "pkeys": "32-bit ARM has no protection keys",
        "hmm_mirror": "32-bit ARM has no memory hotplug, and so no memory of devices",
        "droppable_memory": "VMAs of 32-bit kernels have no flag for droppable memory",
        "sealing": "32-bit kernels have no mseal(2)",
        "mte": "only 64-bit ARM has the Memory Tagging Extension",
    },
    huge_pages={4: (2048,)},  # with LPAE; none without
)
