# SPDX-License-Identifier: GPL-2.0
"""KSM's tracepoints tell what happens, when it happens, and to whom (include/trace/events/ksm.h).

ksmd is stopped, and makes one pass at a time: what a pass does is traced, and nothing else. Other
programs that use KSM are told by their mm.
"""

import errno
import os
from collections.abc import Callable

import pytest

from ksmtests.ksm_events import KsmEvent, named, only
from mm.process import Process
from mm.region import ZEROS, Region, unique_tokens
from plugins.ksm import KsmAlone
from plugins.processes import Fork, RegionFactory
from uapi import io_uring, libc
from uapi.libc import lib
from uapi.pagemap import PageKind
from uapi.tracefs import Instance

pytestmark = [
    pytest.mark.tracing,
    pytest.mark.needs("ksm_events", "page_frames", "ksm_stat", "pages_scanned"),
]

PAGES = 5
MOST_PASSES = 30
MERGES = ("ksm_merge_with_ksm_page", "ksm_merge_one_page")
REMOVALS = ("ksm_remove_ksm_page", "ksm_remove_rmap_item")


@pytest.fixture(autouse=True)
def stopped(ksm_alone: KsmAlone, region: RegionFactory, start_process: object) -> None:
    """ksmd is stopped at the end of a pass, and knows a page that nobody touches."""
    assert callable(start_process)
    page = region(1, process=start_process())
    page.advise(lib.MADV_MERGEABLE)
    ksm_alone.stop()
    ksm_alone.pass_once()


def enters(process: Process, trace: Instance) -> list[KsmEvent]:
    """What entered in the process's thread."""
    return [event for event in named(trace.events(), "ksm_enter") if event.pid == process.pid]


def mergeable(
    ksm_alone: KsmAlone, region: RegionFactory, trace: Instance, fill: bytes | None = None
) -> tuple[Region, str]:
    """Mergeable memory of a process new to KSM, and its mm, as traced."""
    trace.clear()
    mapped = region(PAGES, fill)
    ksm_alone.come_to_first()
    mapped.advise(lib.MADV_MERGEABLE)
    ksm_alone.pass_once()
    enter = only(enters(mapped.process, trace))
    return mapped, enter.mm


def pass_until_merged(ksm_alone: KsmAlone, mapped: Region) -> None:
    """Two passes merge all pages, or the last of some where attempts fail (LPAE)."""
    for _ in range(MOST_PASSES):
        ksm_alone.pass_once()
        if mapped.count(PageKind.KSM) == mapped.pages and len(set(mapped.frames())) == 1:
            return
    raise AssertionError(mapped.describe())


def of(mm: str, events: list[KsmEvent]) -> list[KsmEvent]:
    """Those of one mm."""
    return [event for event in events if event.mm == mm]


def test_mm_enters_once(process: Process, region: RegionFactory, trace: Instance) -> None:
    """The first advice makes an mm known to KSM, in the thread that gives it."""
    for _ in range(2):
        region(2).advise(lib.MADV_MERGEABLE)
    enter = only(enters(process, trace))
    assert int(enter.mm, 16) != 0


@pytest.mark.needs("memory_merge_prctl")
@pytest.mark.usefixtures("whole_process")
def test_mm_enters_by_prctl(process: Process, trace: Instance) -> None:
    """So does PR_SET_MEMORY_MERGE, once; and with exec the new mm enters for the old one."""
    process.call(libc.set_memory_merge, 1)
    process.call(libc.set_memory_merge, 1)
    enter = only(enters(process, trace))
    trace.clear()
    process.execute()
    enter_again = only(enters(process, trace))
    assert enter_again.mm != enter.mm
    leave = only(of(enter.mm, named(trace.events(), "ksm_exit")))
    assert leave.pid == process.pid


def test_child_enters_with_fork(
    process: Process, ksm_alone: KsmAlone, region: RegionFactory, fork: Fork, trace: Instance
) -> None:
    """In its parent's thread, which makes the child's mm; a child of an unknown mm does not."""
    fork(process)
    assert enters(process, trace) == []
    _, mm = mergeable(ksm_alone, region, trace)
    trace.clear()
    fork(process)
    enter = only(enters(process, trace))
    assert enter.mm != mm


