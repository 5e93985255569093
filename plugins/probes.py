# SPDX-License-Identifier: GPL-2.0
"""How to find out whether the running kernel has something: by asking it."""

import errno
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from mm import served
from uapi import (
    cgroup,
    hmm,
    io_uring,
    ksm,
    libc,
    memory_blocks,
    numa,
    pagemap,
    pagemap_scan,
    tracefs,
    userfaultfd,
    zram,
)
from uapi.fault_injection import FAIL_PAGE_ALLOC, FAILSLAB, countdown
from uapi.libc import lib
from uapi.meminfo import read_meminfo, total_memory
from uapi.thp import Thp
from uapi.vmstat import read_vmstat

HWCAP2_MTE = 1 << 18  # arch/arm64/include/uapi/asm/hwcap.h
SPARSE_PAGES = 1 << 22  # so far apart may pages lie: 16 GiB, or more where pages are larger
VMAS_AT_MOST = 1 << 17  # take 30 MB of slabs, and a second
HUGE_PAGES_NEEDED = 6  # a region, its alignment, its content read back


def is_root() -> bool:
    """Whether settings and page frame numbers are ours to use."""
    return os.geteuid() == 0


def has_ksm_file(name: str) -> Callable[[], bool]:
    """A file of /sys/kernel/mm/ksm."""
    return lambda: ksm.Ksm().has(name)


def has_events(system: str) -> Callable[[], bool]:
    """Tracepoints of a system such as `ksm`."""
    return lambda: tracefs.has_events(system)


def own_process_madvise() -> bool:
    """process_madvise(2) on oneself, with advice that is no hint about paging."""
    address = libc.mmap(libc.PAGE_SIZE)
    pidfd = os.pidfd_open(os.getpid())
    try:
        libc.process_madvise(pidfd, address, libc.PAGE_SIZE, lib.MADV_DONTNEED)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    finally:
        os.close(pidfd)
        libc.munmap(address, libc.PAGE_SIZE)
    return True


def scans_pagemap() -> bool:
    """PAGEMAP_SCAN."""
    address = libc.mmap(libc.PAGE_SIZE)
    try:
        pagemap_scan.runs_of(os.getpid(), address, 1, pagemap_scan.PAGE_IS_PFNZERO)
    except OSError:
        return False
    finally:
        libc.munmap(address, libc.PAGE_SIZE)
    return True


def long_64() -> bool:
    """Whether a long has 64 bits."""
    return libc.LONG_BYTES == 8


def has_boot_settings() -> bool:
    """Whether the first process is that of a guest, which changes no setting of the kernel."""
    init = Path("/init")
    return init.is_file() and "-m guests.agent" in init.read_text(errors="replace")


def counts_zero_pages() -> bool:
    """Whether both books have ksm_zero_pages: the system's and the process's."""
    return (ksm.Ksm.default_root / "ksm_zero_pages").exists() and (
        ksm.process_stat(os.getpid()).zero_pages is not None
    )


def has_huge_pages() -> bool:
    """Whether there are huge pages; the processor may lack them."""
    return (Thp.default_root / "hpage_pmd_size").exists()


def has_file(path: str) -> Callable[[], bool]:
    """A file that the feature brought."""
    return Path(path).exists


def has_line(path: str, word: str) -> Callable[[], bool]:
    """A line of a file that begins with `word`."""
    return lambda: re.search(rf"^{word}\b", Path(path).read_text(), re.MULTILINE) is not None


