# SPDX-License-Identifier: GPL-2.0
"""Advice other than KSM's own, and locks and guards, on memory whose pages are merged."""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from mm import served
from mm.process import Process
from mm.region import Region, unique_tokens
from plugins.ksm import KsmAlone, ReadBooks
from plugins.processes import RegionFactory
from uapi.libc import lib
from uapi.pagemap import KPF_DIRTY, PageKind, frame_counts, frame_flags

pytestmark = [pytest.mark.sharing, pytest.mark.needs("ksm_stat", "page_frames")]

Alike: TypeAlias = Callable[[int], tuple[Region, Region]]

FREE, RECLAIM = pytest.mark.needs("free_advice"), pytest.mark.needs("reclaim_advice")


@pytest.fixture
def alike(
    ksm_alone: KsmAlone, region: RegionFactory, start_process: Callable[[], Process]
) -> Alike:
    """Two processes with the same pages, each of another content, merged; ksmd is stopped."""

    def merge(pages: int) -> tuple[Region, Region]:
        contents = unique_tokens(pages)
        ours, theirs = (region(pages, process=start_process()) for _ in range(2))
        for mapped in (ours, theirs):
            mapped.fill(contents)
            mapped.advise(lib.MADV_MERGEABLE)
        for mapped in (ours, theirs):
            ksm_alone.wait_until_merged(mapped)
        assert ours.frames() == theirs.frames()
        ksm_alone.stop()
        return ours, theirs

    return merge


def test_discarded_pages_are_gone_for_one_alone(
    alike: Alike, ksm_alone: KsmAlone, books: ReadBooks
) -> None:
    """MADV_DONTNEED takes the pages from who asked; the books follow with the next pass."""
    ours, theirs = alike(8)
    content = theirs.read()
    ours.part(2, 3).advise(lib.MADV_DONTNEED)
    assert [state.kind for state in ours.states()] == (
        [PageKind.KSM] * 2 + [PageKind.NONE] * 3 + [PageKind.KSM] * 3
    )
    assert theirs.read() == content
    assert theirs.count(PageKind.KSM) == theirs.pages
    assert set(frame_counts(theirs.part(2, 3).frames()).values()) == {1}
    books().assert_has(shared=8, sharing=8)
    ksm_alone.pass_once()
    ksm_alone.pass_once()
    books().assert_has(shared=8, sharing=5)
    assert ours.process.merging_pages == ours.process.ksm_stat().rmap_items == 5
    assert theirs.process.merging_pages == 8
    assert not any(ours.part(2, 3).read())


@pytest.mark.parametrize(
    "advice",
    [
        pytest.param("MADV_FREE", marks=FREE),
        pytest.param("MADV_COLD", marks=RECLAIM),
        pytest.param("MADV_PAGEOUT", marks=RECLAIM),
    ],
)
def test_advice_to_reclaim_leaves_what_others_share(advice: str, alike: Alike) -> None:
    """A page that another process maps too is neither freed nor aged nor paged out."""
    ours, theirs = alike(8)
    content = theirs.read()
    ours.advise(getattr(lib, advice))
    for mapped in (ours, theirs):
        assert mapped.count(PageKind.KSM) == mapped.pages, mapped.describe()
        assert mapped.read() == content
    assert ours.frames() == theirs.frames()
    flags = frame_flags(ours.frames())
    assert all(flag & KPF_DIRTY for flag in flags.values())


@FREE
@RECLAIM
@pytest.mark.upstream_bug("MADV_FREE of a KSM page frees the pages that merge with it later")
def test_page_freed_by_its_last_sharer_keeps_what_merges_with_it_later(
    alike: Alike, ksm_alone: KsmAlone, region: RegionFactory, start_process: Callable[[], Process]
) -> None:
    """MADV_FREE is for the data of who asks for it: those of others are not to be dropped.

    madvise_free_pte_range() in mm/madvise.c lets a KSM page be freed that is mapped once, and
    replace_page() in mm/ksm.c maps a clean PTE to it for a page that was dirty.
    """
    freeing, gone = alike(16)
    gone.unmap()
    content = freeing.read()
    freeing.advise(lib.MADV_FREE)
    late = region(16, process=start_process())
    late.process.call(served.store, late.address, content)
    ksm_alone.start()
    ksm_alone.merge(late)
    ksm_alone.stop()
    freeing.unmap()
    late.advise(lib.MADV_PAGEOUT)
    assert late.read() == content


def test_ksm_page_is_dirty(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """Nothing but the page has the content: reclaim must not drop it for a clean one."""
    merged = ksm_alone.merge(region())
    (flags,) = frame_flags(merged.frames()).values()
    assert flags & KPF_DIRTY
