# SPDX-License-Identifier: GPL-2.0
"""Merged pages that are swapped out: what comes back is right, and KSM's books say so."""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from ksmtests.expectations import (
    assert_merged_into_one,
    assert_not_mergeable,
    assert_unmerged,
    assert_zero_pages,
    overwritten,
)
from ksmtests.placement import frames
from mm import served
from mm.process import Process
from mm.region import ZEROS, Region, unique_pattern, unique_tokens
from plugins.belongings import Swap
from plugins.ksm import KsmAlone, OpenLedger
from plugins.processes import Fork, RegionFactory
from uapi.cgroup import Cgroup
from uapi.libc import lib
from uapi.pagemap import PageKind, frame_counts
from uapi.vmstat import read_vmstat

pytestmark = [
    pytest.mark.swap,
    pytest.mark.needs("ksm_stat", "page_frames", "swap_device"),
]

RECLAIMED = pytest.mark.needs("memory_cgroup")  # whose memory can be swapped out, shared or not

ATTEMPTS = 50  # a page that was just used, or is in a batch of a CPU's, stays at first
ROUNDS = 10

Members: TypeAlias = Callable[[], Process]


class NotSwapped(Exception):
    """Pages stayed in memory, attempt after attempt."""


def swap_out(group: Cgroup, *regions: Region) -> None:
    """Have all pages of the regions swapped out, with ksmd as it is. Raises NotSwapped."""
    for _ in range(ATTEMPTS):
        group.reclaim(2 * sum(region.length for region in regions))
        if all(region.count(PageKind.SWAP) == region.pages for region in regions):
            return
    raise NotSwapped("; ".join(region.describe() for region in regions))


@pytest.fixture
def member(cgroup: Cgroup, swap: Swap, start_process: Callable[[], Process]) -> Members:
    """Start processes in the group, whose memory can be swapped out."""
    swap.start()

    def start() -> Process:
        process = start_process()
        cgroup.join(process.pid)
        return process

    return start


@pytest.fixture
def pattern() -> bytes:
    """What all swapped pages hold."""
    return unique_pattern()


@pytest.fixture
def swapped(
    pattern: bytes,
    ksm_alone: KsmAlone,
    cgroup: Cgroup,
    member: Members,
    region: RegionFactory,
    fork: Fork,
) -> list[Region]:
    """One KSM page, swapped out of two strangers and the child of one; ksmd is stopped."""
    merged = [ksm_alone.merge(region(8, pattern, process=member())) for _ in range(2)]
    ksm_alone.stop()
    regions = [*merged, merged[0].seen_from(fork(merged[0].process))]
    swap_out(cgroup, *regions)
    return regions


def copies() -> int:
    """Pages that were copied because KSM's sharing ended with swapping."""
    return read_vmstat()["ksm_swpin_copy"]


