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
ROUNDS = 3  # the cheapest counts: interrupts are charged to whom they interrupt

SparseMemory: TypeAlias = Callable[[int], Region]


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


@pytest.mark.needs("ksmd_time")
@pytest.mark.fixed_by(
    "ksm: use range-walk function to jump over holes in scan_get_next_rmap_item", "6.18"
)
def test_scanning_jumps_over_holes(ksm_alone: KsmAlone, sparse: SparseMemory) -> None:
    """A pass over sparse memory is no more work than one over dense memory."""
    clock = ksm.ksmd_clock()

    def work(pages: int) -> int:
        region = sparse(pages)
        merge(ksm_alone, region)
        ksm_alone.pass_once()
        spent = []
        for _ in range(ROUNDS):
            before = time.clock_gettime_ns(clock)
            ksm_alone.pass_once()
            spent.append(time.clock_gettime_ns(clock) - before)
        region.unmap()
        return min(spent)

    small, large = work(SPARSE_PAGES // SMALLER), work(SPARSE_PAGES)
    assert large <= LIMIT * small, f"{large} ns of ksmd, {large // small} times {small} ns"


@pytest.mark.fixed_by("ksm: perform a range-walk in break_ksm", "6.19", stable=False)
def test_unmerging_jumps_over_holes(ksm_alone: KsmAlone, sparse: SparseMemory) -> None:
    """MADV_UNMERGEABLE of sparse memory is no more work than that of dense memory."""

    def work(pages: int) -> int:
        region = sparse(pages)
        spent = []
        for _ in range(ROUNDS):
            region.advise(lib.MADV_MERGEABLE)
            merge(ksm_alone, region)
            spent.append(
                region.process.call(
                    served.advice_time, region.address, region.length, lib.MADV_UNMERGEABLE
                )
            )
            assert all(page.count(PageKind.ANON) for page in present(region))
        region.unmap()
        return min(spent)

    small, large = work(SPARSE_PAGES // SMALLER), work(SPARSE_PAGES)
    assert large <= LIMIT * small, f"{large} ns, {large // small} times {small} ns"
