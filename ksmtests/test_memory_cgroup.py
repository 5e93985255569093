# SPDX-License-Identifier: GPL-2.0
"""KSM in groups of processes whose memory is counted, limited and bound to nodes (cgroup v2)."""

import errno
import os
import signal
import time
from collections.abc import Callable
from typing import TypeAlias

import pytest

from ksmtests.expectations import (
    assert_merged_into_one,
    assert_not_mergeable,
    assert_unmerged,
    overwritten,
)
from ksmtests.placement import frames, nodes_of, put
from mm.ledger import system_zero_pages
from mm.process import Process, ProcessLost
from mm.region import ZEROS, Region, unique_pattern, unique_tokens
from plugins.evidence import Evidence
from plugins.ksm import KsmAlone
from plugins.processes import RegionFactory
from uapi import libc, numa
from uapi.cgroup import Cgroup
from uapi.ksm import RunState
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import PageKind, frame_counts

pytestmark = [
    pytest.mark.cgroups,
    pytest.mark.needs("ksm_stat", "page_frames", "memory_cgroup"),
]

AHEAD = 64 * (os.cpu_count() or 1)  # pages CPUs may have charged, uncharged or counted in advance
PAGES = 8 * AHEAD
GONE_DEADLINE = 60.0  # s for the last page of a removed group to be freed
POLL = 0.01  # s

Members: TypeAlias = Callable[[Cgroup], Process]


@pytest.fixture
def member(start_process: Callable[[], Process]) -> Members:
    """Start a process in a group."""

    def start(group: Cgroup) -> Process:
        process = start_process()
        group.join(process.pid)
        return process

    return start


def subgroup(group: Cgroup, name: str) -> Cgroup:
    """A group within the test's own, which is removed with it."""
    created = Cgroup(group.path / name)
    created.create()
    return created


def charge(group: Cgroup) -> int:
    """Pages that are charged to a group."""
    return int(group.get("memory.current")) // PAGE_SIZE


def anonymous(group: Cgroup) -> int:
    """Anonymous pages of a group, by its own statistics."""
    return group.table("memory.stat")["anon"] // PAGE_SIZE


class Charge:
    """What is charged to a group from now on, against what it was."""

    def __init__(self, group: Cgroup) -> None:
        self.group = group
        self.before = charge(group), anonymous(group)

    def assert_change(self, pages: int) -> None:
        """By both accounts, but for what CPUs count in advance, before and after."""
        after = charge(self.group), anonymous(self.group)
        changes = [now - then for now, then in zip(after, self.before, strict=True)]
        assert all(abs(change - pages) <= 2 * AHEAD for change in changes), (
            f"memory.current changed by {changes[0]} pages and anon by {changes[1]}, expected "
            f"{pages} ({2 * AHEAD} more or less)"
        )


def limit(group: Cgroup, room: int) -> None:
    """Let a group have so many more pages than it has, none of them swapped out."""
    if (group.path / "memory.swap.max").exists():
        group.set("memory.swap.max", "0")
    group.set("memory.max", str((charge(group) + room) * PAGE_SIZE))


def lift(group: Cgroup) -> None:
    """Let a group have all memory again."""
    group.set("memory.max", "max")


@pytest.mark.parametrize("zeros", [False, True], ids=["a pattern", "zeros"])
def test_merging_gives_memory_back(
    zeros: bool,
    ksm_alone: KsmAlone,
    cgroup: Cgroup,
    member: Members,
    region: RegionFactory,
) -> None:
    """What is shared is charged once, and the copies of writes are charged again."""
    process = member(cgroup)
    mapped = region(PAGES, ZEROS if zeros else unique_pattern(), process=process)
    full = Charge(cgroup)
    ksm_alone.merge(mapped)
    ksm_alone.stop()
    full.assert_change(-PAGES)
    shared = Charge(cgroup)
    mapped.write_each(unique_tokens(PAGES))
    shared.assert_change(PAGES)


