# SPDX-License-Identifier: GPL-2.0
"""Merged pages whose memory goes bad: replaced in time, or lost to all who share them."""

import signal
import time
from collections.abc import Callable

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged, overwritten
from ksmtests.placement import frames
from mm.process import Process, ProcessLost
from mm.region import Region, unique_pattern, unique_tokens
from plugins.ksm import KsmAlone
from plugins.processes import Fork, RegionFactory
from uapi import hwpoison, libc
from uapi.libc import lib
from uapi.pagemap import frame_counts

pytestmark = [
    pytest.mark.memory_failure,
    pytest.mark.needs("ksm_stat", "page_frames", "memory_failure", "unpoison"),
]

KILLED_BY_KSM = pytest.mark.fixed_by("mm: ksm: support hwpoison for ksm page", "6.4", stable=False)
SIGNAL_DEADLINE = 30.0  # s
POLL = 0.002  # s

Condemn = Callable[[int], None]


@pytest.fixture(autouse=True)
def doom(condemn: Condemn) -> Callable[[Region], int]:
    """Tell of the one page frame of a region that is about to go bad; its number.

    Set up before all processes, as it is made good again after their end.
    """

    def tell(region: Region) -> int:
        (frame,) = frames(region)
        condemn(frame)
        return frame

    return tell


def set_kill_policy(process: Process, policy: int) -> None:
    """Whether a process is killed for a bad page at once, or when it touches it."""
    process.call(libc.prctl, lib.PR_MCE_KILL, lib.PR_MCE_KILL_SET, policy)


def assert_killed(process: Process) -> None:
    """The process has ended, or ends by itself, for its bad memory."""
    end = time.monotonic() + SIGNAL_DEADLINE
    while has_not_ended(process):
        assert time.monotonic() < end, f"process {process.pid} lives on"
        time.sleep(POLL)
    assert process.kill() == -signal.SIGBUS


def has_not_ended(process: Process) -> bool:
    """Whether it runs, as its parent has not reaped it."""
    with open(f"/proc/{process.pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in {"Z", "X"}


def poison(region: Region) -> None:
    """Have a process find the memory of its first page bad, which kills it."""
    try:
        region.part(0, 1).advise(lib.MADV_HWPOISON)
        outcome = "nothing happened"
    except ProcessLost:
        outcome = ""
    except OSError as error:
        outcome = str(error)  # EBUSY: the kernel does not know what to do with such a page
    assert not outcome, f"the process was to be killed: {outcome}"
    assert_killed(region.process)


def test_page_is_replaced_before_it_fails(
    ksm_alone: KsmAlone,
    region: RegionFactory,
    start_process: Callable[[], Process],
    fork: Fork,
    doom: Callable[[Region], int],
) -> None:
    """MADV_SOFT_OFFLINE: all get another page frame, and share it as before."""
    pattern = unique_pattern()
    merged = [ksm_alone.merge(region(8, pattern, process=start_process())) for _ in range(2)]
    content = merged[0].read()
    ksm_alone.stop()
    users = [*merged, merged[0].seen_from(fork(merged[0].process))]
    old = doom(merged[0])
    merged[1].part(3, 1).advise(lib.MADV_SOFT_OFFLINE)
    assert hwpoison.is_poisoned(old)
    (new,) = frames(*users)
    assert new != old
    assert frame_counts([new]) == {new: sum(mapped.pages for mapped in users)}
    for mapped in users:
        assert_merged_into_one(mapped)
        assert mapped.read() == content
    assert [mapped.process.merging_pages for mapped in merged] == [8, 8]
    ksm_alone.start()
    assert frames(ksm_alone.merge(region(8, pattern))) == {new}


@KILLED_BY_KSM
def test_bad_page_kills_all_who_share_it(
    ksm_alone: KsmAlone,
    region: RegionFactory,
    start_process: Callable[[], Process],
    fork: Fork,
    doom: Callable[[Region], int],
) -> None:
    """Those who want to know at once, and others when they touch it; nobody else."""
    pattern = unique_pattern()
    finder, early, late = (
        ksm_alone.merge(region(8, pattern, process=start_process())) for _ in range(3)
    )
    others = ksm_alone.merge(region(8))
    content = others.read()
    ksm_alone.stop()
    heir = late.seen_from(fork(late.process))
    for process in (early.process, others.process):
        set_kill_policy(process, lib.PR_MCE_KILL_EARLY)
    set_kill_policy(late.process, lib.PR_MCE_KILL_LATE)
    bad = doom(finder)
    poison(finder)
    assert_killed(early.process)
    for survivor in (heir, late):  # a child would go with its parent
        assert has_not_ended(survivor.process)
        with pytest.raises(ProcessLost):
            survivor.read(5, 1)
        assert_killed(survivor.process)
    assert hwpoison.is_poisoned(bad)
    assert others.read() == content
    assert_merged_into_one(others)
    ksm_alone.start()
    again = ksm_alone.merge(region(8, pattern))
    assert bad not in frames(again)


@KILLED_BY_KSM
def test_write_to_a_bad_page_is_no_way_out(
    ksm_alone: KsmAlone,
    region: RegionFactory,
    start_process: Callable[[], Process],
    doom: Callable[[Region], int],
) -> None:
    """There is nothing to copy; unmerging does not fetch the page back, either."""
    pattern = unique_pattern()
    finder, writer, unmerged = (
        ksm_alone.merge(region(2, pattern, process=start_process())) for _ in range(3)
    )
    ksm_alone.stop()
    doom(finder)
    poison(finder)
    with pytest.raises(ProcessLost):
        writer.write(0)
    assert_killed(writer.process)
    unmerged.advise(lib.MADV_UNMERGEABLE)
    with pytest.raises(ProcessLost):
        unmerged.read()
    assert_killed(unmerged.process)


@KILLED_BY_KSM
@pytest.mark.upstream_bug(
    "a bad KSM page kills processes that do not map it, if they are relatives of one that does"
)
def test_process_that_copied_the_page_before_it_failed_lives(
    ksm_alone: KsmAlone,
    region: RegionFactory,
    start_process: Callable[[], Process],
    fork: Fork,
    doom: Callable[[Region], int],
) -> None:
    """Even if it wants to know of bad memory at once: it has none."""
    pattern = unique_pattern()
    finder, parent = (
        ksm_alone.merge(region(4, pattern, process=start_process())) for _ in range(2)
    )
    content = parent.read()
    ksm_alone.stop()
    child = parent.seen_from(fork(parent.process))
    set_kill_policy(child.process, lib.PR_MCE_KILL_EARLY)
    tokens = unique_tokens(child.pages)
    child.write_each(tokens)
    assert_unmerged(child, overwritten(content, tokens))
    doom(finder)
    poison(finder)
    try:
        kept = child.read()
    except ProcessLost:
        kept = b""
    assert kept == overwritten(content, tokens)
