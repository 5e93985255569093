# SPDX-License-Identifier: GPL-2.0
"""mremap over KSM-placed zero pages: a move unshares first (mm/mremap.c), the rest does not."""

import pytest

from ksmtests.expectations import assert_unmerged, assert_zero_pages
from mm.region import Region
from plugins.ksm import KsmAlone, OpenLedger
from uapi import libc
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import PageKind

pytestmark = [
    pytest.mark.zero_pages,
    pytest.mark.mremap,
    pytest.mark.needs("ksm_zero_pages", "page_frames"),
]


def reserve(region: Region, pages: int) -> int:
    """An address in the region's process where so many pages fit."""
    return region.process.call(libc.mmap, pages * PAGE_SIZE, lib.PROT_NONE)


def test_move_unshares(ksm_alone: KsmAlone, zeros: Region, ledger: OpenLedger) -> None:
    """A moved region holds pages of its own, stays mergeable, and is placed again."""
    target = reserve(zeros, zeros.pages)
    moved = Region(zeros.process, target, zeros.pages)
    flags = lib.MREMAP_MAYMOVE | lib.MREMAP_FIXED
    with ledger(moved) as books:
        zeros.process.call(libc.mremap, zeros.address, zeros.length, zeros.length, flags, target)
    books.assert_change(zero_pages=-zeros.pages, anonymous=zeros.pages)
    assert_unmerged(moved, bytes(moved.length))
    assert "mg" in moved.vmas()[0].flags

    ksm_alone.start()
    ksm_alone.wait_until_merged(moved)
    assert_zero_pages(moved)
    assert moved.process.zero_pages == moved.pages


@pytest.mark.needs("mremap_dontunmap")
def test_move_with_dontunmap_unshares(zeros: Region, ledger: OpenLedger) -> None:
    """MREMAP_DONTUNMAP leaves an empty region behind, and nothing counted."""
    target = reserve(zeros, zeros.pages)
    moved = Region(zeros.process, target, zeros.pages)
    flags = lib.MREMAP_MAYMOVE | lib.MREMAP_DONTUNMAP | lib.MREMAP_FIXED
    with ledger(moved) as books:
        zeros.process.call(libc.mremap, zeros.address, zeros.length, zeros.length, flags, target)
    books.assert_change(zero_pages=-zeros.pages, anonymous=zeros.pages)
    assert_unmerged(moved, bytes(moved.length))
    assert zeros.count(PageKind.NONE) == zeros.pages, zeros.describe()


def test_growing_in_place_keeps_pages_shared(zeros: Region, ledger: OpenLedger) -> None:
    """Pages added behind leave the placed ones as they are."""
    placed, room = zeros.halves()
    room.unmap()
    with ledger(zeros) as books:
        address = placed.process.call(libc.mremap, placed.address, placed.length, zeros.length)
    assert address == placed.address
    books.assert_change(zero_pages=0, anonymous=0)
    assert_zero_pages(placed)
    assert room.count(PageKind.NONE) == room.pages, zeros.describe()


def test_shrinking_uncounts_the_tail(zeros: Region, ledger: OpenLedger) -> None:
    """A shrink unmaps the tail alone."""
    kept, tail = zeros.halves()
    with ledger(zeros) as books:
        zeros.process.call(libc.mremap, zeros.address, zeros.length, kept.length)
    books.assert_change(zero_pages=-tail.pages, anonymous=0)
    assert_zero_pages(kept)
    assert tail.vmas() == []
