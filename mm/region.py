# SPDX-License-Identifier: GPL-2.0
"""A range of pages in a process: filled, advised, observed. Counts and indexes are in pages."""

import itertools
import os
import struct
from collections.abc import Sequence

from mm import served
from mm.process import Process
from uapi import libc, pagemap, smaps
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import PageKind, PageState
from uapi.thp import Thp

NO_TEXT = 0xA5  # no character begins with this byte, in ASCII or UTF-8

_serial = itertools.count(1)


def unique_pattern() -> bytes:
    """16 bytes no other region of any process is filled with; no two begin with the same four.

    None begins like a text, so that any text written over it is a change.
    """
    return struct.pack("<II", next(_serial) << 8 | NO_TEXT, os.getpid()) + os.urandom(8)


ZEROS = bytes(8)


def unique_tokens(pages: int) -> list[bytes]:
    """A pattern for each page, alike in none: ksmd leaves pages that hold them alone."""
    return [unique_pattern() for _ in range(pages)]


class Region:
    """`pages` pages at `address` in `process`."""

    def __init__(self, process: Process, address: int, pages: int) -> None:
        self.process = process
        self.address = address
        self.pages = pages

    @classmethod
    def map(
        cls,
        process: Process,
        pages: int,
        *,
        prot: int = lib.PROT_READ | lib.PROT_WRITE,
        address: int = 0,
    ) -> "Region":
        """Map private anonymous memory kept from huge pages, near `address` if that is given."""
        flags = lib.MAP_PRIVATE | lib.MAP_ANONYMOUS
        region = cls(
            process, process.call(libc.mmap, pages * PAGE_SIZE, prot, flags, address), pages
        )
        region.keep_from_huge_pages()
        return region

    @classmethod
    def map_aligned(
        cls, process: Process, pages: int, prot: int = lib.PROT_READ | lib.PROT_WRITE
    ) -> "Region":
        """Map memory whose address is a multiple of its size, as a huge page needs."""
        length = pages * PAGE_SIZE
        start = process.call(libc.mmap, 2 * length, prot)
        address = -(-start // length) * length
        if address > start:
            process.call(libc.munmap, start, address - start)
        if start + length > address:
            process.call(libc.munmap, address + length, start + length - address)
        return cls(process, address, pages)

    def keep_from_huge_pages(self) -> None:
        """MADV_NOHUGEPAGE, which a kernel without THP refuses with EINVAL."""
        if Thp.default_root.is_dir():
            self.advise(lib.MADV_NOHUGEPAGE)

    @property
    def length(self) -> int:
        """Bytes."""
        return self.pages * PAGE_SIZE

    def addresses(self) -> list[int]:
        """The address of each page."""
        return [self.address + page * PAGE_SIZE for page in range(self.pages)]

    def part(self, first: int, pages: int) -> "Region":
        """`pages` pages from page `first` on, as a region of their own."""
        if not 0 <= first <= first + pages <= self.pages:
            raise ValueError(f"pages {first}..{first + pages} are not within 0..{self.pages}")
        return Region(self.process, self.address + first * PAGE_SIZE, pages)

    def halves(self) -> tuple["Region", "Region"]:
        """The first and the second half."""
        half = self.pages // 2
        return self.part(0, half), self.part(half, self.pages - half)

    def seen_from(self, process: Process) -> "Region":
        """The same addresses in another process, a child's copy for instance."""
        return Region(process, self.address, self.pages)

    def advise(self, advice: int) -> None:
        """madvise(2) over the whole region."""
        self.process.call(libc.madvise, self.address, self.length, advice)

    def protect(self, prot: int) -> None:
        """mprotect(2) over the whole region."""
        self.process.call(libc.mprotect, self.address, self.length, prot)

    def unmap(self) -> None:
        """munmap(2)."""
        self.process.call(libc.munmap, self.address, self.length)

    def fill(self, patterns: Sequence[bytes] | bytes) -> None:
        """Fill every page with one pattern, or each page with its own."""
        if isinstance(patterns, bytes):
            patterns = [patterns] * self.pages
        self.process.call(served.fill, self.address, list(patterns))

    def write(self, page: int, data: bytes = b"x", offset: int = 0) -> None:
        """Write to a page, from byte `offset` on, with a page fault of the process's own."""
        self.process.call(served.store, self.address + page * PAGE_SIZE + offset, data)

    def write_each(self, tokens: Sequence[bytes]) -> None:
        """Write to the start of every page, its own token to each."""
        if len(tokens) != self.pages:
            raise ValueError(f"{len(tokens)} tokens for {self.pages} pages")
        self.process.call(served.store_each, self.address, list(tokens))

    def read(self, page: int = 0, pages: int | None = None) -> bytes:
        """The content of pages, read by the process itself; of the whole region by default."""
        count = self.pages - page if pages is None else pages
        return self.process.call(served.load, self.address + page * PAGE_SIZE, count * PAGE_SIZE)

    def states(self) -> list[PageState]:
        """What each page is."""
        return pagemap.page_states(self.process.pid, self.address, self.pages)

    def frames(self) -> list[int]:
        """The page frame of each page, 0 where none is mapped."""
        return [state.pfn for state in self.states()]

    def count(self, kind: PageKind) -> int:
        """How many pages are of that kind."""
        return sum(state.kind is kind for state in self.states())

    def smaps_pages(self, name: str) -> int:
        """One smaps line summed over the VMAs that lie in the region, in pages."""
        return smaps.total_pages(self.vmas(), name)

    def vmas(self) -> list[smaps.Vma]:
        """The VMAs the region touches."""
        return smaps.vmas_in(self.process.pid, self.address, self.length)

    def describe(self) -> str:
        """Page states, run-length coded."""
        return pagemap.run_lengths(self.states())
