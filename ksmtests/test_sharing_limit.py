# SPDX-License-Identifier: GPL-2.0
"""max_page_sharing: how many PTEs may map one KSM page, and what becomes of the rest."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged
from mm.process import Process
from mm.region import unique_pattern
from plugins.ksm import EnterFirst, KsmAlone, ReadBooks
from plugins.processes import Fork, RegionFactory
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import PageKind, frame_counts

pytestmark = [pytest.mark.sharing_limit, pytest.mark.needs("ksm_stat", "page_frames")]


@pytest.mark.parametrize("limit", [2, 3, 7])
def test_no_page_is_shared_beyond_the_limit(
    limit: int,
    ksm_alone: KsmAlone,
    process: Process,
    region: RegionFactory,
    enter_first: EnterFirst,
) -> None:
    """Equal pages merge into as many KSM pages as the limit asks for, and no more than one more."""
    ksm_alone.limit_sharing(limit)
    enter_first(process)
    ksm_alone.start()
    merged = ksm_alone.merge(region(42))
    ksm_alone.stop()
    assert_merged_into_one(merged)
    sharers = Counter(state.pfn for state in merged.states())
    assert max(sharers.values()) == limit
    assert frame_counts(sharers) == dict(sharers)
    fewest = -(-merged.pages // limit)
    assert fewest <= len(sharers) <= fewest + 1
    assert merged.process.merging_pages == merged.pages


@pytest.mark.fixed_by("mm/ksm: fix possible UAF of stable_node", "6.10")
def test_chains_come_and_go_while_ksmd_walks_them(
    ksm_alone: KsmAlone, process: Process, region: RegionFactory, enter_first: EnterFirst
) -> None:
    """Duplicates of a KSM page are pruned and made anew; content and kernel stay sane."""
    ksm_alone.settings.stable_node_chains_prune_millisecs = 0
    ksm_alone.limit_sharing(2)
    enter_first(process)
    ksm_alone.start()
    merged = ksm_alone.merge(region(64))
    content = merged.read()
    for _ in range(10):
        half, _rest = merged.halves()
        half.advise(lib.MADV_UNMERGEABLE)
        assert_unmerged(half, content[: half.length])
        ksm_alone.merge(half)
        assert merged.read() == content
    assert ksm_alone.settings.stable_node_chains >= 1
    assert ksm_alone.settings.stable_node_dups >= merged.pages // 2


def settle(ksm_alone: KsmAlone, passes: int = 3) -> None:
    """Whole passes, so that it does not matter where one would have been cut."""
    ksm_alone.stop()
    for _ in range(passes):
        ksm_alone.pass_once()


@pytest.fixture
def limited(ksm_alone: KsmAlone, books: ReadBooks) -> Callable[[int], None]:
    """Set the limit, with books empty of all but other programs' pages, and ksmd stopped."""

    def limit(to: int) -> None:
        ksm_alone.limit_sharing(to)
        ksm_alone.stop()
        counts = books()
        if not counts.others.rmap_items:
            assert (counts.chains, counts.duplicates) == (0, 0)

    return limit


