# SPDX-License-Identifier: GPL-2.0
"""merge_across_nodes: equal pages of several NUMA nodes become one, or one on each node."""

from collections import Counter

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged, assert_zero_pages
from ksmtests.placement import frames, nodes_of, put
from mm.region import ZEROS, Region, unique_pattern
from plugins.ksm import KsmAlone
from plugins.processes import RegionFactory
from uapi import numa
from uapi.libc import lib
from uapi.pagemap import PageKind, frame_counts

pytestmark = [
    pytest.mark.numa,
    pytest.mark.needs("ksm_stat", "page_frames", "move_pages", "numa_nodes"),
]

LIMITS = pytest.mark.parametrize("limit", [256, 2], ids=["one page", "chains"])


@pytest.fixture
def nodes() -> list[int]:
    """The nodes that have memory, two or more."""
    return numa.nodes_with_memory()


def assert_on_one_node(region: Region, node: int, limit: int) -> set[int]:
    """All pages are merged, on that node, by at most so many to a page frame; the frames."""
    assert_merged_into_one(region)
    assert set(nodes_of(region)) == {node}
    sharers = Counter(state.pfn for state in region.states())
    assert max(sharers.values()) <= limit
    assert len(sharers) <= -(-region.pages // limit) + (limit < region.pages)
    return set(sharers)


@pytest.mark.parametrize("pages", [1, 10, 100])
def test_nodes_share_one_page(
    pages: int, ksm_alone: KsmAlone, region: RegionFactory, nodes: list[int]
) -> None:
    """Across nodes all equal pages are one page frame, on one of the nodes."""
    pattern = unique_pattern()
    regions = [put(region(pages, pattern), node) for node in nodes]
    for mapped in regions:
        mapped.advise(lib.MADV_MERGEABLE)
    for mapped in regions:
        ksm_alone.wait_until_merged(mapped)
    shared = frames(*regions)
    assert len(shared) == 1
    assert frame_counts(shared) == {shared.pop(): pages * len(nodes)}


@pytest.mark.parametrize("pages", [2, 10, 100])
def test_each_node_has_a_page_of_its_own(
    pages: int, ksm_alone: KsmAlone, region: RegionFactory, nodes: list[int]
) -> None:
    """Within nodes equal pages are one page frame on their own node, and none on another."""
    ksm_alone.merge_within_nodes()
    pattern = unique_pattern()
    regions = [put(region(pages, pattern), node) for node in nodes]
    content = regions[0].read()
    for mapped in regions:
        mapped.advise(lib.MADV_MERGEABLE)
    for mapped in regions:
        ksm_alone.wait_until_merged(mapped)
    ksm_alone.wait_for_passes(3)
    shared = [frames(mapped) for mapped in regions]
    assert [len(each) for each in shared] == [1] * len(nodes)
    assert frame_counts(set().union(*shared)) == dict.fromkeys(set().union(*shared), pages)
    for mapped, node in zip(regions, nodes, strict=True):
        assert set(nodes_of(mapped)) == {node}
        assert mapped.read() == content


@pytest.mark.parametrize("merged", [False, True], ids=["to a lone page", "to a KSM page"])
def test_lone_page_of_a_node_stays_alone(
    merged: bool, ksm_alone: KsmAlone, region: RegionFactory, nodes: list[int]
) -> None:
    """Within nodes the only page of its content on a node has nothing to merge with elsewhere."""
    ksm_alone.merge_within_nodes()
    pattern = unique_pattern()
    elsewhere = put(region(2 if merged else 1, pattern), nodes[0])
    if merged:
        ksm_alone.merge(elsewhere)
    lone = put(region(1, pattern), nodes[1])
    for mapped in (elsewhere, lone):
        mapped.advise(lib.MADV_MERGEABLE)
    ksm_alone.merge(put(region(2), nodes[1]))
    ksm_alone.wait_for_passes(3)
    assert lone.count(PageKind.ANON) == 1, lone.describe()
    assert elsewhere.count(PageKind.ANON) == (0 if merged else 1), elsewhere.describe()
    assert nodes_of(lone) == [nodes[1]]


@pytest.mark.needs("ksm_zero_pages")
def test_zeros_are_placed_whatever_their_node(
    ksm_alone: KsmAlone, region: RegionFactory, nodes: list[int]
) -> None:
    """The zero page is that of all nodes, even within nodes."""
    ksm_alone.merge_within_nodes()
    for node in nodes:
        assert_zero_pages(ksm_alone.merge(put(region(4, ZEROS), node)))


def test_sharing_limit_holds_on_each_node(
    ksm_alone: KsmAlone, region: RegionFactory, nodes: list[int]
) -> None:
    """Within nodes every node has a chain of its own."""
    ksm_alone.limit_sharing(7)
    ksm_alone.merge_within_nodes()
    pattern = unique_pattern()
    regions = [put(region(42, pattern), node) for node in nodes]
    for mapped in regions:
        mapped.advise(lib.MADV_MERGEABLE)
    for mapped, node in zip(regions, nodes, strict=True):
        ksm_alone.wait_until_merged(mapped)
        assert len(assert_on_one_node(mapped, node, 7)) >= 6


class Moved:
    """Pages merged on the first node, and moved to the second with ksmd stopped."""

    def __init__(self, region: Region, nodes: list[int], limit: int) -> None:
        self.region = region
        self.home, self.node = nodes[:2]
        self.limit = limit
        self.content = region.read()
        put(region, self.node)
        self.frames = frames(region)

    def assert_kept(self) -> None:
        """It is what it was made, and can be unmerged."""
        assert assert_on_one_node(self.region, self.node, self.limit) == self.frames
        assert self.region.read() == self.content
        self.region.advise(lib.MADV_UNMERGEABLE)
        assert_unmerged(self.region, self.content)


@LIMITS
def test_moved_page_is_one_of_its_new_node(
    limit: int, ksm_alone: KsmAlone, region: RegionFactory, nodes: list[int]
) -> None:
    """Newcomers on the node it was moved to share it, and those on the old node do not."""
    ksm_alone.limit_sharing(limit)
    ksm_alone.merge_within_nodes()
    pattern = unique_pattern()
    merged = ksm_alone.merge(put(region(8, pattern), nodes[0]))
    ksm_alone.stop()
    moved = Moved(merged, nodes, limit)
    ksm_alone.start()
    ksm_alone.wait_for_passes(3)
    arrivals = {node: put(region(8, pattern), node) for node in nodes[:2]}
    for node, arrived in arrivals.items():
        ksm_alone.merge(arrived)
        assert_on_one_node(arrived, node, limit)
    assert frames(arrivals[moved.home]).isdisjoint(moved.frames)
    if limit > 2:
        assert frames(arrivals[moved.node]) == moved.frames
    moved.assert_kept()


@LIMITS
def test_moved_page_stands_beside_that_of_its_new_node(
    limit: int, ksm_alone: KsmAlone, region: RegionFactory, nodes: list[int]
) -> None:
    """Two KSM pages of one content on a node are kept apart, and newcomers share one of them."""
    ksm_alone.limit_sharing(limit)
    ksm_alone.merge_within_nodes()
    pattern = unique_pattern()
    merged, native = (put(region(8, pattern), node) for node in nodes[:2])
    for mapped in (merged, native):
        ksm_alone.merge(mapped)
    ksm_alone.stop()
    frames_of_native = frames(native)
    moved = Moved(merged, nodes, limit)
    ksm_alone.start()
    ksm_alone.wait_for_passes(3)
    assert assert_on_one_node(native, moved.node, limit) == frames_of_native
    assert ksm_alone.settings.stable_node_dups >= len(moved.frames | frames_of_native)
    arrived = ksm_alone.merge(put(region(8, pattern), moved.node))
    assert_on_one_node(arrived, moved.node, limit)
    if limit > 2:
        assert frames(arrived) <= moved.frames | frames_of_native
    moved.assert_kept()


@pytest.mark.upstream_bug(
    "a KSM page that one process still maps is lost to KSM once it is moved to a node that has "
    "its content"
)
def test_moved_page_with_one_user_left_stays_in_the_books(
    ksm_alone: KsmAlone, region: RegionFactory, nodes: list[int]
) -> None:
    """It may merge with that of its new node or stand beside it, but must be counted."""
    ksm_alone.merge_within_nodes()
    pattern = unique_pattern()
    merged, native = (put(region(2, pattern), node) for node in nodes[:2])
    content = merged.read(0, 1)
    for mapped in (merged, native):
        ksm_alone.merge(mapped)
    ksm_alone.stop()
    merged.part(1, 1).advise(lib.MADV_DONTNEED)
    last = put(merged.part(0, 1), nodes[1])
    assert frames(last).isdisjoint(frames(native))
    ksm_alone.start()
    ksm_alone.wait_for_passes(5)
    ksm_alone.stop()
    assert last.read() == content
    mapped_pages = last.count(PageKind.KSM) + native.count(PageKind.KSM)
    assert merged.process.merging_pages == mapped_pages == 3


@pytest.mark.parametrize("limit", [256, 2], ids=["one page each", "beside another in a chain"])
def test_pages_that_change_places_are_at_home_there(
    limit: int, ksm_alone: KsmAlone, region: RegionFactory, nodes: list[int]
) -> None:
    """Each takes the other's place in the books, even if only one process maps it."""
    ksm_alone.limit_sharing(limit)
    ksm_alone.merge_within_nodes()
    pattern = unique_pattern()
    in_chain = 2 if limit == 2 else 0
    native = ksm_alone.merge(put(region(2 + in_chain, pattern), nodes[1]))
    merged = ksm_alone.merge(put(region(2, pattern), nodes[0]))
    # Mapped below, thus scanned before.
    assert merged.address < native.address
    leaving = native.part(0, 1)
    pair = [
        page for page in range(1, native.pages) if frames(native.part(page, 1)) == frames(leaving)
    ]
    for last_but_one in (merged.part(1, 1), native.part(pair[0], 1)):
        last_but_one.advise(lib.MADV_DONTNEED)
    ksm_alone.wait_for_passes(1)
    ksm_alone.stop()
    moved = [put(merged.part(0, 1), nodes[1]), put(leaving, nodes[0])]
    before = [frames(page) for page in moved]
    ksm_alone.start()
    ksm_alone.wait_for_passes(3)
    assert [frames(page) for page in moved] == before
    mapped = [merged.part(0, 1), native]
    assert merged.process.merging_pages == sum(each.count(PageKind.KSM) for each in mapped)
    assert sum(each.count(PageKind.KSM) for each in mapped) == 2 + in_chain
    for page, node in zip(moved, (nodes[1], nodes[0]), strict=True):
        arrived = ksm_alone.merge(put(region(1, pattern), node))
        assert frames(arrived) == frames(page)


@LIMITS
def test_newcomer_finds_the_page_gone_from_its_node(
    limit: int, ksm_alone: KsmAlone, region: RegionFactory, nodes: list[int]
) -> None:
    """Even before ksmd comes to those who share the moved page, nobody else on the node does."""
    ksm_alone.limit_sharing(limit)
    ksm_alone.merge_within_nodes()
    pattern = unique_pattern()
    merged = ksm_alone.merge(put(region(8, pattern), nodes[0]))
    ksm_alone.stop()
    ksm_alone.pass_once()
    # Mapped below, thus scanned before.
    arrived = put(region(8, pattern), nodes[0])
    assert arrived.address < merged.address
    arrived.advise(lib.MADV_MERGEABLE)
    ksm_alone.pass_once()
    assert arrived.count(PageKind.ANON) == arrived.pages, arrived.describe()
    moved = Moved(merged, nodes, limit)
    ksm_alone.pass_once()
    ksm_alone.pass_once()
    ksm_alone.start()
    ksm_alone.wait_until_merged(arrived)
    ksm_alone.wait_for_passes(3)
    assert_on_one_node(arrived, moved.home, limit)
    moved.assert_kept()


@pytest.mark.needs("pages_scanned")
@pytest.mark.parametrize("moves", [False, True], ids=["it stays", "it moves"])
def test_page_that_moves_while_ksmd_has_it_in_mind(
    moves: bool, ksm_alone: KsmAlone, region: RegionFactory, nodes: list[int]
) -> None:
    """ksmd remembers a page's node of when it looked: it is not one to merge with any more."""
    ksm_alone.merge_within_nodes()
    known, pattern = unique_pattern(), unique_pattern()
    ksm_alone.merge(put(region(2, known), nodes[0]))
    ksm_alone.stop()
    ksm_alone.pass_once()
    pages = put(region(5), nodes[0])
    kept, marker, coming = (pages.part(page, 1) for page in (0, 2, 4))
    for page, content in ((kept, pattern), (marker, known), (coming, pattern)):
        page.fill(content)
        page.advise(lib.MADV_MERGEABLE)
    ksm_alone.pass_once()
    # The marker merges with what is known, once ksmd is past the page before it.
    marker.fill(known)  # before 6.11 it has merged, and must do so once more
    ksm_alone.scan_until(lambda: marker.count(PageKind.KSM) == 1)
    if moves:
        put(kept, nodes[1])
    ksm_alone.pass_once()
    if not moves:
        ksm_alone.skip_beside_others("the order of the unstable tree")
    merged = kept.count(PageKind.KSM) + coming.count(PageKind.KSM)
    assert merged == (0 if moves else 2), pages.describe()
    ksm_alone.pass_once()
    assert kept.count(PageKind.KSM) + coming.count(PageKind.KSM) == merged
