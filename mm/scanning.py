# SPDX-License-Identifier: GPL-2.0
"""Waiting for ksmd: by what it did, never by the clock; time only tells that it does nothing.

ksmd may stand in the middle of its list, so n complete passes are n + 1 steps of full_scans.
"""

import itertools
import time
from collections.abc import Callable, Collection

from mm.region import Region
from uapi.ksm import Ksm, RunState
from uapi.pagemap import PageKind

MERGED_KINDS = (PageKind.KSM, PageKind.ZERO)
PASSES_TO_MERGE = 30  # two do; a page under migration or in a CPU's batch is refused meanwhile
PASSES_TO_STEP = 4
STALL_DEADLINE = 60.0  # s without any progress of ksmd
POLL = (0.0002, 0.005)  # s, first and longest
WHOLE_PASS = 1 << 30  # pages in a batch; it ends with the pass, however many it might have
# ms between batches: no second one by itself. ksmd sleeps on unless it finds another value than the
# one it went to sleep with, and may look no sooner than at the next pass.
NAPS = itertools.cycle((3_600_000, 3_600_001))
PATIENCE = (0.02, 1.0)  # s until ksmd is told to start once more, at first and at most


class NotMerged(Exception):
    """ksmd passed over pages again and again and did not merge them."""


class KsmdStalled(Exception):
    """ksmd does not advance."""


def _progress(ksm: Ksm) -> tuple[int, int]:
    scanned = ksm.pages_scanned if ksm.has("pages_scanned") else 0
    return ksm.full_scans, scanned


def _settings(ksm: Ksm) -> str:
    return ", ".join(f"{name} {value}" for name, value in ksm.values().items())


def wait_until(ksm: Ksm, done: Callable[[], bool], passes: int) -> bool:
    """Wait until `done()`, for at most `passes` complete passes of ksmd; whether it came true.

    Raises KsmdStalled when ksmd makes no progress for STALL_DEADLINE seconds.
    """
    last = _progress(ksm)
    final_scan = last[0] + passes + 1
    stalled_at = time.monotonic() + STALL_DEADLINE
    interval = POLL[0]
    while True:
        # Order matters: what the last pass did must be seen by the last look.
        current = _progress(ksm)
        if done():
            return True
        if current[0] >= final_scan:
            return False
        if current != last:
            last, stalled_at = current, time.monotonic() + STALL_DEADLINE
        elif time.monotonic() > stalled_at:
            raise KsmdStalled(f"ksmd has not advanced for {STALL_DEADLINE:.0f} s: {_settings(ksm)}")
        time.sleep(interval)
        interval = min(2 * interval, POLL[1])


def wait_for_passes(ksm: Ksm, passes: int) -> None:
    """Wait for complete passes over all memory there is. Raises KsmdStalled."""
    wait_until(ksm, lambda: False, passes)


def pass_once(ksm: Ksm) -> None:
    """Have ksmd, which is stopped, finish its pass, or make one where it has finished it.

    So from the second call on it looks at each page exactly once. Raises KsmdStalled.
    """
    batch, passes = ksm.pages_to_scan, ksm.full_scans
    ksm.pages_to_scan = WHOLE_PASS
    _scan_until(ksm, lambda: ksm.full_scans != passes)
    ksm.pages_to_scan = batch


def batch_once(ksm: Ksm) -> None:
    """Have ksmd, which is stopped, scan one batch; one that has no page left ends the pass.

    Raises KsmdStalled.
    """
    before = _progress(ksm)
    _scan_until(ksm, lambda: _progress(ksm) != before)


def _scan_until(ksm: Ksm, done: Callable[[], bool]) -> None:
    """Start ksmd for one batch, again and again until it is `done()`; it is stopped then."""
    nap = ksm.sleep_millisecs
    stalled_at = time.monotonic() + STALL_DEADLINE
    patience = PATIENCE[0]
    while not done():
        if time.monotonic() > stalled_at:
            raise KsmdStalled(f"ksmd does not scan: {_settings(ksm)}")
        ksm.sleep_millisecs = next(NAPS)
        ksm.run = RunState.MERGE
        again_at = time.monotonic() + patience
        while not done() and time.monotonic() < again_at:
            time.sleep(POLL[0])
        # Waits for the end of a batch, so that none goes unnoticed.
        ksm.run = RunState.STOP
        ksm.sleep_millisecs = nap
        patience = min(2 * patience, PATIENCE[1])


def come_to_first(ksm: Ksm) -> None:
    """Have ksmd, which is stopped and knows some process, end its pass and come to the first one.

    A process that then is new to KSM enters ahead of that (__ksm_enter() in mm/ksm.c), and from the
    next pass on ksmd looks at its pages before all others. Behind others, equal pages may miss each
    other for many passes: unstable_tree_search_insert() gives up at a page that has gone since it
    was entered. Before 6.6 (pages_scanned) there is no telling where ksmd is, and it stays at the
    end: a process enters last. Raises KsmdStalled.
    """
    pass_once(ksm)
    if ksm.has("pages_scanned"):
        batch = ksm.pages_to_scan
        ksm.pages_to_scan = 1
        batch_once(ksm)
        ksm.pages_to_scan = batch


def scan_until(ksm: Ksm, done: Callable[[], bool]) -> None:
    """Have ksmd, which is stopped, look at one page after the other, and stop when `done()`.

    Raises NotMerged when it has seen all memory a few times, and KsmdStalled.
    """
    batch, final = ksm.pages_to_scan, ksm.full_scans + PASSES_TO_STEP
    ksm.pages_to_scan = 1
    while not done():
        if ksm.full_scans > final:
            raise NotMerged(
                f"{PASSES_TO_STEP} passes page by page came to no end: {_settings(ksm)}"
            )
        batch_once(ksm)
    ksm.pages_to_scan = batch


def is_merged(region: Region) -> bool:
    """Whether each page is a KSM page or the zero page."""
    stat = region.process.ksm_stat()
    counted = (stat.zero_pages or 0) + region.process.merging_pages
    # The counters cost one small read, the page tables several: look there last.
    if stat.zero_pages is not None and counted < region.pages:
        return False
    return all(state.kind in MERGED_KINDS for state in region.states())


def wait_until_merged(ksm: Ksm, region: Region) -> None:
    """Wait until every page of the region is merged. Raises NotMerged, KsmdStalled."""
    _merge(ksm, region, lambda: is_merged(region))


def wait_until_some_merged(
    ksm: Ksm, region: Region, pages: int, kinds: Collection[PageKind]
) -> None:
    """Wait until so many pages are of these kinds. Raises NotMerged, KsmdStalled."""
    _merge(ksm, region, lambda: sum(state.kind in kinds for state in region.states()) >= pages)


def _merge(ksm: Ksm, region: Region, done: Callable[[], bool]) -> None:
    if not wait_until(ksm, done, PASSES_TO_MERGE):
        raise NotMerged(
            f"{PASSES_TO_MERGE} passes of ksmd left pages unmerged in {region.process.pid}: "
            f"{region.describe()}; {region.process.ksm_stat()}; {_settings(ksm)}"
        )
