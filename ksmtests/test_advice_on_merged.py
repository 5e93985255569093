# SPDX-License-Identifier: GPL-2.0
"""Advice other than KSM's own, and locks and guards, on memory whose pages are merged."""

import errno
import signal
from collections.abc import Callable
from typing import TypeAlias

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged, status_of
from mm import served
from mm.process import Process
from mm.region import Region, unique_pattern, unique_tokens
from plugins.ksm import KsmAlone, ReadBooks
from plugins.processes import RegionFactory
from uapi import libc
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import KPF_DIRTY, KPF_KSM, KPF_MLOCKED, PageKind, frame_counts, frame_flags

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
    content, frames = theirs.read(), theirs.frames()
    ours.part(2, 3).advise(lib.MADV_DONTNEED)
    assert [state.kind for state in ours.states()] == (
        [PageKind.KSM] * 2 + [PageKind.NONE] * 3 + [PageKind.KSM] * 3
    )
    assert theirs.read() == content
    assert theirs.frames() == frames
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


@pytest.mark.parametrize("advice", ["MADV_DONTNEED", "munmap"])
def test_what_all_sharers_give_up_is_free(
    advice: str, alike: Alike, ksm_alone: KsmAlone, books: ReadBooks, region: RegionFactory
) -> None:
    """KSM holds no page for itself: the books lose it when ksmd passes by."""
    keeps_ksmd_awake = region(2)
    keeps_ksmd_awake.advise(lib.MADV_MERGEABLE)
    ours, theirs = alike(6)
    ksm_alone.start()
    ksm_alone.wait_until_merged(keeps_ksmd_awake)
    ksm_alone.stop()
    frames = ours.frames()
    for mapped in (ours, theirs):
        mapped.unmap() if advice == "munmap" else mapped.advise(lib.MADV_DONTNEED)
    assert not any(flags & KPF_KSM for flags in frame_flags(frames).values())
    for _ in range(2):
        ksm_alone.pass_once()
    books().assert_has(shared=1, sharing=1)
    assert ours.process.merging_pages == theirs.process.ksm_stat().rmap_items == 0


def becomes_unlocked(frame: int, ksm_alone: KsmAlone) -> bool:
    """Whether no lock is left once ksmd has had each CPU do what it had put off (mm/mlock.c)."""
    ksm_alone.start()
    return ksm_alone.wait_until(lambda: not frame_flags([frame])[frame] & KPF_MLOCKED)


def test_locked_pages_merge_and_stay_locked(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """A KSM page of mlocked memory is kept from reclaim, until nobody locks it any more."""
    pattern = unique_pattern()
    other = ksm_alone.merge(region(2, pattern))
    (frame,) = set(other.frames())
    assert not frame_flags([frame])[frame] & KPF_MLOCKED
    locked = region(4, pattern)
    locked.process.call(libc.mlock, locked.address, locked.length)
    before = locked.vmas()[0].flags
    assert "lo" in before
    ksm_alone.merge(locked)
    ksm_alone.stop()
    assert set(locked.frames()) == {frame}
    assert locked.vmas()[0].flags == before | {"mg"}
    assert frame_flags([frame])[frame] & KPF_MLOCKED

    locked.write(1, b"x")
    copy = locked.frames()[1]
    assert copy != frame
    assert frame_flags([copy])[copy] & KPF_MLOCKED
    content = locked.read()
    locked.process.call(libc.munlock, locked.address, locked.length)
    assert becomes_unlocked(frame, ksm_alone)
    assert locked.read() == content


def test_locking_merged_pages_unmerges_them(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """mlock(2) makes writable memory the process's own; others keep theirs, unlocked."""
    merged = ksm_alone.merge(region(8))
    ksm_alone.stop()
    locked, others = merged.halves()
    content = locked.read()
    locked.process.call(libc.mlock, locked.address, locked.length)
    assert_unmerged(locked, content)
    assert_merged_into_one(others)
    assert all(flags & KPF_MLOCKED for flags in frame_flags(locked.frames()).values())
    locked.advise(lib.MADV_UNMERGEABLE)  # or they merge again, and lock what all share
    (frame,) = set(others.frames())
    assert becomes_unlocked(frame, ksm_alone)


@pytest.mark.needs("sealing")
def test_sealed_memory_merges_and_cannot_be_unmapped(
    ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """mseal(2) forbids what would lose content; merging loses none, before the seal or after."""
    early, late = ksm_alone.merge(region(4)), region(4)
    contents = early.read(), late.read()
    for sealed in (early, late):
        sealed.process.call(libc.mseal, sealed.address, sealed.length)
    ksm_alone.merge(late)
    for sealed, content in zip((early, late), contents, strict=True):
        assert_merged_into_one(sealed)
        with pytest.raises(OSError) as refused:
            sealed.unmap()
        assert refused.value.errno == errno.EPERM
        sealed.write(0, content[:1])
        sealed.advise(lib.MADV_UNMERGEABLE)
        assert_unmerged(sealed, content)


@pytest.mark.needs("guard_advice")
def test_guards_among_merged_pages_hold(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """Neither passes of ksmd nor unmerging remove a guard, and pages beside it stay merged."""
    merged = ksm_alone.merge(region(9))
    content = merged.read(0, 1)
    guarded = merged.part(3, 3)
    guarded.advise(lib.MADV_GUARD_INSTALL)
    neighbours = (merged.part(0, 3), merged.part(6, 3))
    touch = (served.load, guarded.address + PAGE_SIZE, 1)
    ksm_alone.wait_for_passes(3)
    assert status_of(merged.process, *touch) == -signal.SIGSEGV
    assert all(part.count(PageKind.KSM) == 3 for part in neighbours), merged.describe()
    merged.advise(lib.MADV_UNMERGEABLE)
    assert status_of(merged.process, *touch) == -signal.SIGSEGV
    for part in neighbours:
        assert_unmerged(part, content * 3)
    merged.advise(lib.MADV_MERGEABLE)
    ksm_alone.wait_until_merged(neighbours[0])
    guarded.advise(lib.MADV_GUARD_REMOVE)
    assert not any(guarded.read())