@pytest.mark.parametrize(
    ("limit", "copies"), [(2, 2), (2, 8), (3, 3), (3, 9), (4, 6), (5, 17)], ids=str
)
def test_books_of_pages_at_the_limit(
    limit: int,
    copies: int,
    limited: Callable[[int], None],
    ksm_alone: KsmAlone,
    region: RegionFactory,
    books: ReadBooks,
) -> None:
    """So many copies are so many KSM pages, in one chain if there are several; all are full."""
    limited(limit)
    pages = region(copies)
    content = pages.read()
    pages.advise(lib.MADV_MERGEABLE)
    settle(ksm_alone)
    ksm_pages = -(-copies // limit)
    sharers = Counter(pages.frames())
    assert sorted(sharers.values()) == sorted(
        [limit] * (copies // limit) + [copies % limit] * (copies % limit > 0)
    )
    assert pages.count(PageKind.KSM) == copies, pages.describe()
    counts = books()
    counts.assert_has(shared=ksm_pages, sharing=copies - ksm_pages)
    assert pages.read() == content
    ksm_alone.skip_beside_others("the number of chains")
    assert counts.chains == (ksm_pages > 1)
    assert counts.duplicates == (ksm_pages if ksm_pages > 1 else 0)


@pytest.mark.parametrize("limit", [2, 3])
def test_one_page_more_than_the_limit_stays_alone(
    limit: int,
    limited: Callable[[int], None],
    ksm_alone: KsmAlone,
    region: RegionFactory,
    books: ReadBooks,
) -> None:
    """A page that finds only full ones waits for another that waits."""
    limited(limit)
    pattern = unique_pattern()
    pages = region(limit + 1, pattern)
    pages.advise(lib.MADV_MERGEABLE)
    settle(ksm_alone, passes=6)
    assert pages.count(PageKind.KSM) == limit, pages.describe()
    books().assert_has(shared=1, sharing=limit - 1, unshared=1)
    second = region(1, pattern)
    second.advise(lib.MADV_MERGEABLE)
    settle(ksm_alone)
    assert pages.count(PageKind.KSM) == limit + 1, pages.describe()
    books().assert_has(shared=2, sharing=limit)
    assert pages.read() + second.read() == pattern * ((limit + 2) * PAGE_SIZE // 16)


def test_limit_holds_across_processes(
    limited: Callable[[int], None],
    ksm_alone: KsmAlone,
    region: RegionFactory,
    start_process: Callable[[], Process],
    enter_first: EnterFirst,
    books: ReadBooks,
) -> None:
    """Who maps a page does not matter, only how often it is mapped."""
    limited(3)
    pattern = unique_pattern()
    regions = [region(4, pattern, process=start_process()) for _ in range(3)]
    enter_first(*(mapped.process for mapped in regions))
    for mapped in regions:
        mapped.advise(lib.MADV_MERGEABLE)
    settle(ksm_alone)
    sharers = Counter(frame for mapped in regions for frame in mapped.frames())
    assert sorted(sharers.values()) == [3, 3, 3, 3]
    assert frame_counts(sharers) == dict(sharers)
    books().assert_has(shared=4, sharing=8)
    assert [mapped.process.merging_pages for mapped in regions] == [4, 4, 4]


@pytest.mark.fixed_by("mm/ksm: fix incorrect KSM counter handling in mm_struct during fork", "6.18")
def test_fork_may_go_beyond_the_limit(
    limited: Callable[[int], None],
    ksm_alone: KsmAlone,
    region: RegionFactory,
    fork: Fork,
    books: ReadBooks,
) -> None:
    """A child's copies stay with their page, are counted, and nobody else joins it."""
    limited(2)
    pattern = unique_pattern()
    pages = region(2, pattern)
    pages.advise(lib.MADV_MERGEABLE)
    settle(ksm_alone)
    (frame,) = set(pages.frames())
    copied = pages.seen_from(fork(pages.process))
    settle(ksm_alone)
    assert pages.frames() == copied.frames() == [frame, frame]
    assert frame_counts([frame]) == {frame: 4}
    books().assert_has(shared=1, sharing=3)
    assert copied.process.merging_pages == 2
    late = region(2, pattern)
    late.advise(lib.MADV_MERGEABLE)
    settle(ksm_alone)
    assert late.count(PageKind.KSM) == 2
    assert frame not in late.frames()
    books().assert_has(shared=2, sharing=4)


def test_place_that_becomes_free_is_taken(
    limited: Callable[[int], None],
    ksm_alone: KsmAlone,
    region: RegionFactory,
    books: ReadBooks,
) -> None:
    """When a sharer of a full page leaves, the next page like it joins that page."""
    limited(3)
    pattern = unique_pattern()
    pages = region(3, pattern)
    pages.advise(lib.MADV_MERGEABLE)
    settle(ksm_alone)
    (frame,) = set(pages.frames())
    pages.write(0, b"x")
    settle(ksm_alone)
    books().assert_has(shared=1, sharing=1, unshared=1)
    late = region(1, pattern)
    late.advise(lib.MADV_MERGEABLE)
    settle(ksm_alone)
    assert late.frames() == [frame]
    books().assert_has(shared=1, sharing=2, unshared=1)


class Duplicates(NamedTuple):
    """Two KSM pages of the same content, of which one has more sharers; both have a place."""

    frames: list[int]
    pattern: bytes


@pytest.fixture
def duplicates(
    limited: Callable[[int], None], ksm_alone: KsmAlone, region: RegionFactory
) -> Callable[[int], Duplicates]:
    """Make the first or the second of two duplicates the fuller one."""
    limited(5)

    def make(fuller: int) -> Duplicates:
        pattern = unique_pattern()
        pages = region(10, pattern)
        pages.advise(lib.MADV_MERGEABLE)
        settle(ksm_alone)
        sharers: dict[int, list[int]] = {}
        for page, frame in enumerate(pages.frames()):
            sharers.setdefault(frame, []).append(page)
        numbers = list(sharers.values())
        assert [len(each) for each in numbers] == [5, 5]
        for page in [*numbers[fuller][:1], *numbers[1 - fuller][:3]]:
            pages.part(page, 1).unmap()
        settle(ksm_alone)
        return Duplicates(list(sharers), pattern)

    return make


def joined(ksm_alone: KsmAlone, region: RegionFactory, among: Duplicates) -> int:
    """Which of the duplicates a late page like them joins."""
    late = region(1, among.pattern)
    late.advise(lib.MADV_MERGEABLE)
    settle(ksm_alone)
    (frame,) = late.frames()
    assert frame in among.frames, late.describe()
    return among.frames.index(frame)


@pytest.mark.parametrize("fuller", [0, 1], ids=["first", "second"])
def test_page_joins_the_duplicate_with_most_sharers(
    fuller: int,
    duplicates: Callable[[int], Duplicates],
    ksm_alone: KsmAlone,
    region: RegionFactory,
) -> None:
    """A walk that prunes a chain looks at all duplicates, and chooses the fullest with a place."""
    ksm_alone.settings.stable_node_chains_prune_millisecs = 0
    assert joined(ksm_alone, region, duplicates(fuller)) == fuller


def test_chain_is_not_walked_to_its_end_before_it_is_time_to_prune_it(
    duplicates: Callable[[int], Duplicates], ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """Until then, the first duplicate with a place is taken, however many sharers others have."""
    ksm_alone.settings.stable_node_chains_prune_millisecs = 3_600_000
    choices = [joined(ksm_alone, region, duplicates(fuller)) for fuller in (0, 1)]
    assert choices[0] == choices[1], choices


@pytest.mark.upstream_bug_on(
    "arm",
    "with LPAE, pages that were just written merge at the second attempt",
    symbol="CONFIG_ARM_LPAE",
)
@pytest.mark.fixed_by("mm/ksm: optimize the chain()/chain_prune() interfaces", "6.11", stable=False)
def test_chains_are_gone_with_their_last_sharers(
    limited: Callable[[int], None],
    ksm_alone: KsmAlone,
    region: RegionFactory,
    books: ReadBooks,
) -> None:
    """Duplicates leave the books with their pages; the chain, when ksmd next looks into it.

    Before 6.11 it stays where its last duplicate has no place left.
    """
    limited(2)
    ksm_alone.settings.stable_node_chains_prune_millisecs = 0
    pattern = unique_pattern()
    pages = region(12, pattern)
    pages.advise(lib.MADV_MERGEABLE)
    settle(ksm_alone)
    counts = books()
    counts.assert_has(shared=6, sharing=6)
    pages.part(0, 8).advise(lib.MADV_UNMERGEABLE)
    settle(ksm_alone, passes=2)
    remaining = books()
    remaining.assert_has(shared=2, sharing=2)
    pages.part(8, 2).advise(lib.MADV_UNMERGEABLE)
    looks_into_it = region(1, pattern)
    looks_into_it.advise(lib.MADV_MERGEABLE)
    settle(ksm_alone)
    single = books()
    single.assert_has(shared=1, sharing=1, unshared=1)
    looks_into_it.unmap()
    pages.unmap()
    keeps_ksmd_awake = region(2, pattern)
    keeps_ksmd_awake.advise(lib.MADV_MERGEABLE)
    settle(ksm_alone)
    empty = books()
    empty.assert_has(shared=1, sharing=1)
    ksm_alone.skip_beside_others("the number of chains")
    assert (counts.chains, counts.duplicates) == (1, 6)
    assert (remaining.chains, remaining.duplicates) == (1, 2)
    assert (single.chains, single.duplicates) == (0, 0)
    assert (empty.chains, empty.duplicates) == (0, 0)


def test_run_2_takes_chains_apart(
    limited: Callable[[int], None],
    ksm_alone: KsmAlone,
    region: RegionFactory,
    books: ReadBooks,
) -> None:
    """Nothing is left of chains and duplicates, and every page is the process's own."""
    limited(2)
    pages = region(9)
    content = pages.read()
    pages.advise(lib.MADV_MERGEABLE)
    settle(ksm_alone)
    assert ksm_alone.settings.stable_node_chains >= 1
    ksm_alone.unmerge_all()
    counts = books()
    counts.assert_has(shared=0, sharing=0)
    assert (counts.chains, counts.duplicates) == (0, 0)
    assert_unmerged(pages, content)