def test_mm_enters_anew_after_ksmd_has_dropped_it(
    ksm_alone: KsmAlone, region: RegionFactory, trace: Instance
) -> None:
    """ksmd forgets an mm in which it finds nothing mergeable; the next advice makes it known."""
    mapped, mm = mergeable(ksm_alone, region, trace)
    mapped.advise(lib.MADV_UNMERGEABLE)
    mapped.advise(lib.MADV_MERGEABLE)
    assert of(mm, named(trace.events(), "ksm_enter"))[1:] == []
    mapped.advise(lib.MADV_UNMERGEABLE)
    ksm_alone.pass_once()
    trace.clear()
    mapped.advise(lib.MADV_MERGEABLE)
    enter = only(enters(mapped.process, trace))
    assert enter.mm == mm
    pass_until_merged(ksm_alone, mapped)


@pytest.mark.parametrize("end", [Process.kill, Process.exit], ids=["kill", "exit"])
def test_mm_leaves_at_its_end(
    end: Callable[[Process], int],
    process: Process,
    ksm_alone: KsmAlone,
    region: RegionFactory,
    trace: Instance,
) -> None:
    """Once, and under the name it entered with."""
    _, mm = mergeable(ksm_alone, region, trace)
    trace.clear()
    end(process)
    leave = only(of(mm, named(trace.events(), "ksm_exit")))
    assert leave == KsmEvent("ksm_exit", process.pid, mm=mm)


def test_pass_begins_and_ends(ksm_alone: KsmAlone, region: RegionFactory, trace: Instance) -> None:
    """With its number, which full_scans counts, and the items there are then."""
    mergeable(ksm_alone, region, trace)
    settings = ksm_alone.settings
    for _ in range(3):
        trace.clear()
        number, items = settings.full_scans, settings.rmap_items()
        ksm_alone.pass_once()
        scans = named(trace.events(), "ksm_start_scan", "ksm_stop_scan")
        assert len(scans) == 2, scans
        start, stop = scans
        assert (start.name, start.seq, start.items) == ("ksm_start_scan", number, items)
        assert (stop.name, stop.seq, stop.items) == (
            "ksm_stop_scan",
            number,
            settings.rmap_items(),
        )
        assert start.pid == stop.pid
        assert settings.full_scans == number + 1


def test_batches_of_a_pass_are_one_scan(
    ksm_alone: KsmAlone, region: RegionFactory, trace: Instance
) -> None:
    """However often ksmd sleeps in between."""
    mergeable(ksm_alone, region, trace)
    settings = ksm_alone.settings
    settings.pages_to_scan = 1
    trace.clear()
    passes = settings.full_scans
    while settings.full_scans == passes:
        ksm_alone.batch_once()
    scans = named(trace.events(), "ksm_start_scan", "ksm_stop_scan")
    assert [event.name for event in scans] == ["ksm_start_scan", "ksm_stop_scan"]


@pytest.mark.upstream_bug_on(
    "arm",
    "with LPAE, pages that were just written merge at the second attempt",
    symbol="CONFIG_ARM_LPAE",
)
def test_merge_names_the_page(ksm_alone: KsmAlone, region: RegionFactory, trace: Instance) -> None:
    """Two pages become a KSM page, one by one, and the others are merged with it."""
    merged, mm = mergeable(ksm_alone, region, trace)
    trace.clear()
    ksm_alone.pass_once()
    assert of(mm, named(trace.events(), *MERGES)) == []
    ksm_alone.pass_once()
    frames = set(merged.frames())
    assert len(frames) == 1, merged.describe()
    events = of(mm, named(trace.events(), *MERGES))
    assert [event.with_ksm_page for event in events] == [False] + [True] * (PAGES - 1)
    assert {event.name for event in events} == {"ksm_merge_with_ksm_page"}
    assert {(event.pfn, event.error) for event in events} == {(frame, 0) for frame in frames}
    assert len({event.item for event in events}) == PAGES
    # Nothing more happens to them.
    trace.clear()
    ksm_alone.pass_once()
    assert of(mm, named(trace.events(), *MERGES, *REMOVALS)) == []


@pytest.mark.needs("page_pinning")
def test_merge_that_fails_says_so(
    ksm_alone: KsmAlone, region: RegionFactory, trace: Instance
) -> None:
    """A pinned page cannot be merged: the attempt is traced with its error, pass by pass."""
    mapped, mm = mergeable(ksm_alone, region, trace)
    pinned = mapped.process.call(io_uring.pin_pages, mapped.address, mapped.length)
    for _ in range(2):
        trace.clear()
        ksm_alone.pass_once()
    events = of(mm, named(trace.events(), *MERGES))
    assert events
    assert {event.error for event in events} == {-errno.EFAULT}
    assert mapped.count(PageKind.KSM) == 0
    mapped.process.call(os.close, pinned)


