# SPDX-License-Identifier: GPL-2.0
"""mremap over KSM pages: what moves is unmerged first, as KSM knows pages by their address."""

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged
from mm.region import Region, unique_pattern
from plugins.ksm import KsmAlone, ReadBooks
from plugins.processes import RegionFactory
from uapi import libc
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import PageKind

pytestmark = [
    pytest.mark.sharing,
    pytest.mark.mremap,
    pytest.mark.needs("ksm_stat", "page_frames"),
]

PAGES = 12
FIXED = lib.MREMAP_MAYMOVE | lib.MREMAP_FIXED


@pytest.fixture
def pattern() -> bytes:
    """What the merged pages hold."""
    return unique_pattern()


@pytest.fixture
def other(ksm_alone: KsmAlone, region: RegionFactory, pattern: bytes) -> Region:
    """Pages of another VMA that share with the ones under test, and must not notice."""
    return ksm_alone.merge(region(2, pattern))


@pytest.fixture
def merged(
    ksm_alone: KsmAlone, books: ReadBooks, other: Region, region: RegionFactory, pattern: bytes
) -> Region:
    """KSM pages; ksmd is stopped."""
    pages = ksm_alone.merge(region(PAGES, pattern))
    ksm_alone.wait_until_merged(other)
    books().assert_has(shared=1, sharing=PAGES + 1)
    return pages


def reserve(region: Region, pages: int) -> Region:
    """A place in the region's process where so many pages fit."""
    address = region.process.call(libc.mmap, pages * PAGE_SIZE, lib.PROT_NONE)
    return Region(region.process, address, pages)


def move(source: Region, target: Region, flags: int = FIXED) -> None:
    """Move all pages there."""
    arguments = (source.address, source.length, target.length, flags, target.address)
    assert source.process.call(libc.mremap, *arguments) == target.address


def assert_counted(
    ksm_alone: KsmAlone, books: ReadBooks, region: Region, merged: int, alone: int = 0
) -> None:
    """The books of the process and of the system, once ksmd has passed by twice."""
    for _ in range(2):
        ksm_alone.pass_once()
    books().assert_has(shared=1, sharing=merged - 1, unshared=alone)
    stat = region.process.ksm_stat()
    assert (region.process.merging_pages, stat.rmap_items) == (merged, merged + alone)


def assert_moved_and_merges_again(
    ksm_alone: KsmAlone, books: ReadBooks, moved: Region, other: Region, content: bytes
) -> None:
    """Pages of the process's own at the new place, mergeable still, and merged by and by."""
    assert_unmerged(moved, content)
    assert all("mg" in vma.flags for vma in moved.vmas())
    assert_merged_into_one(other)
    ksm_alone.start()
    ksm_alone.wait_until_merged(moved)
    ksm_alone.stop()
    assert set(moved.frames()) == set(other.frames())
    assert moved.read() == content
    assert_counted(ksm_alone, books, moved, moved.pages + other.pages)


def test_moved_pages_are_unmerged_and_merge_again(
    ksm_alone: KsmAlone, books: ReadBooks, merged: Region, other: Region
) -> None:
    """A move to a given place."""
    content, target = merged.read(), reserve(merged, PAGES)
    move(merged, target)
    assert merged.vmas() == []
    assert_moved_and_merges_again(ksm_alone, books, target, other, content)


@pytest.mark.needs("mremap_dontunmap")
def test_move_that_leaves_the_mapping_behind(
    ksm_alone: KsmAlone, books: ReadBooks, merged: Region, other: Region
) -> None:
    """MREMAP_DONTUNMAP leaves memory without pages, mergeable as before."""
    content, target = merged.read(), reserve(merged, PAGES)
    move(merged, target, FIXED | lib.MREMAP_DONTUNMAP)
    assert merged.count(PageKind.NONE) == PAGES, merged.describe()
    assert all("mg" in vma.flags for vma in merged.vmas())
    assert_moved_and_merges_again(ksm_alone, books, target, other, content)
    assert not any(merged.read())