def test_copies_are_charged_to_who_writes(
    ksm_alone: KsmAlone, cgroup: Cgroup, member: Members, region: RegionFactory
) -> None:
    """Groups that share pages pay for their own copies alone."""
    pattern = unique_pattern()
    groups = [subgroup(cgroup, name) for name in ("a", "b")]
    regions = [region(PAGES, pattern, process=member(group)) for group in groups]
    tokens = unique_tokens(PAGES)
    full = Charge(cgroup)
    for mapped in regions:
        ksm_alone.merge(mapped)
    ksm_alone.stop()
    full.assert_change(-2 * PAGES)
    writer, other, both = (Charge(group) for group in (*groups, cgroup))
    regions[0].write_each(tokens)
    writer.assert_change(PAGES)
    other.assert_change(0)
    both.assert_change(PAGES)
    content = regions[1].read()
    assert content == pattern * (regions[1].length // len(pattern))
    assert_unmerged(regions[0], overwritten(content, tokens))


def test_removed_group_leaves_no_page_behind(
    ksm_alone: KsmAlone, cgroup: Cgroup, member: Members, region: RegionFactory
) -> None:
    """Pages that others share outlive the group they were charged to, and no longer than needed."""
    pattern = unique_pattern()
    groups = [subgroup(cgroup, name) for name in ("a", "b")]
    regions = [region(16, pattern, process=member(group)) for group in groups]
    content = regions[0].read()
    for mapped in regions:
        ksm_alone.merge(mapped)
    ksm_alone.stop()
    for number, group in enumerate(groups):
        regions[number].process.kill()
        group.remove()
        for mapped in regions[number + 1 :]:
            assert mapped.read() == content
            assert_merged_into_one(mapped)
    end = time.monotonic() + GONE_DEADLINE
    while cgroup.table("cgroup.stat")["nr_dying_descendants"]:
        assert time.monotonic() < end, cgroup.table("memory.stat")
        cgroup.reclaim(PAGES * PAGE_SIZE)  # pages of files they were the first to read
        time.sleep(POLL)


def test_merging_makes_room_under_a_limit(
    ksm_alone: KsmAlone, cgroup: Cgroup, member: Members, region: RegionFactory
) -> None:
    """Three times what the limit allows fits, as long as it is merged in turn."""
    pattern = unique_pattern()
    processes = [member(cgroup) for _ in range(3)]
    limit(cgroup, PAGES + PAGES // 2)
    regions = [ksm_alone.merge(region(PAGES, pattern, process=process)) for process in processes]
    for mapped in regions:
        assert_merged_into_one(mapped)
    assert cgroup.table("memory.events")["oom_kill"] == 0
    lift(cgroup)  # reading takes memory, too
    assert {mapped.read() for mapped in regions} == {pattern * (regions[0].length // len(pattern))}


class Cramped:
    """Merged pages that cannot all be unmerged, of a process that nothing kills.

    A process that finds no memory for what it does itself waits until the limit is lifted.
    """

    def __init__(self, group: Cgroup, region: Region, pattern: bytes) -> None:
        self.group = group
        self.region = region
        self.content = pattern * (region.length // len(pattern))  # reading it takes memory
        with open(f"/proc/{region.process.pid}/oom_score_adj", "w") as file:
            file.write("-1000")

    def call(self, function: Callable[..., None], *arguments: int) -> int:
        """Call what is to fail in the process, and lift the limit once it has; its errno.

        The first lack of memory ends the call, if the limit still holds when the kernel has looked
        for somebody to kill; then the process answers, or lacks the memory for that.
        """
        limit(self.group, PAGES // 2)
        self.region.process.send(function, *arguments)
        end = time.monotonic() + GONE_DEADLINE
        while self.group.table("memory.events")["oom"] < 2:
            if self.region.process.connection.poll(POLL):
                break
            assert time.monotonic() < end, "the limit was never reached"
        lift(self.group)
        with pytest.raises(OSError) as error:
            self.region.process.answer()
        return error.value.errno or 0

    def assert_unmerged_in_part(self) -> None:
        """As far as there was memory: the rest is merged and mergeable, and all is right."""
        unmerged = self.region.count(PageKind.ANON)
        assert 0 < unmerged < self.region.pages, self.region.describe()
        assert self.region.count(PageKind.KSM) == self.region.pages - unmerged
        assert all("mg" in vma.flags for vma in self.region.vmas())
        assert self.region.read() == self.content


def test_unmerging_beyond_the_limit_fails(
    ksm_alone: KsmAlone, cgroup: Cgroup, member: Members, region: RegionFactory
) -> None:
    """MADV_UNMERGEABLE: EAGAIN, and once there is memory it succeeds."""
    pattern = unique_pattern()
    merged = ksm_alone.merge(region(PAGES, pattern, process=member(cgroup)))
    ksm_alone.stop()
    cramped = Cramped(cgroup, merged, pattern)
    unmerge = (libc.madvise, merged.address, merged.length, lib.MADV_UNMERGEABLE)
    assert cramped.call(*unmerge) == errno.EAGAIN
    cramped.assert_unmerged_in_part()
    merged.advise(lib.MADV_UNMERGEABLE)
    assert_unmerged(merged, cramped.content)
    assert_not_mergeable(merged)


@pytest.mark.needs("memory_merge_prctl")
def test_prctl_beyond_the_limit_fails(
    ksm_alone: KsmAlone, cgroup: Cgroup, member: Members, region: RegionFactory
) -> None:
    """PR_SET_MEMORY_MERGE=0: ENOMEM, and the process is mergeable as before."""
    process = member(cgroup)
    process.execute()  # or pages it shares with its parent would merge
    process.call(libc.set_memory_merge, 1)
    pattern = unique_pattern()
    merged = region(PAGES, pattern, process=process)
    ksm_alone.wait_until_merged(merged)
    ksm_alone.stop()
    cramped = Cramped(cgroup, merged, pattern)
    assert cramped.call(libc.set_memory_merge, 0) == errno.ENOMEM
    cramped.assert_unmerged_in_part()
    assert process.call(libc.get_memory_merge) == 1
    process.call(libc.set_memory_merge, 0)
    assert process.call(libc.get_memory_merge) == 0
    assert_unmerged(merged, cramped.content)


def test_run_2_beyond_the_limit_fails(
    ksm_alone: KsmAlone, cgroup: Cgroup, member: Members, region: RegionFactory
) -> None:
    """ENOMEM, and ksmd is stopped; once there is memory it succeeds."""
    pattern = unique_pattern()
    merged = ksm_alone.merge(region(PAGES, pattern, process=member(cgroup)))
    cramped = Cramped(cgroup, merged, pattern)
    limit(cgroup, PAGES // 2)
    with pytest.raises(OSError, match="ksm/run") as error:
        ksm_alone.unmerge_all()
    lift(cgroup)
    assert error.value.errno == errno.ENOMEM
    assert ksm_alone.settings.run is RunState.STOP
    cramped.assert_unmerged_in_part()
    ksm_alone.unmerge_all()
    assert_unmerged(merged, cramped.content)
    assert merged.process.merging_pages == 0


def test_process_that_runs_out_of_memory_while_it_merges(
    ksm_alone: KsmAlone,
    cgroup: Cgroup,
    member: Members,
    region: RegionFactory,
    evidence: Evidence,
) -> None:
    """It is killed, and its pages are gone from the books; who shared pages with it keeps them."""
    pattern = unique_pattern()
    counted = ksm_alone.settings.has("ksm_zero_pages")
    survivor = ksm_alone.merge(region(16, pattern))
    content = survivor.read()
    victim = member(cgroup)
    shared = ksm_alone.merge(region(16, pattern, process=victim))
    (frame,) = frames(survivor, shared)
    before = system_zero_pages(ksm_alone.settings, evidence.pids()) if counted else 0
    ksm_alone.merge(region(16, ZEROS, process=victim))
    large = Region.map(victim, 2 * PAGES)
    large.advise(lib.MADV_MERGEABLE)
    limit(cgroup, PAGES)
    with pytest.raises(ProcessLost):
        large.fill(unique_tokens(large.pages))
    assert victim.kill() == -signal.SIGKILL
    assert cgroup.table("memory.events")["oom_kill"] == 1

    ksm_alone.wait_for_passes(3)
    ksm_alone.stop()
    assert frame_counts([frame]) == {frame: survivor.pages}
    assert survivor.read() == content
    assert survivor.process.merging_pages == survivor.pages
    if counted:
        assert system_zero_pages(ksm_alone.settings, evidence.pids()) == before


@pytest.mark.numa
@pytest.mark.needs("cpuset_cgroup", "move_pages", "numa_nodes")
def test_merged_pages_follow_the_group_to_another_node(
    ksm_alone: KsmAlone, cgroup: Cgroup, member: Members, region: RegionFactory
) -> None:
    """Bound to one node pages merge there; bound to another they are moved, and stay merged."""
    ksm_alone.merge_within_nodes()
    first, second = numa.nodes_with_memory()[:2]
    cgroup.set("cpuset.mems", str(first))
    pattern = unique_pattern()
    regions = [ksm_alone.merge(region(16, pattern, process=member(cgroup))) for _ in range(2)]
    content = regions[0].read()
    assert [set(nodes_of(mapped)) for mapped in regions] == [{first}] * 2
    assert len(frames(*regions)) == 1
    ksm_alone.stop()

    def bind(_: Region, node: int) -> list[int]:
        # It moves pages when it is bound, once, and leaves those that somebody has in hand.
        cgroup.set("cpuset.mems", f"{first},{second}")
        cgroup.set("cpuset.mems", str(node))
        return []

    for mapped in regions:
        put(mapped, second, bind)
    ksm_alone.start()
    ksm_alone.wait_for_passes(3)
    ksm_alone.stop()
    assert len(frames(*regions)) == 1
    for mapped in regions:
        assert mapped.read() == content
        assert mapped.process.merging_pages == mapped.pages
