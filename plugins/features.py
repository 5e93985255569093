# SPDX-License-Identifier: GPL-2.0
"""What a test can need of a kernel, and how to find out whether it is there."""

import errno
import os
import platform
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mm import served
from uapi import libc, pagemap, userfaultfd
from uapi.ksm import Ksm
from uapi.libc import lib
from uapi.meminfo import read_meminfo, total_memory
from uapi.thp import Thp


@dataclass(frozen=True)
class Feature:
    """One thing the running kernel has or has not."""

    name: str
    since: str  # the kernel release that brought it
    probe: Callable[[], bool]
    kconfig: tuple[str, ...] = ()  # symbols it depends on
    otherwise: str = ""  # why any kernel may lack it: hardware, mounts, settings


@dataclass(frozen=True)
class Verdict:
    """Whether a test may run; the reason says why not."""

    run: bool
    fail: bool = False
    reason: str = ""


def _file(path: str) -> Callable[[], bool]:
    return lambda: Path(path).exists()


def _line(path: str, word: str) -> Callable[[], bool]:
    return lambda: re.search(rf"^{word}\b", Path(path).read_text(), re.MULTILINE) is not None


def _advice(advice: int) -> Callable[[], bool]:
    """Advice over no bytes: EINVAL where the kernel does not know it."""

    def probe() -> bool:
        try:
            libc.madvise(0, 0, advice)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
        return True

    return probe


def _memory_merge() -> bool:
    try:
        libc.get_memory_merge()
    except OSError:
        return False
    return True


def _uffd(bit: int) -> Callable[[], bool]:
    def probe() -> bool:
        try:
            return bool(userfaultfd.features() & bit)
        except OSError:
            return False

    return probe


def _page_pinning() -> bool:
    address = libc.mmap(libc.PAGE_SIZE)
    try:
        os.close(libc.pin_pages(address, libc.PAGE_SIZE))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return False
        raise
    finally:
        libc.munmap(address, libc.PAGE_SIZE)
    return True


def _cross_memory_attach() -> bool:
    try:
        libc.process_vm_writev(os.getpid(), 0, b"")
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return False
        raise
    return True


def _move_pages() -> bool:
    address = libc.mmap(libc.PAGE_SIZE)
    try:
        libc.move_pages(os.getpid(), [address], node=0)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return False
        raise
    finally:
        libc.munmap(address, libc.PAGE_SIZE)
    return True


def _mremap_dontunmap() -> bool:
    address = libc.mmap(libc.PAGE_SIZE)
    flags = lib.MREMAP_MAYMOVE | lib.MREMAP_DONTUNMAP
    try:
        moved = libc.mremap(address, libc.PAGE_SIZE, libc.PAGE_SIZE, flags)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    finally:
        libc.munmap(address, libc.PAGE_SIZE)
    libc.munmap(moved, libc.PAGE_SIZE)
    return True


def _huge_page_memory() -> bool:
    """Whether tests of huge pages fit the memory; a huge page may have 512 MiB."""
    return read_meminfo()["MemAvailable"] >= HUGE_PAGES_NEEDED * Thp().hpage_pmd_size


