# SPDX-License-Identifier: GPL-2.0
"""Which pages KSM places on the zero page, and which zero pages are none of KSM's."""

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged, assert_zero_pages
from mm.region import ZEROS, Region, unique_tokens
from plugins.ksm import KsmAlone, OpenLedger, SharedKsm
from plugins.processes import RegionFactory
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import PageKind

pytestmark = [pytest.mark.zero_pages, pytest.mark.needs("ksm_zero_pages", "page_frames")]


def refill_unseen(ksm_alone: KsmAlone, region: Region) -> None:
    """Fill with zeros while ksmd stands still.

    A page that becomes zero after ksmd has taken its checksum, but before it looks for an equal
    page, merges with another such page: cmp_and_merge_page() in mm/ksm.c.
    """
    ksm_alone.stop()
    region.fill(ZEROS)
    ksm_alone.start()


def test_zero_pages_are_placed_and_counted(
    ksm_alone: KsmAlone, region: RegionFactory, ledger: OpenLedger
) -> None:
    """With use_zero_pages=1 every page of zeros is freed, counted, and no KSM page."""
    zeros = region(fill=ZEROS)
    with ledger(zeros) as books:
        ksm_alone.start()
        ksm_alone.merge(zeros)
        ksm_alone.stop()
    books.assert_change(zero_pages=zeros.pages, anonymous=-zeros.pages)
    assert_zero_pages(zeros)
    assert zeros.process.merging_pages == 0


