# SPDX-License-Identifier: GPL-2.0
"""What a process's pages are: /proc/PID/pagemap, /proc/kpageflags, /proc/kpagecount.

Source: Documentation/admin-guide/mm/pagemap.rst. A range costs one read of pagemap, and one of
kpageflags for each run of page frames that lie close together.
"""

import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import groupby

from uapi import libc
from uapi.libc import PAGE_SIZE

ENTRY_BYTES = 8
PFN_MASK = (1 << 55) - 1
SOFT_DIRTY, EXCLUSIVE, UFFD_WP, FILE_OR_SHARED, SWAPPED, PRESENT = (
    1 << bit for bit in (55, 56, 57, 61, 62, 63)
)
KPF_DIRTY, KPF_ANON, KPF_HUGE, KPF_HWPOISON, KPF_KSM, KPF_THP, KPF_ZERO_PAGE, KPF_MLOCKED = (
    1 << bit for bit in (4, 12, 17, 19, 21, 22, 24, 33)
)
KPF_RESERVED = 1 << 32  # the kernel's since boot, or no memory (include/linux/kernel-page-flags.h)
NEARBY_FRAMES = 512  # reading a gap of this many entries is cheaper than another system call


class PageKind(Enum):
    """What a page table entry maps."""

    NONE = "none"
    ZERO = "zero page"
    KSM = "KSM page"
    ANON = "anon"
    THP = "huge anon"
    FILE = "file"
    SWAP = "swap"


@dataclass(frozen=True)
class PageState:
    """One page table entry, as the kernel tells it."""

    kind: PageKind
    pfn: int  # 0 where nothing is mapped
    exclusive: bool  # mapped here only, by the kernel's own mark
    uffd_wp: bool
    soft_dirty: bool


def _read_entries(path: str, first: int, count: int) -> "array[int]":
    fd = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(fd, count * ENTRY_BYTES, first * ENTRY_BYTES)
    finally:
        os.close(fd)
    if len(data) != count * ENTRY_BYTES:
        raise OSError(f"{path}: {len(data)} bytes for {count} entries from {first} on")
    return array("Q", data)


def pagemap_entries(pid: int, address: int, pages: int) -> "array[int]":
    """Raw pagemap entries of `pages` pages from `address` on."""
    return _read_entries(f"/proc/{pid}/pagemap", address // PAGE_SIZE, pages)


def _frame_runs(frames: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of runs that cover `frames`, near ones together."""
    first = last = -1
    for frame in sorted(set(frames)):
        if first >= 0 and frame - last <= NEARBY_FRAMES:
            last = frame
            continue
        if first >= 0:
            yield first, last - first + 1
        first = last = frame
    if first >= 0:
        yield first, last - first + 1


def _per_frame(path: str, frames: Iterable[int]) -> dict[int, int]:
    wanted = set(frames)
    values: dict[int, int] = {}
    for first, count in _frame_runs(wanted):
        entries = _read_entries(path, first, count)
        values.update(
            (frame, entries[frame - first])
            for frame in range(first, first + count)
            if frame in wanted
        )
    return values


def frame_flags(frames: Iterable[int]) -> dict[int, int]:
    """/proc/kpageflags of page frames."""
    return _per_frame("/proc/kpageflags", frames)


def frame_counts(frames: Iterable[int]) -> dict[int, int]:
    """/proc/kpagecount: how many page table entries map each page frame."""
    return _per_frame("/proc/kpagecount", frames)


@cache
def ksm_flag_is_exact() -> bool:
    """Whether KPF_KSM tells KSM pages from other anonymous pages.

    From 6.10 to 6.17 the kernel sets it on all of them: stable_page_flags() in fs/proc/page.c
    tests PAGE_MAPPING_KSM, two bits, by `&`, and one of them is PAGE_MAPPING_ANON.
    """
    address = libc.mmap(PAGE_SIZE)
    try:
        libc.ffi.memmove(libc.pointer(address), b"x", 1)
        (entry,) = pagemap_entries(os.getpid(), address, 1)
        (flags,) = frame_flags([entry & PFN_MASK]).values()
    finally:
        libc.munmap(address, PAGE_SIZE)
    return not flags & KPF_KSM


def _is_ksm(entry: int, flags: int) -> bool:
    """By the flag, or where that means little, by being mapped more than once as small pages."""
    if not flags & KPF_KSM:
        return False
    return ksm_flag_is_exact() or not (entry & EXCLUSIVE or flags & KPF_THP)


def _kind(entry: int, flags: int) -> PageKind:
    if entry & SWAPPED:
        return PageKind.SWAP
    if not entry & PRESENT:
        return PageKind.NONE
    if flags & KPF_ZERO_PAGE:
        return PageKind.ZERO
    if _is_ksm(entry, flags):
        return PageKind.KSM
    if flags & KPF_ANON:
        return PageKind.THP if flags & KPF_THP else PageKind.ANON
    return PageKind.FILE


def page_states(pid: int, address: int, pages: int) -> list[PageState]:
    """The state of each page. Raises PermissionError where the kernel hides page frames."""
    entries = pagemap_entries(pid, address, pages)
    mapped = [entry & PFN_MASK for entry in entries if entry & PRESENT]
    if mapped and not any(mapped):
        raise PermissionError("pagemap hides page frame numbers: CAP_SYS_ADMIN is needed")
    flags = frame_flags(mapped)
    states = []
    for entry in entries:
        pfn = entry & PFN_MASK if entry & PRESENT else 0
        states.append(
            PageState(
                _kind(entry, flags.get(pfn, 0)),
                pfn,
                bool(entry & EXCLUSIVE),
                bool(entry & UFFD_WP),
                bool(entry & SOFT_DIRTY),
            )
        )
    return states


def run_lengths(states: list[PageState]) -> str:
    """`0-6 zero page | 7 anon, exclusive | 8-511 zero page`."""
    parts = []
    for text, group in groupby(enumerate(states), key=lambda item: _describe(item[1])):
        indexes = [index for index, _ in group]
        span = str(indexes[0]) if len(indexes) == 1 else f"{indexes[0]}-{indexes[-1]}"
        parts.append(f"{span} {text}")
    return " | ".join(parts)


def _describe(state: PageState) -> str:
    marks = [state.kind.value]
    if state.exclusive:
        marks.append("exclusive")
    if state.uffd_wp:
        marks.append("uffd-wp")
    return ", ".join(marks)