def _direct_io() -> bool:
    """Whether the file system of temporary files takes O_DIRECT."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.close(os.open(file.name, os.O_RDONLY | os.O_DIRECT))
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
    return True


def _soft_dirty() -> bool:
    """A page just written is soft-dirty wherever the bit exists."""
    address = libc.mmap(libc.PAGE_SIZE)
    try:
        libc.ffi.memmove(libc.pointer(address), b"x", 1)
        return bool(pagemap.pagemap_entries(os.getpid(), address, 1)[0] & pagemap.SOFT_DIRTY)
    finally:
        libc.munmap(address, libc.PAGE_SIZE)


def _fork_failure() -> bool:
    """Whether a VMA larger than the memory can be mapped, which makes fork fail."""
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() != "0":
        return False
    memory = total_memory()
    try:
        address = served.map_more_than_memory(memory)
    except OSError:
        return False
    libc.munmap(address, 2 * (memory * 6 // 10 // libc.PAGE_SIZE * libc.PAGE_SIZE))
    return True


HUGE_PAGES_NEEDED = 6  # a region, its alignment, its content read back
KSM = Ksm.default_root
_ALL = (
    Feature("ksm", "2.6.32", KSM.is_dir, ("CONFIG_KSM",)),
    Feature("ksm_stat", "6.1", _file("/proc/self/ksm_stat"), ("CONFIG_KSM",)),
    Feature("ksm_zero_pages", "6.6", (KSM / "ksm_zero_pages").exists, ("CONFIG_KSM",)),
    Feature("ksm_profit", "6.4", (KSM / "general_profit").exists, ("CONFIG_KSM",)),
    Feature("memory_merge_prctl", "6.4", _memory_merge, ("CONFIG_KSM",)),
    Feature("page_frames", "2.6.25", _file("/proc/kpageflags"), ("CONFIG_PROC_PAGE_MONITOR",)),
    Feature("smaps_ksm", "6.7", _line("/proc/self/smaps_rollup", "KSM"), ("CONFIG_KSM",)),
    Feature(
        "userfaultfd_wp",
        "5.7",
        _uffd(lib.UFFD_FEATURE_PAGEFAULT_FLAG_WP),
        ("CONFIG_USERFAULTFD", "CONFIG_HAVE_ARCH_USERFAULTFD_WP"),
    ),
    Feature("userfaultfd_move", "6.8", _uffd(lib.UFFD_FEATURE_MOVE), ("CONFIG_USERFAULTFD",)),
    Feature(
        "thp",
        "2.6.38",
        _file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"),
        ("CONFIG_TRANSPARENT_HUGEPAGE",),
    ),
    Feature(
        "collapse_advice",
        "6.1",
        _advice(lib.MADV_COLLAPSE),
        ("CONFIG_TRANSPARENT_HUGEPAGE",),
    ),
    Feature("mremap_dontunmap", "5.7", _mremap_dontunmap),
    Feature("move_pages", "2.6.18", _move_pages, ("CONFIG_NUMA", "CONFIG_MIGRATION")),
    Feature("free_advice", "4.5", _advice(lib.MADV_FREE)),
    Feature("reclaim_advice", "5.4", _advice(lib.MADV_PAGEOUT)),
    Feature(
        "huge_page_memory",
        "2.6.38",
        _huge_page_memory,
        otherwise=f"less than {HUGE_PAGES_NEEDED} huge pages of memory are available",
    ),
    Feature("guard_advice", "6.13", _advice(lib.MADV_GUARD_INSTALL)),
    Feature("page_pinning", "5.1", _page_pinning, ("CONFIG_IO_URING",)),
    Feature("populate_advice", "5.14", _advice(lib.MADV_POPULATE_WRITE)),
    Feature("cross_memory_attach", "3.2", _cross_memory_attach, ("CONFIG_CROSS_MEMORY_ATTACH",)),
    Feature(
        "direct_io",
        "2.6",
        _direct_io,
        otherwise=f"the file system of {tempfile.gettempdir()} does not take O_DIRECT",
    ),
    Feature(
        "copy_on_write_accounting",
        "6.0",
        _file("/proc/sys/kernel/task_delayacct"),
        ("CONFIG_TASKSTATS", "CONFIG_TASK_DELAY_ACCT"),
    ),
    Feature("soft_dirty", "3.11", _soft_dirty, ("CONFIG_MEM_SOFT_DIRTY",)),
    Feature("vmstat_cow_ksm", "5.19", _line("/proc/vmstat", "cow_ksm"), ("CONFIG_KSM",)),
    Feature(
        "fork_failure",
        "2.6",
        _fork_failure,
        otherwise="vm.overcommit_memory is not 0, or 1.2 times the memory fits no address space",
    ),
)
FEATURES = {feature.name: feature for feature in _ALL}


def release_numbers(release: str) -> tuple[int, ...]:
    """(6, 12) of 6.12.95-amd64: what a feature's first release is compared with."""
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])


def running_release() -> str:
    """uname -r."""
    return platform.release()
