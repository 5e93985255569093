# SPDX-License-Identifier: GPL-2.0
"""KSM's work grows with the pages there are, not with the addresses they lie scattered over.

The work is processor time, which is compared with that for the same pages on a thousandth of the
range: one that went address by address would need a thousand times as long.
"""

import time
from collections.abc import Callable
from typing import TypeAlias

import pytest

from ksmtests import writers
from mm import served
from mm.process import Process
from mm.region import Region, unique_pattern
from plugins.evidence import Evidence
from plugins.ksm import KsmAlone
from plugins.probes import SPARSE_PAGES
from uapi import ksm
from uapi.libc import LONG_BYTES, lib
from uapi.pagemap import PageKind

pytestmark = [pytest.mark.scanning, pytest.mark.needs("page_frames", "sparse_memory")]

SMALLER = 1024  # times
LIMIT = 32  # times the work; between 1, as it should be, and SMALLER
PRESENT = 8  # pages
ROUNDS = 3  # at least, because interrupts are charged to whom they interrupt
MOST_ROUNDS = 30  # until a clock that stands still from one tick to the next saw any work

SparseMemory: TypeAlias = Callable[[int], Region]
Work: TypeAlias = Callable[[Region], int]


@pytest.fixture
def sparse(process: Process, evidence: Evidence) -> SparseMemory:
    """Map mergeable memory of so many pages, of which PRESENT, all alike, are there.

    It is not writable, so that it counts against no limit on memory.
    """

    def build(pages: int) -> Region:
        region = Region.map(process, pages, prot=lib.PROT_READ)
        word = unique_pattern()[:LONG_BYTES]
        for page in present(region):
            writers.poke_words(evidence.watch(page), [word])
        region.advise(lib.MADV_MERGEABLE)
        return region

    return build


def present(region: Region) -> list[Region]:
    """The pages that are there, evenly spread."""
    return [region.part(place * region.pages // PRESENT, 1) for place in range(PRESENT)]


def are_merged(region: Region) -> bool:
    """Whether the pages that are there are KSM pages."""
    return all(page.count(PageKind.KSM) for page in present(region))


def merge(ksm_alone: KsmAlone, region: Region) -> None:
    """Have the pages that are there merged, and ksmd stopped."""
    ksm_alone.start()
    assert ksm_alone.wait_until(lambda: are_merged(region), passes=30)
    ksm_alone.stop()


def assert_not_more_work(work: Work, sparse: SparseMemory) -> None:
    """The cheapest round over all of the range costs no more than any over a thousandth of it."""

    def rounds(pages: int) -> list[int]:
        region = sparse(pages)
        spent: list[int] = []
        while len(spent) < ROUNDS or (not any(spent) and len(spent) < MOST_ROUNDS):
            spent.append(work(region))
        region.unmap()
        assert any(spent), f"no processor time in {MOST_ROUNDS} rounds"
        return spent

    small, large = max(rounds(SPARSE_PAGES // SMALLER)), min(rounds(SPARSE_PAGES))
    assert large <= LIMIT * small, f"{large} ns, {large // small} times {small} ns"


@pytest.mark.needs("ksmd_time")
@pytest.mark.fixed_by(
    "ksm: use range-walk function to jump over holes in scan_get_next_rmap_item", "6.18"
)
def test_scanning_jumps_over_holes(ksm_alone: KsmAlone, sparse: SparseMemory) -> None:
    """A pass over sparse memory is no more work than one over dense memory."""
    clock = ksm.ksmd_clock()

    def work(region: Region) -> int:
        merge(ksm_alone, region)
        ksm_alone.pass_once()
        before = time.clock_gettime_ns(clock)
        ksm_alone.pass_once()
        return time.clock_gettime_ns(clock) - before

    assert_not_more_work(work, sparse)


@pytest.mark.fixed_by("ksm: perform a range-walk in break_ksm", "6.19", stable=False)
def test_unmerging_jumps_over_holes(ksm_alone: KsmAlone, sparse: SparseMemory) -> None:
    """MADV_UNMERGEABLE of sparse memory is no more work than that of dense memory."""

    def work(region: Region) -> int:
        region.advise(lib.MADV_MERGEABLE)
        merge(ksm_alone, region)
        spent: int = region.process.call(
            served.advice_time, region.address, region.length, lib.MADV_UNMERGEABLE
        )
        assert all(page.count(PageKind.ANON) for page in present(region))
        return spent

    assert_not_more_work(work, sparse)
