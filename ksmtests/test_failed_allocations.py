# SPDX-License-Identifier: GPL-2.0
"""Calls that run out of memory: each allocation of a call fails once, in one attempt after another.

What a call returns is what has become of memory and flags, nothing is lost, and the same call with
all the memory it wants does what it always does.
"""

import errno
import itertools
import os
from collections.abc import Callable
from typing import TypeAlias

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_not_mergeable, assert_unmerged
from ksmtests.placement import frames
from mm import failing
from mm.failing import Outcome
from mm.ledger import Ledger
from mm.process import Process
from mm.region import ZEROS, Region, unique_pattern
from plugins.failing import Failing
from plugins.ksm import KsmAlone, OpenLedger
from plugins.processes import Fork, RegionFactory
from uapi import libc
from uapi.ksm import Ksm, RunState
from uapi.libc import lib
from uapi.pagemap import PageKind, frame_counts

pytestmark = [
    pytest.mark.failed_allocations,
    pytest.mark.needs("ksm_stat", "page_frames", "failed_allocations"),
]

StartProcess: TypeAlias = Callable[[], Process]

of_each_kind = pytest.mark.parametrize("fill", [ZEROS, None], ids=["zero pages", "KSM pages"])

MOST = 5000  # allocations; no call makes so many


def each_allocation_fails(attempt: Callable[[int], Outcome]) -> None:
    """Attempt something with its first, second, … allocation failing, until it makes no more.

    Raises RuntimeError where none failed.
    """
    outcomes = list(itertools.takewhile(lambda end: end.reached, map(attempt, range(1, MOST))))
    if not any(end.errno for end in outcomes):
        raise RuntimeError(f"no allocation failed the call: {outcomes}")


def advise_failing(nth: int, region: Region, advice: int) -> Outcome:
    """madvise(2) with its nth allocation failing."""
    arguments = (region.address, region.length, advice)
    outcome = region.process.call(failing.in_call, nth, libc.madvise, *arguments)
    assert outcome.errno in {0, errno.EAGAIN}
    return outcome


def mergeable(region: Region) -> set[bool]:
    """Whether the VMAs of a region are marked."""
    return {"mg" in vma.flags for vma in region.vmas()}


def assert_unmerged_is_counted(region: Region, fill: bytes | None, books: Ledger) -> None:
    """Zero pages that are not any more, and none that still are, have left the books."""
    zeros = region.count(PageKind.ANON) if fill == ZEROS else 0
    books.assert_change(zero_pages=-zeros, anonymous=zeros)


@pytest.mark.usefixtures("allocations")
def test_advice_to_merge(
    ksm_alone: KsmAlone, region: RegionFactory, start_process: StartProcess
) -> None:
    """EAGAIN leaves the memory as it is, and the advice is welcome once more."""

    def attempt(nth: int) -> Outcome:
        whole = region(8, process=start_process())
        part, content = whole.part(2, 4), whole.read()
        outcome = advise_failing(nth, part, lib.MADV_MERGEABLE)
        assert mergeable(part) == {outcome.errno == 0}
        assert whole.read() == content
        assert_merged_into_one(ksm_alone.merge(part))
        assert_not_mergeable(whole.part(0, 2))
        assert_not_mergeable(whole.part(6, 2))
        assert whole.read() == content
        whole.process.kill()
        return outcome

    each_allocation_fails(attempt)


@of_each_kind
@pytest.mark.needs("ksm_zero_pages")
def test_advice_to_unmerge(
    fill: bytes | None,
    ksm_alone: KsmAlone,
    region: RegionFactory,
    allocations: Failing,
    ledger: OpenLedger,
) -> None:
    """EAGAIN with pages still merged leaves them mergeable; the books know which pages they are."""
    allocations.include_user_pages()
    whole = region(6, fill)
    part, content = whole.part(1, 4), whole.read()

    def attempt(nth: int) -> Outcome:
        ksm_alone.start()
        ksm_alone.merge(whole)
        with ledger(whole) as books:
            outcome = advise_failing(nth, part, lib.MADV_UNMERGEABLE)
        assert_unmerged_is_counted(whole, fill, books)
        assert whole.read() == content
        assert mergeable(part) == {outcome.errno != 0}
        part.advise(lib.MADV_UNMERGEABLE)
        assert_unmerged(part, content[: part.length])
        assert_not_mergeable(part)
        return outcome

    each_allocation_fails(attempt)


@pytest.mark.prctl
@pytest.mark.needs("memory_merge_prctl")
@pytest.mark.usefixtures("allocations")
def test_switching_merging_on(
    ksm_alone: KsmAlone, region: RegionFactory, start_process: StartProcess
) -> None:
    """ENOMEM leaves it off, for all memory; it can be switched on once there is memory."""
    ksm_alone.stop()

    def attempt(nth: int) -> Outcome:
        every = region(2, process=start_process())
        call = every.process.call
        outcome = call(failing.in_call, nth, libc.set_memory_merge, 1)
        assert outcome.errno in {0, errno.ENOMEM}
        assert call(libc.get_memory_merge) == (outcome.errno == 0)
        assert mergeable(every) == {outcome.errno == 0}
        call(libc.set_memory_merge, 1)
        assert call(libc.get_memory_merge) == 1
        assert mergeable(every) == {True}
        every.process.kill()
        return outcome

    each_allocation_fails(attempt)


