# SPDX-License-Identifier: GPL-2.0
"""PAGEMAP_SCAN: find pages of certain kinds (Documentation/admin-guide/mm/pagemap.rst; 6.7)."""

import fcntl
import os
import struct
from dataclasses import dataclass

from uapi.libc import PAGE_SIZE, ffi

PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
PAGE_IS_PRESENT, PAGE_IS_PFNZERO = 1 << 3, 1 << 5
_ARGUMENT = struct.Struct("12Q")  # struct pm_scan_arg
_REGION = struct.Struct("3Q")  # struct page_region


@dataclass(frozen=True)
class Run:
    """Adjacent pages of one kind: indexes from where the scan began, and how many."""

    first: int
    pages: int


def runs_of(pid: int, address: int, pages: int, category: int) -> list[Run]:
    """The pages of a category. Raises OSError (ENOTTY before 6.7)."""
    end = address + pages * PAGE_SIZE
    vector = ffi.new("char[]", pages * _REGION.size)
    place = int(ffi.cast("uintptr_t", vector))
    size, flags, walk_end, most, inverted = _ARGUMENT.size, 0, 0, 0, 0
    argument = bytearray(
        _ARGUMENT.pack(
            *(size, flags, address, end, walk_end, place, pages, most, inverted),
            *(category, 0, category),  # required, any of, told
        )
    )
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        found = fcntl.ioctl(fd, PAGEMAP_SCAN, argument)
    finally:
        os.close(fd)
    regions = _REGION.iter_unpack(ffi.buffer(vector)[: found * _REGION.size])
    return [
        Run((first - address) // PAGE_SIZE, (last - first) // PAGE_SIZE)
        for first, last, _ in regions
    ]
