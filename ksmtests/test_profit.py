# SPDX-License-Identifier: GPL-2.0
"""KSM profit: pages saved less the memory KSM's own items take (mm/ksm.c, ksm.rst).

The size of an item, sizeof(struct ksm_rmap_item), is not shown anywhere and differs between
kernels; it is found from one process's books, and must explain every other number.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mm.process import Process
from mm.region import ZEROS, Region, unique_tokens
from plugins.ksm import KsmAlone, SharedKsm
from plugins.processes import Fork, RegionFactory
from uapi import smaps
from uapi.libc import PAGE_SIZE, lib
from uapi.meminfo import read_meminfo

pytestmark = [pytest.mark.profit, pytest.mark.needs("ksm_profit", "page_frames")]

# RssAnon is exact only before 6.2 and since 6.16; in between, each CPU holds back up to 64 pages.
ENOUGH_FOR_RSS = 2048  # pages: 128 MiB where a page has 64 KiB, which not every board has
STEADY_DEADLINE = 60  # s
GIB = 1 << 30
HEIRS = 64
SMALLEST_ITEM, LARGEST_ITEM = 16, 256  # bytes; 64 and 36 at the time of writing


@dataclass(frozen=True)
class Books:
    """One mm's numbers, pages but for profit."""

    rmap_items: int
    merging_pages: int
    zero_pages: int
    profit: int  # bytes

    @classmethod
    def of(cls, process: Process) -> "Books":
        """Read them."""
        stat = process.ksm_stat()
        return cls(
            stat.rmap_items or 0,
            stat.merging_pages or 0,
            stat.zero_pages or 0,
            stat.process_profit or 0,
        )

    def item_size(self) -> int:
        """Bytes of an rmap_item that explain the profit."""
        saved = (self.merging_pages + self.zero_pages) * PAGE_SIZE
        size, rest = divmod(saved - self.profit, self.rmap_items)
        assert rest == 0, f"no size of an item explains {self}"
        assert SMALLEST_ITEM <= size <= LARGEST_ITEM, f"{size} bytes an item: {self}"
        return size


def item_size(ksm_alone: KsmAlone, region: RegionFactory) -> int:
    """The size of an item, by the loss on pages that find no equal; they are unmapped again."""
    different = region()
    different.fill(unique_tokens(different.pages))
    different.advise(lib.MADV_MERGEABLE)
    assert ksm_alone.wait_until(lambda: different.process.ksm_stat().rmap_items == different.pages)
    ksm_alone.stop()
    size = Books.of(different.process).item_size()
    ksm_alone.start()
    different.advise(lib.MADV_UNMERGEABLE)
    different.unmap()
    return size