@pytest.mark.prctl
@pytest.mark.needs("memory_merge_prctl")
def test_switching_merging_off(
    ksm_alone: KsmAlone, region: RegionFactory, allocations: Failing
) -> None:
    """ENOMEM with pages still merged leaves it on, for all memory."""
    allocations.include_user_pages()
    merged, other = region(4), region(1)
    content, call = merged.read(), merged.process.call

    def attempt(nth: int) -> Outcome:
        ksm_alone.start()
        ksm_alone.merge(merged)
        ksm_alone.stop()
        call(libc.set_memory_merge, 1)
        outcome = call(failing.in_call, nth, libc.set_memory_merge, 0)
        assert outcome.errno in {0, errno.ENOMEM}
        assert call(libc.get_memory_merge) == (outcome.errno != 0)
        assert mergeable(merged) == mergeable(other) == {outcome.errno != 0}
        assert merged.read() == content
        call(libc.set_memory_merge, 0)
        assert call(libc.get_memory_merge) == 0
        assert_not_mergeable(other)
        assert_not_mergeable(merged)
        assert_unmerged(merged, content)
        return outcome

    each_allocation_fails(attempt)


@of_each_kind
@pytest.mark.needs("ksm_zero_pages")
def test_run_2(
    fill: bytes | None,
    ksm_alone: KsmAlone,
    region: RegionFactory,
    allocations: Failing,
    ledger: OpenLedger,
) -> None:
    """ENOMEM in the middle stops ksmd; the books are those of what is left, and 2 works again."""
    allocations.include_user_pages()
    merged = region(4, fill)
    content, call = merged.read(), merged.process.call
    run = call(os.open, str(Ksm.default_root / "run"), os.O_WRONLY)

    def attempt(nth: int) -> Outcome:
        ksm_alone.start()
        ksm_alone.merge(merged)
        with ledger(merged) as books:
            outcome = call(failing.in_call, nth, os.write, run, b"2")
        assert outcome.errno in {0, errno.ENOMEM}
        assert ksm_alone.settings.run is (RunState.STOP if outcome.errno else RunState.UNMERGE)
        assert_unmerged_is_counted(merged, fill, books)
        assert merged.read() == content
        ksm_alone.unmerge_all()
        assert_unmerged(merged, content)
        assert ksm_alone.settings.pages_shared == 0
        assert mergeable(merged) == {True}
        return outcome

    each_allocation_fails(attempt)


def fork_failing(nth: int, process: Process, fork: Fork) -> tuple[Process | None, Outcome]:
    """fork(2) with its nth allocation failing, and the child if there is one."""
    process.call(failing.in_next_fork, nth)
    child, number = None, 0
    try:
        child = fork(process)
    except OSError as error:
        number = error.errno or 0
    assert number in {0, errno.ENOMEM, errno.EAGAIN}
    return child, Outcome(number, process.call(failing.was_reached))


@pytest.mark.fork
@pytest.mark.usefixtures("allocations")
def test_fork(ksm_alone: KsmAlone, region: RegionFactory, fork: Fork) -> None:
    """One that fails leaves nothing behind; a child there is has all its parent has."""
    merged = ksm_alone.merge(region(4))
    process, content = merged.process, merged.read()
    (frame,) = frames(merged)
    ksm_alone.stop()
    before = process.ksm_stat(), ksm_alone.settings.rmap_items()

    def attempt(nth: int) -> Outcome:
        child, outcome = fork_failing(nth, process, fork)
        if child:
            copied = merged.seen_from(child)
            assert_merged_into_one(copied)
            assert copied.read() == content
            assert (child.merging_pages, child.ksm_stat().rmap_items) == (0, 0)
            assert child.exit() == 0
        assert (process.ksm_stat(), ksm_alone.settings.rmap_items()) == before
        assert frame_counts([frame]) == {frame: merged.pages}
        return outcome

    each_allocation_fails(attempt)
    assert_merged_into_one(merged)
    assert merged.read() == content


@pytest.mark.fork
@pytest.mark.usefixtures("allocations")
@pytest.mark.upstream_bug(
    "a child whose fork had no memory for its place in ksmd's list is not merged when it asks"
)
def test_child_of_a_fork_short_of_memory_can_be_merged(
    ksm_alone: KsmAlone, region: RegionFactory, fork: Fork
) -> None:
    """Whatever a successful fork went without, advice in the child takes effect.

    ksm_fork() goes without a place in the list, and leaves the child's VMAs marked; of a VMA that
    is marked ksm_madvise() takes for granted that its mm is in the list.
    """
    merged = ksm_alone.merge(region(4))

    def attempt(nth: int) -> Outcome:
        child, outcome = fork_failing(nth, merged.process, fork)
        if child:
            copied = merged.seen_from(child)
            copied.fill(unique_pattern())
            copied.advise(lib.MADV_MERGEABLE)
            done = ksm_alone.wait_until(lambda: copied.count(PageKind.KSM) == copied.pages)
            assert done, f"with allocation {nth} failing: {copied.describe()}"
            child.kill()
        return outcome

    each_allocation_fails(attempt)


@pytest.mark.prctl
@pytest.mark.needs("memory_merge_prctl")
@pytest.mark.upstream_bug("a failed switch-off of merging marks memory that was opted out")
def test_failed_switching_off_keeps_what_was_opted_out(
    ksm_alone: KsmAlone, region: RegionFactory, allocations: Failing
) -> None:
    """ENOMEM leaves every VMA as it was, those without the mark, too.

    ksm_disable_merge_any() undoes its work by ksm_add_vmas(), which marks all that can be.
    """
    allocations.include_user_pages()
    merged, kept_out = ksm_alone.merge(region(4)), region(1)
    ksm_alone.stop()
    call = merged.process.call
    call(libc.set_memory_merge, 1)
    kept_out.advise(lib.MADV_UNMERGEABLE)
    outcome = call(failing.in_call, 1, libc.set_memory_merge, 0)
    if outcome.errno != errno.ENOMEM:
        raise RuntimeError(f"the allocation of a page was to fail the call: {outcome}")
    assert mergeable(merged) == {True}
    assert_not_mergeable(kept_out)