def assert_all_unmerged(swapped: list[Region], pattern: bytes) -> bytes:
    """No page is shared but by parent and child at one address; the content of a region."""
    parent, stranger, child = swapped
    content = pattern * (parent.length // len(pattern))
    for region in swapped:
        assert region.read() == content  # by page faults of the process's own
    assert_unmerged(stranger, content)
    for region in (parent, child):
        assert len(frames(region)) == region.pages, region.describe()
    users = frame_counts(frames(parent, child))
    assert sum(users.values()) == parent.pages + child.pages
    return content


@RECLAIMED
def test_each_user_gets_a_page_of_its_own(
    swapped: list[Region], pattern: bytes, ksm_alone: KsmAlone
) -> None:
    """The first who touches the page gets it from the device, all others but its child a copy."""
    before = copies()
    content = assert_all_unmerged(swapped, pattern)
    assert copies() - before >= sum(region.pages for region in swapped) - 2
    ksm_alone.start()
    for region in swapped[:2]:
        ksm_alone.wait_until_merged(region)
        assert region.read() == content
        assert region.process.merging_pages == region.pages


@RECLAIMED
def test_swapped_pages_leave_the_books(
    swapped: list[Region], pattern: bytes, ksm_alone: KsmAlone
) -> None:
    """ksmd finds its page gone: nobody merges it any more, and nothing is touched."""
    assert [region.process.merging_pages for region in swapped[:2]] == [8, 8]
    ksm_alone.pass_once()
    ksm_alone.pass_once()
    assert [region.process.merging_pages for region in swapped[:2]] == [0, 0]
    assert [region.process.ksm_stat().rmap_items for region in swapped[:2]] == [0, 0]
    for region in swapped:
        assert region.count(PageKind.SWAP) == region.pages, region.describe()
    assert_all_unmerged(swapped, pattern)


@RECLAIMED
def test_swapoff_brings_all_back(
    swapped: list[Region], pattern: bytes, swap: Swap, ksm_alone: KsmAlone
) -> None:
    """Each process's own pages, with the content; they can merge again."""
    before = copies()
    swap.stop()
    for region in swapped:
        assert not region.count(PageKind.SWAP), region.describe()
    assert copies() - before >= sum(region.pages for region in swapped) - 2
    content = assert_all_unmerged(swapped, pattern)
    ksm_alone.start()
    ksm_alone.wait_until_merged(swapped[0])
    assert swapped[0].read() == content


@RECLAIMED
def test_users_in_many_vmas_of_one_anon_vma_are_found(
    pattern: bytes, ksm_alone: KsmAlone, cgroup: Cgroup, member: Members, region: RegionFactory
) -> None:
    """A mapping that was split keeps its anon_vma, and each user of the page has a VMA of its own.

    rmap_walk_ksm() in mm/ksm.c finds them one by one, from addresses that it knows.
    """
    merged = ksm_alone.merge(region(256, pattern, process=member()))
    ksm_alone.stop()
    parts = merged.pages // 2
    assert merged.process.call(served.split_until_refused, merged.address, parts) == 0
    assert len(merged.vmas()) == merged.pages
    swap_out(cgroup, merged)
    content = pattern * (merged.length // len(pattern))
    assert merged.read() == content
    assert_unmerged(merged, content)


@RECLAIMED
def test_run_2_leaves_swapped_pages(
    swapped: list[Region], pattern: bytes, ksm_alone: KsmAlone
) -> None:
    """They are unmerged already; nothing is left of them in the books."""
    ksm_alone.unmerge_all()
    for region in swapped[:2]:
        assert region.count(PageKind.SWAP) == region.pages, region.describe()
        assert region.process.merging_pages == 0
        assert region.process.ksm_stat().rmap_items == 0
    content = assert_all_unmerged(swapped, pattern)
    ksm_alone.start()
    for region in swapped[:2]:
        ksm_alone.wait_until_merged(region)
        assert region.read() == content


@RECLAIMED
def test_swapped_pages_can_be_made_unmergeable(
    swapped: list[Region], pattern: bytes, ksm_alone: KsmAlone
) -> None:
    """MADV_UNMERGEABLE: they stay on the device, and are not merged when they come back."""
    swapped[0].advise(lib.MADV_UNMERGEABLE)
    assert_not_mergeable(swapped[0])
    assert swapped[0].count(PageKind.SWAP) == swapped[0].pages
    content = assert_all_unmerged(swapped, pattern)
    ksm_alone.start()
    ksm_alone.wait_until_merged(swapped[1])
    ksm_alone.wait_for_passes(3)
    assert frames(swapped[0]).isdisjoint(frames(swapped[1]))
    assert len(frames(swapped[0])) == swapped[0].pages
    assert swapped[0].process.merging_pages == 0
    assert swapped[0].read() == content


@RECLAIMED
def test_a_write_to_a_swapped_page_is_the_writers_alone(
    swapped: list[Region], pattern: bytes
) -> None:
    """Others get what it was."""
    tokens = unique_tokens(swapped[0].pages)
    swapped[0].write_each(tokens)
    content = pattern * (swapped[0].length // len(pattern))
    for region in swapped[1:]:
        assert region.read() == content
        assert_unmerged(region, content)
    assert_unmerged(swapped[0], overwritten(content, tokens))


@RECLAIMED
@pytest.mark.needs("ksm_zero_pages")
def test_zero_pages_are_not_swapped(
    ksm_alone: KsmAlone,
    cgroup: Cgroup,
    member: Members,
    region: RegionFactory,
    ledger: OpenLedger,
) -> None:
    """There is no page to swap out; the counts stay."""
    process = member()
    zeros = ksm_alone.merge(region(32, ZEROS, process=process))
    others = region(32, process=process)
    with ledger(zeros) as books:
        swap_out(cgroup, others)
    books.assert_change(zero_pages=0, anonymous=0)
    assert_zero_pages(zeros)


@RECLAIMED
def test_swapping_while_ksmd_merges(
    ksm_alone: KsmAlone, cgroup: Cgroup, member: Members, region: RegionFactory
) -> None:
    """Pages go and come in the middle of merging, and hold what they held."""
    pattern = unique_pattern()
    regions = [region(32, pattern, process=member()) for _ in range(3)]
    content = regions[0].read()
    for mapped in regions:
        mapped.advise(lib.MADV_MERGEABLE)
    for number in range(ROUNDS):
        cgroup.reclaim(sum(mapped.length for mapped in regions))
        assert regions[number % 3].read() == content
    for mapped in regions:
        mapped.read()
        ksm_alone.wait_until_merged(mapped)
        assert mapped.read() == content
    ksm_alone.stop()
    for mapped in regions:
        assert_merged_into_one(mapped)
        assert mapped.process.merging_pages == mapped.pages


@pytest.mark.needs("reclaim_advice")
def test_last_user_can_page_it_out(ksm_alone: KsmAlone, swap: Swap, region: RegionFactory) -> None:
    """MADV_PAGEOUT leaves a page that is shared, and takes one that nobody else maps any more."""
    swap.start()
    pattern = unique_pattern()
    merged = ksm_alone.merge(region(2, pattern))
    ksm_alone.stop()
    merged.advise(lib.MADV_PAGEOUT)
    assert_merged_into_one(merged)
    last, other = merged.halves()
    other.advise(lib.MADV_DONTNEED)
    for _ in range(ATTEMPTS):
        last.advise(lib.MADV_PAGEOUT)
        if last.count(PageKind.SWAP):
            break
    assert last.count(PageKind.SWAP) == 1, last.describe()
    ksm_alone.pass_once()
    ksm_alone.pass_once()
    assert merged.process.merging_pages == 0
    content = pattern * (last.length // len(pattern))
    assert last.read() == content
    assert_unmerged(last, content)