def steadily(read: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """Counters read twice alike: with ksmd stopped, only other programs' writes change them."""
    end = time.monotonic() + STEADY_DEADLINE
    while time.monotonic() < end:
        numbers = read()
        if numbers == read():
            return numbers
    raise TimeoutError(f"KSM's counters still change after {STEADY_DEADLINE} s with ksmd stopped")


def test_profit_of_unmerged_pages_is_a_loss(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """Pages that find no equal cost an item each and save nothing."""
    different = region()
    different.fill(unique_tokens(different.pages))
    different.advise(lib.MADV_MERGEABLE)
    ksm_alone.wait_for_passes(3)
    ksm_alone.stop()
    books = Books.of(different.process)
    assert (books.merging_pages, books.zero_pages) == (0, 0)
    assert books.rmap_items == different.pages
    assert books.profit == -different.pages * books.item_size()


def test_profit_counts_merging_pages(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """Merged pages each save a page; unmerged ones beside them cost the same item."""
    size = item_size(ksm_alone, region)
    merged = ksm_alone.merge(region())
    ksm_alone.stop()
    books = Books.of(merged.process)
    assert books.merging_pages == merged.pages
    assert books.item_size() == size


@pytest.mark.needs("ksm_zero_pages")
def test_profit_counts_zero_pages(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """Each KSM-placed zero page saves a page, and once ksmd has let go of it, costs no item."""
    size = item_size(ksm_alone, region)
    zeros = ksm_alone.merge(region(fill=ZEROS))
    ksm_alone.wait_for_passes()
    ksm_alone.stop()
    books = Books.of(zeros.process)
    assert books.zero_pages == zeros.pages
    assert books.profit == zeros.pages * PAGE_SIZE + books.merging_pages * PAGE_SIZE - (
        books.rmap_items * size
    )

    zeros.write_each(unique_tokens(zeros.pages))
    assert Books.of(zeros.process).profit == books.profit - zeros.pages * PAGE_SIZE


@pytest.mark.needs("ksm_zero_pages")
def test_general_profit_is_made_of_the_systems_counters(
    ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """general_profit counts sharing and zero pages, and the same item as the processes do."""
    size = item_size(ksm_alone, region)
    settings = ksm_alone.settings
    for fill in (ZEROS, None):
        ksm_alone.start()
        ksm_alone.merge(region(fill=fill))
        ksm_alone.wait_for_passes()
        ksm_alone.stop()
        saved, items, profit = steadily(
            lambda: (
                settings.pages_sharing + settings.ksm_zero_pages,
                settings.rmap_items(),
                settings.general_profit,
            )
        )
        assert saved
        assert profit == saved * PAGE_SIZE - items * size


@pytest.mark.needs("ksm_zero_pages")
def test_unsharing_zero_pages_lowers_the_general_profit(ksm_alone: KsmAlone, zeros: Region) -> None:
    """Each zero page unshared takes a page from the system's profit."""
    ksm_alone.wait_for_passes()
    ksm_alone.stop()
    settings = ksm_alone.settings
    count, profit = steadily(lambda: (settings.ksm_zero_pages, settings.general_profit))
    zeros.write_each(unique_tokens(zeros.pages))
    count_after, profit_after = steadily(lambda: (settings.ksm_zero_pages, settings.general_profit))
    # Other programs may unshare too, but both numbers must say so.
    assert count - count_after >= zeros.pages
    assert profit - profit_after == (count - count_after) * PAGE_SIZE


def pages_for_rss() -> int:
    """Enough to tell from what CPUs hold back, and an eighth of the free memory at most."""
    return min(ENOUGH_FOR_RSS, read_meminfo()["MemAvailable"] // 8 // PAGE_SIZE)


@pytest.mark.needs("ksm_zero_pages")
def test_rss_anon_shrinks_by_the_pages_placed(ksm: SharedKsm, region: RegionFactory) -> None:
    """The process's RssAnon loses the pages freed."""
    zeros = region(pages_for_rss(), ZEROS)
    before = smaps.rss_anon(zeros.process.pid)
    ksm.merge(zeros)
    freed = before - smaps.rss_anon(zeros.process.pid)
    assert abs(freed - zeros.pages) <= zeros.pages // 4, f"{freed} of {zeros.pages} pages freed"


@pytest.mark.needs("ksm_zero_pages")  # 6.4 tells a profit, and counts no zero pages in it
@pytest.mark.upstream_bug_on("arm", "a profit of 2 GiB and more is told as a loss on 32 bits")
def test_large_profit_is_no_loss(ksm_alone: KsmAlone, region: RegionFactory, fork: Fork) -> None:
    """The zero pages of many children save the system more than a signed 32-bit number tells.

    general_profit_show() in mm/ksm.c computes in long.
    """
    zeros = ksm_alone.merge(region(2 * GIB // HEIRS // PAGE_SIZE, ZEROS))
    ksm_alone.stop()
    before = ksm_alone.settings.general_profit
    for _ in range(HEIRS):
        fork(zeros.process)
    # Less than all of it, as other programs may lose pages meanwhile.
    assert ksm_alone.settings.general_profit - before > GIB
