# SPDX-License-Identifier: GPL-2.0
"""What a test can need of a kernel."""

import platform
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from plugins import probes
from uapi import libc
from uapi.libc import lib


@dataclass(frozen=True)
class Feature:
    """One thing the running kernel has or has not."""

    name: str
    since: str  # the kernel release that brought it
    probe: Callable[[], bool]
    kconfig: tuple[str, ...] = ()  # symbols whoever configures the kernel has to set
    selected: tuple[str, ...] = ()  # symbols the architecture sets, or not
    otherwise: str = ""  # why any kernel may lack it: hardware, mounts, settings


@dataclass(frozen=True)
class Verdict:
    """Whether a test may run; the reason says why not."""

    run: bool
    fail: bool = False
    reason: str = ""


KSM_SYSFS = ("CONFIG_KSM", "CONFIG_SYSFS")
KSM_PROC = ("CONFIG_KSM", "CONFIG_PROC_FS")
THP = ("CONFIG_TRANSPARENT_HUGEPAGE", "CONFIG_SYSFS")
UFFD = ("CONFIG_USERFAULTFD",)
ADVICE = ("CONFIG_ADVISE_SYSCALLS",)
SYSCTL = ("CONFIG_PROC_SYSCTL",)

_ALL = (
    Feature("root", "1.0", probes.is_root, otherwise="KSM's settings are root's alone"),
    Feature("ksm", "2.6.32", probes.has_ksm_file("run"), KSM_SYSFS),
    Feature("ksm_stat", "6.1", probes.has_file("/proc/self/ksm_stat"), KSM_PROC),
    Feature("ksm_zero_pages", "6.6", probes.counts_zero_pages, (*KSM_SYSFS, "CONFIG_PROC_FS")),
    Feature("pages_scanned", "6.6", probes.has_ksm_file("pages_scanned"), KSM_SYSFS),
    Feature("smart_scan", "6.7", probes.has_ksm_file("smart_scan"), KSM_SYSFS),
    Feature("ksm_advisor", "6.8", probes.has_ksm_file("advisor_mode"), KSM_SYSFS),
    Feature(
        "merge_across_nodes",
        "3.9",
        probes.has_ksm_file("merge_across_nodes"),
        (*KSM_SYSFS, "CONFIG_NUMA"),
    ),
    Feature(
        "ksm_events",
        "6.3",
        probes.has_events("ksm"),
        ("CONFIG_KSM", "CONFIG_FTRACE"),
        selected=("CONFIG_EVENT_TRACING",),
    ),
    Feature(
        "ksm_involvement", "6.14", probes.has_line("/proc/self/ksm_stat", "ksm_merge_any"), KSM_PROC
    ),
    Feature("pagemap_scan", "6.7", probes.scans_pagemap, ("CONFIG_PROC_PAGE_MONITOR",)),
    Feature("own_process_madvise", "6.13", probes.own_process_madvise, ADVICE),
    Feature("long_64", "1.0", probes.long_64, otherwise="a long has 32 bits"),
    Feature(
        "boot_settings",
        "2.6.32",
        probes.has_boot_settings,
        otherwise="settings may have been changed since boot: those of a guest are the kernel's",
    ),
    Feature("ksm_profit", "6.4", probes.has_ksm_file("general_profit"), KSM_SYSFS),
    Feature("memory_merge_prctl", "6.4", probes.memory_merge_prctl, ("CONFIG_KSM",)),
    Feature(
        "smaps_ksm",
        "6.7",
        probes.has_line("/proc/self/smaps_rollup", "KSM"),
        ("CONFIG_KSM", "CONFIG_PROC_PAGE_MONITOR"),
    ),
    Feature(
        "vmstat_cow_ksm",
        "5.19",
        probes.has_line("/proc/vmstat", "cow_ksm"),
        (*KSM_PROC, "CONFIG_VM_EVENT_COUNTERS"),
    ),
    Feature(
        "page_frames", "2.6.25", probes.has_file("/proc/kpageflags"), ("CONFIG_PROC_PAGE_MONITOR",)
    ),
    Feature("soft_dirty", "3.11", probes.soft_dirty, ("CONFIG_MEM_SOFT_DIRTY",)),
    Feature("userfaultfd", "4.3", probes.offers_uffd_feature(0), UFFD),
    Feature(
        "userfaultfd_wp",
        "5.7",
        probes.offers_uffd_feature(lib.UFFD_FEATURE_PAGEFAULT_FLAG_WP),
        UFFD,
        selected=("CONFIG_HAVE_ARCH_USERFAULTFD_WP",),
    ),
    Feature("userfaultfd_move", "6.8", probes.offers_uffd_feature(lib.UFFD_FEATURE_MOVE), UFFD),
    Feature(
        "userfaultfd_minor_shmem",
        "5.14",
        probes.offers_uffd_feature(lib.UFFD_FEATURE_MINOR_SHMEM),
        (*UFFD, "CONFIG_SHMEM"),
        selected=("CONFIG_HAVE_ARCH_USERFAULTFD_MINOR",),
    ),
    Feature("thp", "2.6.38", probes.has_huge_pages, THP),
    Feature("collapse_advice", "6.1", probes.takes_advice(lib.MADV_COLLAPSE), (*THP, *ADVICE)),
    Feature(
        "huge_page_memory",
        "2.6.38",
        probes.huge_page_memory,
        (*THP, "CONFIG_PROC_FS"),
        otherwise=f"less than {probes.HUGE_PAGES_NEEDED} huge pages of memory are available",
    ),
    Feature("mremap_dontunmap", "5.7", probes.mremap_dontunmap),
    Feature("free_advice", "4.5", probes.takes_advice(lib.MADV_FREE), ADVICE),
    Feature("reclaim_advice", "5.4", probes.takes_advice(lib.MADV_PAGEOUT), ADVICE),
    Feature("populate_advice", "5.14", probes.takes_advice(lib.MADV_POPULATE_WRITE), ADVICE),
    Feature("guard_advice", "6.13", probes.takes_advice(lib.MADV_GUARD_INSTALL), ADVICE),
    Feature(
        "hugetlb",
        "2.6.32",
        probes.maps(libc.MAP_NORESERVE | lib.MAP_HUGETLB | lib.MAP_PRIVATE),
        ("CONFIG_HUGETLBFS",),
        otherwise="the processor has no huge pages of the default size",
    ),
    Feature("droppable_memory", "6.11", probes.maps(lib.MAP_DROPPABLE)),
    Feature(
        "vma_limit",
        "2.6.7",
        probes.vma_limit,
        SYSCTL,
        otherwise=f"vm.max_map_count is above {probes.VMAS_AT_MOST}",
    ),
    Feature("vdso", "2.6.12", probes.has_vdso, otherwise="the kernel maps no vDSO here"),
    Feature("sealing", "6.10", probes.sealing),
    Feature("move_pages", "2.6.18", probes.move_pages, ("CONFIG_NUMA", "CONFIG_NUMA_MIGRATION")),
    Feature(
        "numa_nodes",
        "2.6.30",
        probes.numa_nodes,
        ("CONFIG_NUMA", "CONFIG_SYSFS"),
        otherwise="fewer than two NUMA nodes have memory",
    ),
    Feature(
        "compaction",
        "2.6.35",
        probes.has_file("/proc/sys/vm/compact_memory"),
        ("CONFIG_COMPACTION", *SYSCTL),
    ),
    Feature(
        "memory_failure",
        "2.6.32",
        probes.takes_advice(lib.MADV_HWPOISON),
        ("CONFIG_MEMORY_FAILURE", *ADVICE),
    ),
    Feature(
        "unpoison",
        "3.14",
        probes.has_file("/sys/kernel/debug/hwpoison/unpoison-pfn"),
        ("CONFIG_MEMORY_FAILURE", "CONFIG_HWPOISON_INJECT", "CONFIG_DEBUG_FS", *ADVICE),
        otherwise="the module hwpoison_inject is not loaded, or debugfs is not mounted",
    ),
    Feature(
        "movable_memory",
        "4.6",
        probes.movable_memory,
        ("CONFIG_MEMORY_HOTPLUG", "CONFIG_MEMORY_HOTREMOVE", "CONFIG_SYSFS"),
        otherwise="no block of memory can go offline: boot with movablecore=, of several blocks",
    ),
    Feature(
        "failed_allocations",
        "4.14",
        probes.failed_allocations,
        (
            "CONFIG_FAULT_INJECTION",
            "CONFIG_FAULT_INJECTION_DEBUG_FS",
            "CONFIG_FAILSLAB",
            "CONFIG_FAIL_PAGE_ALLOC",
        ),
        otherwise="debugfs is not mounted, or locked down",
    ),
    Feature(
        "memory_cgroup",
        "5.19",
        probes.memory_cgroup,
        ("CONFIG_MEMCG",),
        otherwise="no mounted cgroup2 hierarchy has the memory controller",
    ),
    Feature(
        "cpuset_cgroup",
        "5.0",
        probes.cpuset_cgroup,
        ("CONFIG_CPUSETS",),
        otherwise="no mounted cgroup2 hierarchy has the cpuset controller",
    ),
    Feature(
        "swap_device",
        "5.18",
        probes.swap_device,
        ("CONFIG_KSM", "CONFIG_SWAP", "CONFIG_ZRAM", "CONFIG_SYSFS", "CONFIG_VM_EVENT_COUNTERS"),
        otherwise="the module zram is not loaded",
    ),
    Feature("pkeys", "4.9", probes.pkeys, selected=("CONFIG_ARCH_HAS_PKEYS",)),
    Feature(
        "hmm_mirror",
        "5.14",
        probes.hmm_mirror,
        ("CONFIG_TEST_HMM",),
        otherwise="the module test_hmm is not loaded",
    ),
    Feature("mte", "5.10", probes.mte, ("CONFIG_ARM64_MTE",)),
    Feature(
        "page_pinning",
        "5.1",
        probes.page_pinning,
        ("CONFIG_IO_URING",),
        otherwise="kernel.io_uring_disabled forbids io_uring",
    ),
    Feature(
        "cross_memory_attach", "3.2", probes.cross_memory_attach, ("CONFIG_CROSS_MEMORY_ATTACH",)
    ),
    Feature(
        "copy_on_write_accounting",
        "6.0",
        probes.has_file("/proc/sys/kernel/task_delayacct"),
        ("CONFIG_TASKSTATS", "CONFIG_TASK_DELAY_ACCT", *SYSCTL),
    ),
    Feature(
        "sparse_memory",
        "2.6",
        probes.sparse_memory,
        otherwise=f"the address space has no room for {probes.SPARSE_PAGES} pages",
    ),
    Feature(
        "ksmd_time",
        "2.6.32",
        probes.ksmd_time,
        KSM_PROC,
        otherwise="ksmd is not to be seen from here",
    ),
    Feature(
        "direct_io",
        "2.6",
        probes.direct_io,
        otherwise=f"the file system of {tempfile.gettempdir()} does not take O_DIRECT",
    ),
    Feature(
        "fork_failure",
        "2.6",
        probes.fork_failure,
        SYSCTL,
        otherwise="vm.overcommit_memory is not 0, or 1.2 times the memory fits no address space",
    ),
)
FEATURES = {feature.name: feature for feature in _ALL}


def release_numbers(release: str) -> tuple[int, ...]:
    """(6, 12) of 6.12.95-amd64: what a feature's first release is compared with."""
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])


def running_release() -> str:
    """The running kernel's release, as uname -r prints it."""
    return platform.release()