def maps(flags: int) -> Callable[[], bool]:
    """Anonymous memory of a kind; mapping it takes none yet."""

    def probe() -> bool:
        length = max(libc.PAGE_SIZE, read_meminfo().get("Hugepagesize", 0))
        # At a place of ours: 7.2 with LPAE aligns no hugetlb memory, and its munmap(2) is a BUG.
        start = libc.mmap(2 * length, lib.PROT_NONE)
        fixed = flags | lib.MAP_ANONYMOUS | lib.MAP_FIXED
        try:
            libc.mmap(length, flags=fixed, address=-(-start // length) * length)
        except OSError as error:
            # ENOENT: the processor has no huge pages of that size (hugetlb_file_setup()).
            absent = (errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV, errno.ENOSYS)
            if error.errno in absent:
                return False
            raise
        finally:
            libc.munmap(start, 2 * length)
        return True

    return probe


def has_vdso() -> bool:
    """Whether the kernel's own code is mapped."""
    return "[vdso]" in Path("/proc/self/maps").read_text()


def sealing() -> bool:
    """mseal(2), of no bytes."""
    try:
        libc.mseal(0, 0)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return False
        raise
    return True


def takes_advice(advice: int) -> Callable[[], bool]:
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


def memory_merge_prctl() -> bool:
    """PR_GET_MEMORY_MERGE."""
    try:
        libc.get_memory_merge()
    except OSError:
        return False
    return True


def offers_uffd_feature(bit: int) -> Callable[[], bool]:
    """UFFD_FEATURE_* bits; 0 asks for userfaultfd(2) alone."""

    def probe() -> bool:
        try:
            return userfaultfd.features() & bit == bit
        except OSError:
            return False

    return probe


def page_pinning() -> bool:
    """Fixed buffers of io_uring, which kernel.io_uring_disabled can forbid."""
    address = libc.mmap(libc.PAGE_SIZE)
    try:
        os.close(io_uring.pin_pages(address, libc.PAGE_SIZE))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return False
        raise
    finally:
        libc.munmap(address, libc.PAGE_SIZE)
    return True


def cross_memory_attach() -> bool:
    """process_vm_writev(2)."""
    try:
        libc.process_vm_writev(os.getpid(), 0, b"")
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return False
        raise
    return True


def move_pages() -> bool:
    """move_pages(2), even on a single node."""
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


def numa_nodes() -> bool:
    """Whether memory can be on one node or on another."""
    return len(numa.nodes_with_memory()) > 1


def movable_memory() -> bool:
    """Whether memory can be taken offline, whatever is in it."""
    try:
        return any(map(memory_blocks.can_go_offline, memory_blocks.movable_blocks()))
    except OSError:  # what is in a block is root's to know
        return False


def failed_allocations() -> bool:
    """Whether allocations can be made to fail, and which do can be chosen."""
    files = [Path("/", name, "ignore-gfp-wait") for name in (FAILSLAB, FAIL_PAGE_ALLOC)]
    try:
        for path in (*files, countdown(os.getpid())):
            os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


def memory_cgroup() -> bool:
    """Whether groups of processes can be limited in memory, and told to give some back."""
    return "memory" in cgroup.controllers()


def cpuset_cgroup() -> bool:
    """Whether groups of processes can be bound to NUMA nodes."""
    return "cpuset" in cgroup.controllers()


def swap_device() -> bool:
    """Whether a device to swap to can be made of memory."""
    return zram.CONTROL.is_dir() and "ksm_swpin_copy" in read_vmstat()


def pkeys() -> bool:
    """Whether the processor has a protection key to give."""
    try:
        libc.pkey_free(libc.pkey_alloc())
    except OSError as error:
        # EINVAL is what x86 says without PKU (arch/x86/kernel/fpu/xstate.c).
        if error.errno in (errno.ENOSYS, errno.ENOSPC, errno.EINVAL):
            return False
        raise
    return True


def mremap_dontunmap() -> bool:
    """MREMAP_DONTUNMAP."""
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


def max_map_count() -> int:
    """vm.max_map_count: how many VMAs an mm may have."""
    return int(Path("/proc/sys/vm/max_map_count").read_text())


def vma_limit() -> bool:
    """Whether a test may have so many VMAs."""
    return max_map_count() <= VMAS_AT_MOST


def huge_page_memory() -> bool:
    """Whether tests of huge pages fit the memory; a huge page may have 512 MiB."""
    return read_meminfo()["MemAvailable"] >= HUGE_PAGES_NEEDED * Thp().hpage_pmd_size


def sparse_memory() -> bool:
    """Whether the address space has room for so many pages; memory is not asked for."""
    length = SPARSE_PAGES * libc.PAGE_SIZE
    if length > sys.maxsize:
        return False
    try:
        libc.munmap(libc.mmap(length, lib.PROT_READ), length)
    except OSError:
        return False
    return True


def ksmd_time() -> bool:
    """Whether ksmd is there for us to see."""
    try:
        ksm.ksmd_clock()
    except LookupError:
        return False
    return True


def direct_io() -> bool:
    """Whether the file system of temporary files takes O_DIRECT."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            os.close(os.open(file.name, os.O_RDONLY | os.O_DIRECT))
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
    return True


def mte() -> bool:
    """Whether processor, firmware and kernel tag memory; the bit means other things elsewhere."""
    if platform.machine() != "aarch64":
        return False
    return bool(libc.auxiliary_value(lib.AT_HWCAP2) & HWCAP2_MTE)


def hmm_mirror() -> bool:
    """Whether there is the pretended device that mirrors memory."""
    return Path(hmm.DEVICE).is_char_device()


def soft_dirty() -> bool:
    """A page just written is soft-dirty wherever the bit exists."""
    address = libc.mmap(libc.PAGE_SIZE)
    try:
        libc.ffi.memmove(libc.pointer(address), b"x", 1)
        return bool(pagemap.pagemap_entries(os.getpid(), address, 1)[0] & pagemap.SOFT_DIRTY)
    finally:
        libc.munmap(address, libc.PAGE_SIZE)


def fork_failure() -> bool:
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
