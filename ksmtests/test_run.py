# SPDX-License-Identifier: GPL-2.0
"""/sys/kernel/mm/ksm/run: stop (0), merge (1), unmerge all and stop (2).

Documentation/admin-guide/mm/ksm.rst. That what is 2 stays 2 without unmerging anew is how
mm/ksm.c does it: run_store() acts on a change alone.
"""

import time
from collections.abc import Callable

import pytest

from ksmtests import in_process
from ksmtests.expectations import assert_merged_into_one, assert_unmerged
from mm.process import Process
from mm.region import Region, unique_tokens
from plugins.ksm import KsmAlone
from plugins.processes import Fork, RegionFactory
from uapi.ksm import Ksm, RunState
from uapi.libc import lib
from uapi.pagemap import PageKind

pytestmark = [pytest.mark.settings, pytest.mark.needs("ksm_stat", "page_frames")]

ROUNDS = 100
A_WHILE = 0.1  # s; ksmd, when it runs, makes hundreds of passes meanwhile
MOVING = ("full_scans", "pages_scanned", "pages_skipped")


def moving(settings: Ksm) -> dict[str, int]:
    """The counters that move whenever ksmd scans."""
    return {name: getattr(settings, name) for name in MOVING if settings.has(name)}


def assert_stands_still(settings: Ksm) -> None:
    """ksmd does nothing for a while, and run says that it may not."""
    before = moving(settings)
    time.sleep(A_WHILE)
    assert moving(settings) == before


@pytest.fixture
def different(region: RegionFactory) -> Region:
    """Mergeable pages that keep ksmd busy: none is like another."""
    mapped = region()
    mapped.fill(unique_tokens(mapped.pages))
    mapped.advise(lib.MADV_MERGEABLE)
    return mapped


@pytest.mark.parametrize("state", [RunState.STOP, RunState.UNMERGE], ids=lambda state: state.name)
@pytest.mark.usefixtures("different")
def test_ksmd_stops_at_once(state: RunState, ksm_alone: KsmAlone) -> None:
    """When the write returns, ksmd scans no more, and it goes on when told so."""
    settings = ksm_alone.settings
    for _ in range(3):
        ksm_alone.wait_for_passes(1)
        settings.run = state
        assert settings.run is state
        assert_stands_still(settings)
        ksm_alone.start()
        assert settings.run is RunState.MERGE
    ksm_alone.wait_for_passes(1)


def test_stopping_keeps_pages_merged(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """0 keeps what is merged, and merges nothing new."""
    merged, late = ksm_alone.merge(region()), region()
    ksm_alone.stop()
    late.advise(lib.MADV_MERGEABLE)
    assert_stands_still(ksm_alone.settings)
    assert_merged_into_one(merged)
    assert late.count(PageKind.ANON) == late.pages, late.describe()


@pytest.mark.usefixtures("different")
def test_stopping_twice_and_starting_twice_is_once(ksm_alone: KsmAlone) -> None:
    """Writing what is there changes nothing."""
    settings = ksm_alone.settings
    ksm_alone.start()
    ksm_alone.wait_for_passes(1)
    passes = settings.full_scans
    ksm_alone.stop()
    ksm_alone.stop()
    assert settings.full_scans >= passes
    assert_stands_still(settings)


def test_unmerging_keeps_memory_mergeable(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """2 leaves mergeable areas registered for the next run, and forgets all else."""
    merged = ksm_alone.merge(region())
    content = merged.read()
    ksm_alone.unmerge_all()
    assert_unmerged(merged, content)
    process = merged.process
    assert (process.ksm_stat().rmap_items, process.merging_pages) == (0, 0)
    assert all("mg" in vma.flags for vma in merged.vmas())
    assert ksm_alone.settings.full_scans == 0
    ksm_alone.start()
    ksm_alone.wait_until_merged(merged)
    assert_merged_into_one(merged)
    assert merged.read() == content


def test_unmerging_starts_from_any_state(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """2 unmerges whether ksmd runs or was stopped."""
    merged = ksm_alone.merge(region())
    ksm_alone.stop()
    ksm_alone.unmerge_all()
    assert merged.count(PageKind.ANON) == merged.pages, merged.describe()


@pytest.fixture
def left_over(ksm_alone: KsmAlone, process: Process, region: RegionFactory, fork: Fork) -> Region:
    """A child's memory with a KSM page that run=2 did not reach, and now could.

    ksmd turned a page both had into a KSM page, for the parent's sake alone: the child's memory
    became mergeable after run=2.
    """
    parents = region(8)
    child = fork(process)
    ksm_alone.merge(parents)
    ksm_alone.stop()
    shared = {state.pfn for state in parents.states()}
    ksm_alone.unmerge_all()
    (page,) = [
        page for page, state in enumerate(parents.seen_from(child).states()) if state.pfn in shared
    ]
    left = parents.seen_from(child).part(page, 1)
    left.advise(lib.MADV_MERGEABLE)
    return left


def test_unmerging_is_done_on_a_change_alone(ksm_alone: KsmAlone, left_over: Region) -> None:
    """2 after 2 unmerges nothing; after 0 it does."""
    (before,) = left_over.states()
    ksm_alone.unmerge_all()
    assert left_over.states() == [before]
    ksm_alone.stop()
    ksm_alone.unmerge_all()
    (after,) = left_over.states()
    assert after.kind is PageKind.ANON
    assert after.exclusive
    assert after.pfn != before.pfn


@pytest.mark.parametrize("stop", [KsmAlone.stop, KsmAlone.unmerge_all], ids=["0", "2"])
def test_stopped_ksmd_takes_newcomers_later(
    stop: Callable[[KsmAlone], None],
    ksm_alone: KsmAlone,
    region: RegionFactory,
    start_process: Callable[[], Process],
) -> None:
    """Memory that becomes mergeable while ksmd is stopped is merged once it runs."""
    stop(ksm_alone)
    late = region(process=start_process())
    late.advise(lib.MADV_MERGEABLE)
    ksm_alone.start()
    ksm_alone.wait_until_merged(late)


def test_writers_of_run_take_turns(
    ksm_alone: KsmAlone, region: RegionFactory, start_process: Callable[[], Process]
) -> None:
    """However many write to run at a time, what is written last counts, and all data are there."""
    merged = ksm_alone.merge(region())
    content = merged.read()
    path = str(Ksm.default_root / "run")
    writers = [start_process() for _ in range(3)]
    for number, writer in enumerate(writers):
        turns = "012"[number:] + "012"[:number]
        writer.send(in_process.write_in_turn, path, turns, ROUNDS)
    for writer in writers:
        writer.answer()
    assert merged.read() == content
    ksm_alone.stop()
    assert_stands_still(ksm_alone.settings)
    ksm_alone.start()
    ksm_alone.wait_until_merged(merged)
    assert merged.read() == content