@pytest.mark.upstream_bug_on(
    "arm",
    "with LPAE, pages that were just written merge at the second attempt",
    symbol="CONFIG_ARM_LPAE",
)
def test_fresh_zeros_are_placed_at_the_first_attempt(
    ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """Zeros just written are not made KSM pages of first.

    LPAE's set_pte_ext stores another PTE than write_protect_page() remembers for pte_same().
    """
    ksm_alone.stop()
    zeros = region(fill=ZEROS)
    zeros.advise(lib.MADV_MERGEABLE)
    ksm_alone.start()
    assert ksm_alone.wait_until(lambda: zeros.count(PageKind.ANON) == 0, passes=30)
    assert_zero_pages(zeros)
    assert zeros.process.zero_pages == zeros.pages
    assert zeros.process.merging_pages == 0


def test_zeros_share_a_ksm_page_without_use_zero_pages(
    ksm_alone: KsmAlone, region: RegionFactory, ledger: OpenLedger
) -> None:
    """With use_zero_pages=0 pages of zeros merge like any other content."""
    ksm_alone.settings.use_zero_pages = False
    zeros = region(fill=ZEROS)
    with ledger(zeros) as books:
        ksm_alone.start()
        ksm_alone.merge(zeros)
        ksm_alone.stop()
    books.assert_change(zero_pages=0, anonymous=0)
    assert_merged_into_one(zeros)
    assert zeros.process.merging_pages == zeros.pages
    assert not any(zeros.read())


def test_switching_use_zero_pages_off_keeps_what_is_placed(
    ksm_alone: KsmAlone, zeros: Region, ledger: OpenLedger
) -> None:
    """use_zero_pages=0 moves nothing; placed pages are still counted and still unmerge."""
    with ledger(zeros) as books:
        ksm_alone.settings.use_zero_pages = False
        ksm_alone.start()
        ksm_alone.wait_for_passes()
        ksm_alone.stop()
    books.assert_change(zero_pages=0, anonymous=0)
    assert_zero_pages(zeros)

    with ledger(zeros) as books:
        zeros.advise(lib.MADV_UNMERGEABLE)
    books.assert_change(zero_pages=-zeros.pages, anonymous=zeros.pages)
    assert_unmerged(zeros, bytes(zeros.length))


def test_switching_use_zero_pages_on_leaves_ksm_pages(
    ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """Zeros merged to a KSM page stay there; only pages merged from now on are placed."""
    ksm_alone.settings.use_zero_pages = False
    earlier = ksm_alone.merge(region(fill=ZEROS))
    ksm_alone.settings.use_zero_pages = True
    later = ksm_alone.merge(region(fill=ZEROS))
    ksm_alone.wait_for_passes()

    assert earlier.count(PageKind.KSM) == earlier.pages, earlier.describe()
    assert_zero_pages(later)
    assert earlier.process.zero_pages == later.pages
    assert earlier.process.merging_pages == earlier.pages


def test_only_pages_of_zeros_are_placed(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """A page with one byte that is not zero, first or last, is none.

    Alone, as such pages are the same in every run and would merge with another run's.
    """
    mixed = region(fill=ZEROS)
    mixed.write(page=3, data=b"\x01")
    mixed.write(page=5, data=bytes(PAGE_SIZE - 1) + b"\x01")
    placed = mixed.pages - 2
    ksm_alone.place(mixed, placed)
    ksm_alone.wait_for_passes()

    kinds = [state.kind for state in mixed.states()]
    assert kinds[3] is kinds[5] is PageKind.ANON, mixed.describe()
    assert kinds.count(PageKind.ZERO) == placed, mixed.describe()
    assert mixed.process.zero_pages == placed
    assert mixed.read(3, 1)[0] == mixed.read(5, 1)[-1] == 1


def test_ordinary_zero_pages_are_neither_counted_nor_unshared(
    ksm_alone: KsmAlone, region: RegionFactory, ledger: OpenLedger
) -> None:
    """A read fault maps the zero page too; KSM did not place it, so MADV_UNMERGEABLE leaves it."""
    mixed = region(fill=ZEROS)
    ordinary, placed = mixed.halves()
    ordinary.advise(lib.MADV_DONTNEED)
    assert not any(ordinary.read())
    assert_zero_pages(ordinary)

    with ledger(mixed) as books:
        ksm_alone.start()
        mixed.advise(lib.MADV_MERGEABLE)
        ksm_alone.wait_until_merged(placed)
        ksm_alone.wait_for_passes()
        ksm_alone.stop()
    books.assert_change(zero_pages=placed.pages, anonymous=-placed.pages)

    with ledger(mixed) as books:
        mixed.advise(lib.MADV_UNMERGEABLE)
    books.assert_change(zero_pages=-placed.pages, anonymous=placed.pages)
    assert_zero_pages(ordinary)
    assert_unmerged(placed, bytes(placed.length))


def test_pages_that_become_zero_are_placed(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """KSM pages overwritten with zeros leave the KSM page and are placed."""
    changing = ksm_alone.merge(region())
    assert_merged_into_one(changing)
    refill_unseen(ksm_alone, changing)
    ksm_alone.wait_until_merged(changing)
    assert changing.process.zero_pages == changing.pages
    assert_zero_pages(changing)
    assert ksm_alone.wait_until(lambda: changing.process.merging_pages == 0)


def test_placed_pages_cost_no_rmap_items(ksm: SharedKsm, region: RegionFactory) -> None:
    """ksmd forgets a page it has placed: ksm_rmap_items is zero after a pass."""
    placed = ksm.merge(region(fill=ZEROS))
    assert ksm.wait_until(lambda: placed.process.ksm_stat().rmap_items == 0)
    assert placed.process.zero_pages == placed.pages


@pytest.mark.needs("smaps_ksm")
def test_smaps_shows_placed_pages_as_nothing(ksm: SharedKsm, region: RegionFactory) -> None:
    """The zero page is neither resident, nor anonymous, nor a KSM page; a KSM page is all three."""
    whole = region(34, ZEROS)
    for page in (0, 33):  # beside other memory, its VMA may be one with that
        whole.part(page, 1).unmap()
    zeros = whole.part(1, 32)
    assert zeros.smaps_pages("Rss") == zeros.smaps_pages("Anonymous") == zeros.pages
    ksm.merge(zeros)
    assert [zeros.smaps_pages(name) for name in ("Rss", "Anonymous", "KSM")] == [0, 0, 0]

    merged = ksm.merge(region())
    assert [merged.smaps_pages(name) for name in ("Rss", "Anonymous", "KSM")] == [merged.pages] * 3


def test_written_pages_are_placed_again(ksm_alone: KsmAlone, zeros: Region) -> None:
    """A page goes back and forth between the zero page and memory of its own."""
    for _ in range(3):
        zeros.write_each(unique_tokens(zeros.pages))
        assert zeros.process.zero_pages == 0
        assert zeros.count(PageKind.ANON) == zeros.pages, zeros.describe()
        refill_unseen(ksm_alone, zeros)
        ksm_alone.wait_until_merged(zeros)
        assert zeros.process.zero_pages == zeros.pages
        assert_zero_pages(zeros)
