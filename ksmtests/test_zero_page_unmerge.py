# SPDX-License-Identifier: GPL-2.0
"""Every way to unshare KSM-placed zero pages takes them out of both counts, and only them."""

import pytest

from ksmtests.copies import copies_of_each, writes
from ksmtests.expectations import (
    assert_not_mergeable,
    assert_unmerged,
    assert_zero_pages,
    overwritten,
)
from mm.process import Process
from mm.region import ZEROS, Region, unique_tokens
from plugins.ksm import KsmAlone, OpenLedger
from plugins.processes import RegionFactory
from plugins.taskstats import CopyCount
from uapi import libc
from uapi.libc import PAGE_SIZE, lib

MOST_PLACINGS = 20  # of the same pages, until a clock that may stand still saw all copies

pytestmark = [pytest.mark.zero_pages, pytest.mark.needs("ksm_zero_pages", "page_frames")]


def test_unmergeable_unshares(zeros: Region, ledger: OpenLedger) -> None:
    """MADV_UNMERGEABLE over a part unshares that part alone."""
    unmerged, kept = zeros.halves()
    with ledger(zeros) as books:
        unmerged.advise(lib.MADV_UNMERGEABLE)
    books.assert_change(zero_pages=-unmerged.pages, anonymous=unmerged.pages)
    assert_unmerged(unmerged, bytes(unmerged.length))
    assert_not_mergeable(unmerged)
    assert_zero_pages(kept)


def test_write_fault_unshares(zeros: Region, ledger: OpenLedger) -> None:
    """A write unshares its page alone; the page holds what was written and zeros."""
    with ledger(zeros) as books:
        zeros.write(page=7, data=b"x")
    books.assert_change(zero_pages=-1, anonymous=1)
    assert_unmerged(zeros.part(7, 1), b"x" + bytes(PAGE_SIZE - 1))
    assert_zero_pages(zeros.part(0, 7))
    assert_zero_pages(zeros.part(8, zeros.pages - 8))


def test_read_leaves_pages_shared(zeros: Region, ledger: OpenLedger) -> None:
    """Reading unshares nothing."""
    with ledger(zeros) as books:
        assert not any(zeros.read())
    books.assert_change(zero_pages=0, anonymous=0)
    assert_zero_pages(zeros)


def accounted_copies(copy_count: CopyCount, region: Region) -> int:
    """How many copies delay accounting sees while each page of the region is written."""
    before = copy_count(region.process)
    region.write_each(unique_tokens(region.pages))
    return copy_count(region.process) - before


@pytest.mark.needs("copy_on_write_accounting")
def test_write_fault_is_accounted_as_a_copy(
    ksm_alone: KsmAlone, zeros: Region, copy_count: CopyCount
) -> None:
    """Delay accounting sees a copy on write for each zero page written, and none the next time.

    What takes no time is not counted (kernel/delayacct.c), and the scheduler's clock, where the TSC
    is not stable, may stand still until the next tick: then the pages are placed once more.
    """
    for _ in range(MOST_PLACINGS):
        copies, again = (accounted_copies(copy_count, zeros) for _ in range(2))
        # The interpreter copies pages of its own now and then: never as many as the region has.
        assert again < zeros.pages
        if copies >= zeros.pages:
            break
        zeros.fill(ZEROS)
        ksm_alone.wait_until_merged(zeros)
    assert copies >= zeros.pages, f"the last of {MOST_PLACINGS} times"


@pytest.mark.needs("vmstat_cow_ksm")
def test_unsharing_zero_pages_is_no_ksm_copy(zeros: Region, ksm_alone: KsmAlone) -> None:
    """vmstat's cow_ksm counts copies of KSM pages; the zero page is none, so it stands still."""
    merged = Region.map(zeros.process, zeros.pages)
    merged.fill(unique_tokens(1)[0])
    ksm_alone.merge(merged)
    ksm_alone.stop()
    # Other programs' copies come on top: they hide some writes of zero pages, and never all.
    assert min(copies_of_each(writes(merged))) >= 1
    assert min(copies_of_each(writes(zeros))) == 0


def test_run_2_unshares_every_mergeable_page(
    ksm_alone: KsmAlone, zeros: Region, ledger: OpenLedger
) -> None:
    """run=2 unshares them all, and keeps the memory mergeable."""
    with ledger(zeros) as books:
        ksm_alone.unmerge_all()
    books.assert_change(zero_pages=-zeros.pages, anonymous=zeros.pages)
    assert_unmerged(zeros, bytes(zeros.length))
    assert "mg" in zeros.vmas()[0].flags


@pytest.mark.needs("memory_merge_prctl")
@pytest.mark.usefixtures("whole_process")
def test_memory_merge_0_unshares(
    ksm_alone: KsmAlone, process: Process, region: RegionFactory, ledger: OpenLedger
) -> None:
    """PR_SET_MEMORY_MERGE=0 unshares all zero pages of the process."""
    process.call(libc.set_memory_merge, 1)
    placed = region(fill=ZEROS)
    ksm_alone.wait_until_merged(placed)
    ksm_alone.wait_for_passes()
    ksm_alone.stop()
    # The interpreter's own pages of zeros have been placed too.
    of_process = process.zero_pages
    assert of_process >= placed.pages

    with ledger(placed) as books:
        process.call(libc.set_memory_merge, 0)
    books.assert_change(zero_pages=-of_process, anonymous=placed.pages)
    assert process.zero_pages == 0
    assert_unmerged(placed, bytes(placed.length))
    assert_not_mergeable(placed)


def test_unsharing_keeps_others_shared(
    ksm_alone: KsmAlone, zeros: Region, region: RegionFactory, ledger: OpenLedger
) -> None:
    """What one region does to its zero pages is nothing to another's."""
    bystander = ksm_alone.merge(region(fill=ZEROS))
    tokens = unique_tokens(zeros.pages)
    with ledger(bystander) as books:
        zeros.write_each(tokens)
    books.assert_change(zero_pages=-zeros.pages, anonymous=0)
    assert_zero_pages(bystander)
    assert_unmerged(zeros, overwritten(bytes(zeros.length), tokens))
