# SPDX-License-Identifier: GPL-2.0
"""KSM pages that move to other page frames: all who share one see the new one, and the content."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged, overwritten
from ksmtests.placement import by_migrate_pages, frames, nodes_of, put
from mm.process import Process
from mm.region import Region, unique_pattern, unique_tokens
from plugins.ksm import KsmAlone
from plugins.processes import Fork, RegionFactory
from uapi import libc, numa
from uapi.libc import lib
from uapi.pagemap import frame_counts

pytestmark = [pytest.mark.migration, pytest.mark.needs("ksm_stat", "page_frames")]

ACROSS_NODES = pytest.mark.needs("move_pages", "numa_nodes")
COMPACT_MEMORY = Path("/proc/sys/vm/compact_memory")  # of all nodes, by a write
ROUNDS = 20


def other_node(region: Region) -> int:
    """A node that has memory and none of the region's pages."""
    return next(node for node in numa.nodes_with_memory() if node not in nodes_of(region))


def assert_shared(regions: list[Region], content: bytes) -> int:
    """All pages of all regions map one KSM page, and nobody else does; its page frame."""
    for mapped in regions:
        assert_merged_into_one(mapped)
        assert mapped.read() == content
    (frame,) = frames(*regions)
    assert frame_counts([frame]) == {frame: sum(mapped.pages for mapped in regions)}
    return frame


@ACROSS_NODES
def test_one_of_its_users_cannot_move_a_shared_page(
    ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """MPOL_MF_MOVE moves what is the process's own alone: EACCES, and nothing has changed."""
    merged = ksm_alone.merge(region(8))
    content, frame = merged.read(), frames(merged)
    statuses = libc.move_pages(
        merged.process.pid, merged.addresses(), other_node(merged), lib.MPOL_MF_MOVE
    )
    assert statuses == [-errno.EACCES] * merged.pages
    assert {assert_shared([merged], content)} == frame


@ACROSS_NODES
@pytest.mark.fixed_by("mm: migrate: fix remove_migration_pte() for ksm pages", "4.11")
@pytest.mark.parametrize("mover", range(4), ids=["parent", "child", "grandchild", "stranger"])
def test_all_who_share_a_page_follow_it(
    mover: int,
    ksm_alone: KsmAlone,
    region: RegionFactory,
    start_process: Callable[[], Process],
    fork: Fork,
) -> None:
    """Whoever moves it: those ksmd has merged, in VMAs that were split since, and their heirs."""
    pattern = unique_pattern()
    own = ksm_alone.merge(region(8, pattern))
    foreign = ksm_alone.merge(region(8, pattern, process=start_process()))
    content = own.read()
    ksm_alone.stop()
    child = fork(own.process)
    foreign.part(3, 2).protect(lib.PROT_READ)
    family = [own, own.seen_from(child), own.seen_from(fork(child)), foreign]
    old = assert_shared(family, content)
    node = other_node(own)
    put(family[mover], node)

    assert assert_shared(family, content) != old
    assert [set(nodes_of(mapped)) for mapped in family] == [{node}] * 4
    for mapped in (own, foreign):
        assert mapped.process.merging_pages == mapped.pages
    tokens = unique_tokens(own.pages)
    own.write_each(tokens)
    assert_unmerged(own, overwritten(content, tokens))
    assert_shared(family[1:], content)


@ACROSS_NODES
def test_newcomers_merge_with_a_page_that_moved(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """KSM finds it at its new place, again and again, and what it left is no KSM page."""
    pattern = unique_pattern()
    regions = [ksm_alone.merge(region(4, pattern))]
    content = regions[0].read()
    for _ in range(4):
        ksm_alone.stop()
        old = assert_shared(regions, content)
        put(regions[-1], other_node(regions[0]))
        moved = assert_shared(regions, content)
        assert moved != old
        ksm_alone.start()
        regions.append(ksm_alone.merge(region(4, pattern)))
        assert assert_shared(regions, content) == moved
    assert regions[0].process.merging_pages == sum(mapped.pages for mapped in regions)
    for mapped in regions:
        mapped.advise(lib.MADV_UNMERGEABLE)
        assert_unmerged(mapped, content)


@ACROSS_NODES
def test_duplicates_of_a_page_move_one_by_one(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """Beyond the sharing limit each KSM page has users of its own: those of others stay."""
    ksm_alone.limit_sharing(2)
    merged = ksm_alone.merge(region(8))
    content = merged.read()
    ksm_alone.stop()
    before = [state.pfn for state in merged.states()]
    followers = [page for page, frame in enumerate(before) if frame == before[3]]
    put(merged.part(3, 1), other_node(merged))
    after = [state.pfn for state in merged.states()]
    assert [page for page in range(merged.pages) if before[page] != after[page]] == followers
    assert frame_counts([after[3]]) == {after[3]: len(followers)}
    assert merged.read() == content


@ACROSS_NODES
@pytest.mark.fixed_by("mm: migrate: fix remove_migration_pte() for ksm pages", "4.11")
def test_migrate_pages_moves_merged_pages(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """migrate_pages(2), to and fro, while ksmd goes on merging."""
    merged = ksm_alone.merge(region(20))
    content = merged.read()
    for _ in range(ROUNDS):
        put(merged, other_node(merged), by_migrate_pages)
        assert_shared([merged], content)
    assert merged.process.merging_pages == merged.pages


@pytest.mark.needs("compaction")
def test_compaction_keeps_what_is_merged(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """Content and sharing, while ksmd looks for more; where pages come to lie is not KSM's."""
    merged, holes = region(512).halves()
    twice = unique_tokens(merged.pages // 2)
    merged.fill([*twice, *twice])
    ksm_alone.merge(merged)
    holes.advise(lib.MADV_DONTNEED)
    content = merged.read()
    for _ in range(ROUNDS):
        COMPACT_MEMORY.write_text("1")
        assert merged.read() == content
    ksm_alone.stop()
    first, second = (frames(half) for half in merged.halves())
    assert first == second
    assert frame_counts(first) == dict.fromkeys(first, 2)
    assert merged.process.merging_pages == merged.pages
    tokens = unique_tokens(merged.pages)
    merged.write_each(tokens)
    assert_unmerged(merged, overwritten(content, tokens))
