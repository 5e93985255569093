# SPDX-License-Identifier: GPL-2.0
"""Many processes that come, merge, change, move and go at once, with ksmd at full speed.

At the end every byte is what was written last, KSM's books know of nobody who is gone, and the
kernel log is silent. The storms are longer than other tests, and run only when they are asked for:
`pytest -m stress`, or by the name of this file. What each process does is the same in every run;
when it does so is not.
"""

import signal
from collections.abc import Callable

import pytest

from mm import churning, served
from mm.process import Process
from mm.region import Region, unique_pattern
from plugins.ksm import KsmAlone, ReadBooks
from plugins.processes import RegionFactory
from uapi import libc
from uapi.ksm import RunState
from uapi.pagemap import PageKind

pytestmark = [pytest.mark.stress, pytest.mark.needs("ksm_stat", "page_frames")]

PROCESSES = 4
ROUNDS = 1500
StartProcess = Callable[[], Process]


def contents() -> list[bytes]:
    """What all processes of a storm fill their pages with."""
    return [unique_pattern() for _ in range(5)]


def set_out(start_process: StartProcess, rounds: int) -> list[Process]:
    """Processes that change their memory, and have not come to the end of it."""
    crowd, shared = [start_process() for _ in range(PROCESSES)], contents()
    for number, process in enumerate(crowd):
        process.send(churning.churn, number, shared, rounds)
    return crowd


def assert_nothing_lost(ksm_alone: KsmAlone, crowd: list[Process], books: ReadBooks) -> None:
    """What is at rest merges, as the page tables and the books agree, and unmerges unharmed."""
    regions = [
        Region(process, address, churning.BLOCK)
        for process in crowd
        for address in process.answer()
    ]
    ksm_alone.settings.use_zero_pages = False
    ksm_alone.unmerge_all()
    ksm_alone.start()
    ksm_alone.wait_for_passes(4)
    counts = books()
    kinds = [state for region in regions for state in region.states()]
    merged = [state.pfn for state in kinds if state.kind is PageKind.KSM]
    assert len(merged) > len(kinds) // 2
    counts.assert_has(
        shared=len(set(merged)),
        sharing=len(merged) - len(set(merged)),
        unshared=sum(state.kind is PageKind.ANON for state in kinds),
    )
    for process in crowd:
        process.call(churning.check)
    ksm_alone.unmerge_all()
    for process in crowd:
        process.call(churning.check)


def assert_forgotten(ksm_alone: KsmAlone, books: ReadBooks, region: RegionFactory) -> None:
    """Two passes after the last one has ended, nothing of any of them is left."""
    last = region(2)
    ksm_alone.start()
    ksm_alone.merge(last)
    ksm_alone.wait_for_passes()
    counts = books()
    counts.assert_has(shared=1, sharing=1)
    if not counts.others.rmap_items:
        assert (counts.chains, counts.duplicates) == (0, 0)


def test_churning_processes(
    ksm_alone: KsmAlone, start_process: StartProcess, books: ReadBooks, region: RegionFactory
) -> None:
    """Writing, unmerging, discarding, moving, unmapping and forking, all at once."""
    crowd = set_out(start_process, ROUNDS)
    assert_nothing_lost(ksm_alone, crowd, books)
    for process in crowd:
        process.kill()
    assert_forgotten(ksm_alone, books, region)


@pytest.mark.parametrize("limit", [2, 3])
def test_churning_at_the_limit_of_sharing(
    limit: int,
    ksm_alone: KsmAlone,
    start_process: StartProcess,
    books: ReadBooks,
    region: RegionFactory,
) -> None:
    """The same with chains of duplicates that are pruned all the time."""
    ksm_alone.limit_sharing(limit)
    ksm_alone.settings.stable_node_chains_prune_millisecs = 0
    crowd = set_out(start_process, ROUNDS)
    assert_nothing_lost(ksm_alone, crowd, books)
    for process in crowd:
        process.kill()
    assert_forgotten(ksm_alone, books, region)


def test_churning_while_ksmd_is_stopped_and_started(
    ksm_alone: KsmAlone, start_process: StartProcess, books: ReadBooks, region: RegionFactory
) -> None:
    """run is 0, 1, 2 and 1 again, with use_zero_pages off and on, as long as anybody works."""
    settings = ksm_alone.settings
    crowd = set_out(start_process, ROUNDS)
    turns = 0
    while not all(process.connection.poll(0) for process in crowd):
        settings.use_zero_pages = bool(turns & 4)
        for state in (RunState.STOP, RunState.MERGE, RunState.UNMERGE, RunState.MERGE):
            settings.run = state
        turns += 1
    assert turns
    assert_nothing_lost(ksm_alone, crowd, books)
    for process in crowd:
        process.kill()
    assert_forgotten(ksm_alone, books, region)


def test_processes_killed_in_the_middle(
    ksm_alone: KsmAlone, start_process: StartProcess, books: ReadBooks, region: RegionFactory
) -> None:
    """SIGKILL finds each of them at another place, and ksmd lets go of all of them."""
    for _ in range(12):
        crowd = set_out(start_process, 10 * ROUNDS)
        for number, process in enumerate(crowd):
            ksm_alone.wait_for_passes(number)
            assert process.kill() == -signal.SIGKILL
    assert_forgotten(ksm_alone, books, region)


@pytest.mark.fixed_by("ksm: fix NULL pointer dereference in scan_get_next_rmap_item()", "3.0")
def test_processes_that_fault_with_one_mergeable_page(
    ksm_alone: KsmAlone, process: Process, books: ReadBooks, region: RegionFactory
) -> None:
    """LTP's ksm05 (CVE-2011-2183): fork, mark a page, die of a fault, while ksmd scans."""
    assert process.call(served.fork_faulting_merger, 600) == 600
    assert_forgotten(ksm_alone, books, region)


@pytest.mark.needs("memory_merge_prctl")
@pytest.mark.usefixtures("whole_process")
def test_processes_that_execute_and_switch_merging(
    ksm_alone: KsmAlone, start_process: StartProcess, books: ReadBooks, region: RegionFactory
) -> None:
    """PR_SET_MEMORY_MERGE on, fork, exec and off again, with all the memory of an interpreter."""
    crowd = [start_process() for _ in range(PROCESSES)]
    for process in crowd:
        process.execute()
    for _ in range(8):
        for process in crowd:
            process.call(libc.set_memory_merge, 1)
            process.execute()
            assert process.call(libc.get_memory_merge) == 1
            process.fork().kill()
        for process in crowd:
            process.call(libc.set_memory_merge, 0)
            assert process.merging_pages >= 0
    for process in crowd:
        process.kill()
    assert_forgotten(ksm_alone, books, region)