def test_part_that_moves_leaves_the_rest_merged(
    ksm_alone: KsmAlone, books: ReadBooks, merged: Region, other: Region
) -> None:
    """Pages before and behind the part stay the KSM pages they are."""
    (frame,) = set(other.frames())
    content, target = merged.read(), reserve(merged, 4)
    head, part, tail = merged.part(0, 4), merged.part(4, 4), merged.part(8, 4)
    move(part, target)
    assert_unmerged(target, content[: target.length])
    assert part.vmas() == []
    assert set(head.frames() + tail.frames()) == {frame}
    assert head.read() + tail.read() == content[: 8 * PAGE_SIZE]
    ksm_alone.start()
    ksm_alone.wait_until_merged(target)
    assert_counted(ksm_alone, books, merged, PAGES + other.pages)


def test_pages_moved_over_merged_ones_replace_them(
    ksm_alone: KsmAlone, books: ReadBooks, merged: Region, other: Region, region: RegionFactory
) -> None:
    """What was merged where a move goes to is gone."""
    source = region(PAGES)
    content = source.read()
    move(source, merged)
    assert merged.read() == content
    assert merged.count(PageKind.ANON) == PAGES, merged.describe()
    assert_counted(ksm_alone, books, merged, other.pages)


def test_shrinking_drops_the_tail_alone(
    ksm_alone: KsmAlone, books: ReadBooks, merged: Region, other: Region
) -> None:
    """A shrink in place unmaps KSM pages, and unmerges none."""
    kept, tail = merged.part(0, 5), merged.part(5, PAGES - 5)
    content = kept.read()
    merged.process.call(libc.mremap, merged.address, merged.length, kept.length)
    assert tail.vmas() == []
    assert set(kept.frames()) == set(other.frames())
    assert kept.read() == content
    assert_counted(ksm_alone, books, kept, kept.pages + other.pages)


def test_growing_in_place_unmerges_nothing(
    ksm_alone: KsmAlone, books: ReadBooks, merged: Region, other: Region
) -> None:
    """Pages added behind are mergeable too, and merge when they are filled."""
    kept, room = merged.part(0, 8), merged.part(8, PAGES - 8)
    content = merged.read()
    room.unmap()
    address = kept.process.call(libc.mremap, kept.address, kept.length, merged.length)
    assert address == kept.address
    assert set(kept.frames()) == set(other.frames())
    assert room.count(PageKind.NONE) == room.pages, merged.describe()
    room.fill(content[:16])
    ksm_alone.start()
    ksm_alone.wait_until_merged(merged)
    assert merged.read() == content
    assert_counted(ksm_alone, books, merged, PAGES + other.pages)


def test_growing_that_has_to_move_unmerges(
    ksm_alone: KsmAlone, books: ReadBooks, merged: Region, other: Region
) -> None:
    """Memory with no room behind it goes elsewhere, and its pages are its own there."""
    kept, wall = merged.part(0, PAGES - 1), merged.part(PAGES - 1, 1)
    content = kept.read()
    wall.protect(lib.PROT_READ)  # a VMA of its own, where the memory would have to grow
    address = kept.process.call(
        libc.mremap, kept.address, kept.length, 2 * kept.length, lib.MREMAP_MAYMOVE
    )
    assert address != kept.address
    moved = Region(kept.process, address, kept.pages)
    assert set(wall.frames()) == set(other.frames())
    wall.unmap()
    assert_moved_and_merges_again(ksm_alone, books, moved, other, content)


def test_moving_back_and_forth_keeps_content_and_books(
    ksm_alone: KsmAlone, books: ReadBooks, merged: Region, other: Region
) -> None:
    """A page is never found at an address where it was before."""
    content, place = merged.read(), merged
    for _ in range(3):
        target = reserve(place, PAGES)
        move(place, target)
        ksm_alone.start()
        ksm_alone.wait_until_merged(target)
        ksm_alone.stop()
        move(target, place)
        assert_unmerged(place, content)
        ksm_alone.start()
        ksm_alone.wait_until_merged(place)
        assert_counted(ksm_alone, books, place, PAGES + other.pages)
    assert place.read() == content
