# SPDX-License-Identifier: GPL-2.0
"""Three processes, whose pages are alike and are not, step by step: LTP's ksm01 to the page.

What is merged, by the system's books, by each process's and by the page tables; and no byte of it
changes.
"""

from collections.abc import Callable

import pytest

from ksmtests.expectations import assert_unmerged
from mm.process import Process
from mm.region import Region, unique_pattern
from plugins.ksm import EnterFirst, KsmAlone, ReadBooks
from plugins.processes import RegionFactory
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import PageKind, frame_counts

pytestmark = [pytest.mark.sharing, pytest.mark.needs("ksm_stat", "page_frames")]

PAGES = 16  # of each process
TOTAL = 3 * PAGES
A, B, C, D = (unique_pattern() for _ in range(4))


class Table:
    """Three processes with a region each, and what they must hold."""

    def __init__(self, regions: list[Region], ksm_alone: KsmAlone, books: ReadBooks) -> None:
        self.regions = regions
        self._ksm = ksm_alone
        self._books = books
        self.contents = [region.read() for region in regions]

    def fill(self, *patterns: bytes, last_byte: int | None = None) -> None:
        """Give each region its pattern; the last byte of the second may be another."""
        self._ksm.stop()
        for region, pattern in zip(self.regions, patterns, strict=True):
            region.fill(pattern)
        self.contents = [pattern * (PAGES * PAGE_SIZE // len(pattern)) for pattern in patterns]
        if last_byte is not None:
            self.regions[1].write(PAGES - 1, bytes([last_byte]), PAGE_SIZE - 1)
            self.contents[1] = self.contents[1][:-1] + bytes([last_byte])

    def settle(self, *merged: Region) -> None:
        """Have ksmd merge these, look at everything, and forget what is gone."""
        self._ksm.start()
        for region in merged or self.regions:
            self._ksm.wait_until_merged(region)
        self._ksm.wait_for_passes()

    def assert_holds(self, *, shared: int, sharing: int, unshared: int = 0) -> None:
        """The books, and every byte."""
        self._books().assert_has(shared=shared, sharing=sharing, unshared=unshared)
        assert [region.read() for region in self.regions] == self.contents

    def frames(self) -> list[set[int]]:
        """The page frames of each region."""
        return [set(region.frames()) for region in self.regions]


@pytest.fixture
def table(
    ksm_alone: KsmAlone,
    books: ReadBooks,
    region: RegionFactory,
    start_process: Callable[[], Process],
    enter_first: EnterFirst,
) -> Table:
    """Three mergeable regions of three processes, of which the first is unlike the others."""
    regions = [region(PAGES, fill, process=start_process()) for fill in (C, A, A)]
    enter_first(*(mapped.process for mapped in regions))
    for mapped in regions:
        mapped.advise(lib.MADV_MERGEABLE)
    return Table(regions, ksm_alone, books)


def test_two_processes_alike_and_one_not(table: Table) -> None:
    """C A A: two KSM pages, and the rest shares them."""
    table.settle()
    table.assert_holds(shared=2, sharing=TOTAL - 2)
    first, second, third = table.frames()
    assert second == third
    assert len(first | second) == 2
    assert [region.process.merging_pages for region in table.regions] == [PAGES] * 3
    assert [region.process.ksm_stat().rmap_items for region in table.regions] == [PAGES] * 3


def test_three_processes_that_differ(table: Table) -> None:
    """C B A after C A A: a page for each."""
    table.settle()
    table.fill(C, B, A)
    table.settle()
    table.assert_holds(shared=3, sharing=TOTAL - 3)
    assert len(set().union(*table.frames())) == 3


def test_all_alike(table: Table) -> None:
    """D D D after C A A: one page, mapped by all."""
    table.settle()
    table.fill(D, D, D)
    table.settle()
    table.assert_holds(shared=1, sharing=TOTAL - 1)
    (frame,) = set().union(*table.frames())
    assert frame_counts([frame]) == {frame: TOTAL}


def test_one_byte_makes_one_page_stay_alone(table: Table) -> None:
    """D D' D, one last byte apart: its page shares nothing, all others share one."""
    table.settle()
    table.fill(D, D, D)
    table.settle()
    table.fill(D, D, D, last_byte=D[-1] ^ 1)
    first, second, third = table.regions
    table.settle(first, second.part(0, PAGES - 1), third)
    table.assert_holds(shared=1, sharing=TOTAL - 2, unshared=1)
    assert_unmerged(second.part(PAGES - 1, 1), table.contents[1][-PAGE_SIZE:])
    assert second.process.merging_pages == PAGES - 1


def test_run_2_gives_everything_back(table: Table, ksm_alone: KsmAlone) -> None:
    """Nothing is shared after run=2, and nothing after the run=0 that follows."""
    table.settle()
    table.fill(D, D, D)
    table.settle()
    for stop in (ksm_alone.unmerge_all, ksm_alone.stop):
        stop()
        table.assert_holds(shared=0, sharing=0)
        for region, content in zip(table.regions, table.contents, strict=True):
            assert_unmerged(region, content)
            assert region.process.merging_pages == 0
            assert region.process.ksm_stat().rmap_items == 0


def test_run_0_keeps_what_is_merged(table: Table, ksm_alone: KsmAlone) -> None:
    """Stopping ksmd changes no page, and new equal pages stay apart."""
    table.settle()
    table.assert_holds(shared=2, sharing=TOTAL - 2)
    before = table.frames()
    ksm_alone.stop()
    table.regions[0].fill(A)
    table.contents[0] = table.contents[1]
    assert table.frames()[1:] == before[1:]
    assert table.regions[0].count(PageKind.ANON) == PAGES
    table.settle()
    table.assert_holds(shared=1, sharing=TOTAL - 1)