@pytest.mark.upstream_bug_on(
    "arm",
    "with LPAE, pages that were just written merge at the second attempt",
    symbol="CONFIG_ARM_LPAE",
)
@pytest.mark.needs("ksm_zero_pages")
def test_placing_names_the_zero_page(
    ksm_alone: KsmAlone, region: RegionFactory, trace: Instance
) -> None:
    """Each page of zeros is traced with the zero page it is replaced by."""
    zeros, mm = mergeable(ksm_alone, region, trace, ZEROS)
    trace.clear()
    for _ in range(2):
        ksm_alone.pass_once()
    assert zeros.count(PageKind.ZERO) == zeros.pages, zeros.describe()
    events = of(mm, named(trace.events(), *MERGES))
    assert {event.name for event in events} == {"ksm_merge_one_page"}
    assert [event.pfn for event in events] == [state.pfn for state in zeros.states()]
    assert {event.error for event in events} == {0}
    assert len({event.item for event in events}) == PAGES


def merged_region(
    ksm_alone: KsmAlone, region: RegionFactory, trace: Instance
) -> tuple[Region, int, list[KsmEvent]]:
    """A region that is one KSM page, its frame, and how it got there."""
    merged, mm = mergeable(ksm_alone, region, trace)
    pass_until_merged(ksm_alone, merged)
    frame = merged.frames()[0]
    merges = of(mm, named(trace.events(), *MERGES))
    trace.clear()
    return merged, frame, merges


def assert_removed(trace: Instance, frame: int, merges: list[KsmEvent]) -> None:
    """The KSM page is removed once, and every item but the last that hung on it.

    remove_node_from_stable_tree() traces no more, though a comment in the header says so of each.
    """
    events = [event for event in named(trace.events(), *REMOVALS) if event.pfn == frame]
    assert [event.name for event in events] == ["ksm_remove_rmap_item"] * (PAGES - 1) + [
        "ksm_remove_ksm_page"
    ]
    items = [(event.item, event.mm) for event in events[:-1]]
    assert len(set(items)) == PAGES - 1
    assert set(items) < {(event.item, event.mm) for event in merges}


def write_all(merged: Region, _: KsmAlone) -> None:
    """Every page is written."""
    merged.write_each(unique_tokens(merged.pages))


def advise(merged: Region, _: KsmAlone) -> None:
    """MADV_UNMERGEABLE."""
    merged.advise(lib.MADV_UNMERGEABLE)


def unmap(merged: Region, _: KsmAlone) -> None:
    """munmap(2)."""
    merged.unmap()


def end(merged: Region, _: KsmAlone) -> None:
    """The process ends."""
    merged.process.kill()


@pytest.mark.parametrize("unshare", [write_all, advise, unmap, end], ids=lambda each: each.__name__)
def test_page_without_users_is_removed_in_the_next_pass(
    unshare: Callable[[Region, KsmAlone], None],
    ksm_alone: KsmAlone,
    region: RegionFactory,
    trace: Instance,
) -> None:
    """ksmd finds it stale, and traces it and its items by the names they merged under."""
    merged, frame, merges = merged_region(ksm_alone, region, trace)
    unshare(merged, ksm_alone)
    assert named(trace.events(), *REMOVALS) == []
    ksm_alone.pass_once()
    assert_removed(trace, frame, merges)


def test_unmerging_all_removes_pages(
    ksm_alone: KsmAlone, region: RegionFactory, trace: Instance
) -> None:
    """run=2 does so at once, in the thread that writes."""
    _, frame, merges = merged_region(ksm_alone, region, trace)
    ksm_alone.unmerge_all()
    assert_removed(trace, frame, merges)
    removals = [event for event in named(trace.events(), *REMOVALS) if event.pfn == frame]
    assert {event.pid for event in removals} == {os.getpid()}


def test_page_with_users_stays(ksm_alone: KsmAlone, region: RegionFactory, trace: Instance) -> None:
    """As long as one process maps it, the KSM page is not removed."""
    merged, frame, _ = merged_region(ksm_alone, region, trace)
    merged.part(0, PAGES - 1).write_each(unique_tokens(PAGES - 1))
    ksm_alone.pass_once()
    events = named(trace.events(), *REMOVALS)
    assert [event for event in events if event.pfn == frame] == []


def test_stopped_ksmd_traces_nothing(
    ksm_alone: KsmAlone, region: RegionFactory, trace: Instance
) -> None:
    """What is traced is what ksmd does."""
    merged, mm = mergeable(ksm_alone, region, trace)
    trace.clear()
    merged.write_each(unique_tokens(merged.pages))
    ksm_alone.stop()
    scans = ("ksm_start_scan", "ksm_stop_scan")
    assert named(trace.events(), *scans) == []
    assert of(mm, named(trace.events(), *MERGES, *REMOVALS)) == []
