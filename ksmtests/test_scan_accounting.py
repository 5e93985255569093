# SPDX-License-Identifier: GPL-2.0
"""What ksmd counts while it scans, and that its counts hold under load."""

from collections.abc import Callable

import pytest

from mm import served
from mm.ledger import system_zero_pages
from mm.process import Process
from mm.region import Region, unique_pattern, unique_tokens
from plugins.evidence import Evidence
from plugins.ksm import KsmAlone
from plugins.processes import Fork, RegionFactory
from uapi import libc
from uapi.libc import lib
from uapi.pagemap import PageKind

ROUNDS = 200
ARRIVALS = 50


@pytest.mark.scanning
@pytest.mark.needs("pages_scanned")
@pytest.mark.fixed_by("mm/ksm: fix ksm_pages_scanned accounting", "6.10")
def test_each_pass_counts_each_page(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """pages_scanned grows by all mergeable pages in every complete pass."""
    different = region(256)
    different.fill(unique_tokens(different.pages))
    different.advise(lib.MADV_MERGEABLE)
    ksm_alone.wait_for_passes()
    settings = ksm_alone.settings
    ksm_alone.stop()
    passes, scanned = settings.full_scans, settings.pages_scanned
    ksm_alone.start()
    ksm_alone.wait_for_passes(10)
    ksm_alone.stop()
    passes = settings.full_scans - passes
    scanned = settings.pages_scanned - scanned
    # The first and the last pass may be cut; other programs' pages come on top.
    assert scanned >= (passes - 1) * different.pages


@pytest.mark.scanning
@pytest.mark.needs("ksm_stat", "page_frames")
@pytest.mark.fixed_by(
    "mm/ksm: don't waste time searching stable tree for fast changing page", "6.11", stable=False
)
def test_page_that_just_changed_waits_for_the_next_pass(
    ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """Even content that others share already has to stay for a pass before it merges.

    cmp_and_merge_page() used to look for a KSM page first, and at the checksum later.
    """
    pattern = unique_pattern()
    ksm_alone.merge(region(8, pattern))
    ksm_alone.stop()
    ksm_alone.pass_once()
    changed = region(8, pattern)
    changed.advise(lib.MADV_MERGEABLE)
    ksm_alone.pass_once()
    assert changed.count(PageKind.ANON) == changed.pages, changed.describe()
    ksm_alone.start()
    ksm_alone.wait_until_merged(changed)


@pytest.mark.scanning
@pytest.mark.needs("ksm_stat", "page_frames")
@pytest.mark.fixed_by("ksm: fix NULL pointer dereference in scan_get_next_rmap_item()", "3.0")
@pytest.mark.fixed_by("mm/ksm: avoid missing ksmd wakeups in ksm_enter", "7.3")
def test_ksmd_wakes_for_whoever_comes_as_the_last_one_leaves(
    ksm_alone: KsmAlone, region: RegionFactory, start_process: Callable[[], Process]
) -> None:
    """ksmd goes to sleep when no process is mergeable, and no first one is overlooked."""
    leaving = ksm_alone.merge(region(2)).process
    for _ in range(ARRIVALS):
        coming = region(2, process=start_process())
        coming.process.send(libc.madvise, coming.address, coming.length, lib.MADV_MERGEABLE)
        leaving.kill()
        coming.process.answer()
        ksm_alone.wait_until_merged(coming)
        leaving = coming.process


@pytest.mark.zero_pages
@pytest.mark.needs("ksm_zero_pages", "page_frames")
@pytest.mark.fixed_by("mm/ksm: fix ksm_zero_pages accounting", "6.10")
def test_counts_hold_after_concurrent_placing_and_writing(
    ksm_alone: KsmAlone, process: Process, fork: Fork, evidence: Evidence
) -> None:
    """Processes write while ksmd places: counts are never negative, and right in the end."""
    ksm_alone.stop()
    crowd = [fork(process) for _ in range(3)]
    own = frozenset(evidence.pids())
    before = system_zero_pages(ksm_alone.settings, own)
    regions = []
    for member in crowd:
        zeros = evidence.watch(Region.map(member, 64))
        zeros.advise(lib.MADV_MERGEABLE)
        regions.append(zeros)
    ksm_alone.start()
    for zeros in regions:
        zeros.process.send(served.churn, zeros.address, zeros.pages, ROUNDS)
    for member in crowd:
        while not member.connection.poll(0):
            # Not zero: what kernel defects have added or taken since boot stays in this count.
            assert ksm_alone.settings.ksm_zero_pages >= before
            assert all(0 <= other.zero_pages <= 64 for other in crowd)
        member.answer()
    for zeros in regions:
        ksm_alone.wait_until_merged(zeros)
    ksm_alone.stop()

    placed = [zeros.count(PageKind.ZERO) for zeros in regions]
    assert sum(placed) > 0
    assert [member.zero_pages for member in crowd] == placed
    assert system_zero_pages(ksm_alone.settings, own) - before == sum(placed)
