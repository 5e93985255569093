# SPDX-License-Identifier: GPL-2.0
"""What decides whether pages merge is their content, all of it, and nothing else.

Different pages with the same checksum (xxhash) cannot be had at will: that the checksum alone
merges nothing is shown by pages that differ, and that it covers the page by pages that change.
"""

from collections import Counter
from collections.abc import Callable

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged
from mm import churning, served
from mm.process import Process
from mm.region import Region, unique_pattern, unique_tokens
from plugins.ksm import EnterFirst, KsmAlone, ReadBooks
from plugins.processes import Fork, RegionFactory
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import PageKind, frame_counts

pytestmark = [pytest.mark.sharing, pytest.mark.needs("ksm_stat", "page_frames")]

FLIPPING = 256
FLIPS = 200
PLACES = {
    "first byte": 0,
    "second byte": 1,
    "last byte of the first half": PAGE_SIZE // 2 - 1,
    "first byte of the second half": PAGE_SIZE // 2,
    "last word": PAGE_SIZE - 8,
    "last byte": PAGE_SIZE - 1,
}
each_place = pytest.mark.parametrize("offset", PLACES.values(), ids=PLACES)


def flip_a_bit(region: Region, page: int, offset: int) -> None:
    """Change one bit of one byte."""
    byte = region.read(page, 1)[offset]
    region.write(page, bytes([byte ^ 1]), offset)


@each_place
def test_pages_one_bit_apart_merge_among_themselves(
    offset: int, ksm_alone: KsmAlone, region: RegionFactory, books: ReadBooks
) -> None:
    """Alternating pages that differ in one bit become two KSM pages, and stay what they are."""
    pages = region(8)
    for page in range(1, pages.pages, 2):
        flip_a_bit(pages, page, offset)
    content = pages.read()
    ksm_alone.merge(pages)
    books().assert_has(shared=2, sharing=pages.pages - 2)
    frames = pages.frames()
    assert len(set(frames[::2])) == len(set(frames[1::2])) == 1
    assert frames[0] != frames[1]
    assert pages.read() == content


@each_place
def test_page_one_bit_apart_from_a_ksm_page_stays_alone(
    offset: int, ksm_alone: KsmAlone, region: RegionFactory, books: ReadBooks
) -> None:
    """It shares neither the page of the others, which is in the stable tree, nor another."""
    pages = region(5)
    flip_a_bit(pages, 2, offset)
    content = pages.read()
    pages.advise(lib.MADV_MERGEABLE)
    for merged in (pages.part(0, 2), pages.part(3, 2)):
        ksm_alone.wait_until_merged(merged)
    ksm_alone.wait_for_passes(3)
    books().assert_has(shared=1, sharing=3, unshared=1)
    assert_unmerged(pages.part(2, 1), content[2 * PAGE_SIZE : 3 * PAGE_SIZE])
    assert pages.read() == content


@each_place
def test_page_that_changes_in_one_place_does_not_merge_before_it_rests(
    offset: int, ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """Pages that are alike, but change before each pass, wait; unchanged, they merge."""
    restless = region(2)
    restless.advise(lib.MADV_MERGEABLE)
    ksm_alone.stop()
    ksm_alone.pass_once()
    for _ in range(4):
        for page in range(restless.pages):
            flip_a_bit(restless, page, offset)
        ksm_alone.pass_once()
        assert restless.count(PageKind.ANON) == restless.pages, restless.describe()
    content = restless.read()
    ksm_alone.start()
    ksm_alone.wait_until_merged(restless)
    assert restless.read() == content


def test_changing_pages_are_volatile_and_resting_pages_are_unshared(
    ksm_alone: KsmAlone, region: RegionFactory, books: ReadBooks
) -> None:
    """What changed since the last pass is counted apart from what is alone."""
    pages = region(12)
    pages.fill(unique_tokens(pages.pages))
    pages.advise(lib.MADV_MERGEABLE)
    ksm_alone.stop()
    for _ in range(3):
        ksm_alone.pass_once()
    books().assert_has(shared=0, sharing=0, unshared=12)
    changing = pages.part(0, 5)
    changing.fill(unique_tokens(changing.pages))
    ksm_alone.pass_once()
    books().assert_has(shared=0, sharing=0, unshared=7, volatile=5)
    ksm_alone.pass_once()
    books().assert_has(shared=0, sharing=0, unshared=12)
    assert pages.process.ksm_stat().rmap_items == pages.pages


def test_many_contents_each_with_its_number_of_copies(
    ksm_alone: KsmAlone,
    region: RegionFactory,
    start_process: Callable[[], Process],
    enter_first: EnterFirst,
    books: ReadBooks,
) -> None:
    """Content K is there K + 2 times, scattered over processes: a page each, and exact books."""
    kinds = 14
    copies = [kind for kind in range(kinds) for _ in range(kind + 2)]
    patterns = [unique_pattern() for _ in range(kinds)]
    # 13 has no divisor in common with the number of copies: neighbours are of different kinds.
    scattered = [copies[13 * place % len(copies)] for place in range(len(copies))]
    assert sorted(scattered) == copies
    third = -(-len(scattered) // 3)
    parts = [scattered[start : start + third] for start in range(0, len(scattered), third)]
    regions = []
    for part in parts:
        mapped = region(len(part), process=start_process())
        mapped.fill([patterns[kind] for kind in part])
        regions.append(mapped)
    enter_first(*(mapped.process for mapped in regions))
    for mapped in regions:
        mapped.advise(lib.MADV_MERGEABLE)
    ksm_alone.start()
    for mapped in regions:
        ksm_alone.wait_until_merged(mapped)
    books().assert_has(shared=kinds, sharing=len(copies) - kinds)

    frames = [frame for mapped in regions for frame in mapped.frames()]
    frame_of = dict(zip(scattered, frames, strict=True))
    assert frames == [frame_of[kind] for kind in scattered]
    assert len(set(frames)) == kinds
    assert frame_counts(frames) == Counter(frames)
    assert [mapped.process.merging_pages for mapped in regions] == [len(part) for part in parts]
    for mapped, part in zip(regions, parts, strict=True):
        expected = b"".join(patterns[kind] * (PAGE_SIZE // 16) for kind in part)
        assert mapped.read() == expected


def test_pages_that_come_later_share_the_page_that_is_there(
    ksm_alone: KsmAlone, region: RegionFactory, books: ReadBooks
) -> None:
    """One page is enough to find what others share already; those keep their page frame."""
    pattern = unique_pattern()
    first = ksm_alone.merge(region(4, pattern))
    (frame,) = set(first.frames())
    for place in range(3):
        late = ksm_alone.merge(region(1, pattern))
        assert late.frames() == [frame]
        books().assert_has(shared=1, sharing=4 + place)
        ksm_alone.start()
    assert set(first.frames()) == {frame}


def test_page_that_was_alone_merges_with_the_first_like_it(
    ksm_alone: KsmAlone, region: RegionFactory, books: ReadBooks
) -> None:
    """A page that found no equal is found by one."""
    pattern = unique_pattern()
    alone = region(1, pattern)
    alone.advise(lib.MADV_MERGEABLE)
    ksm_alone.wait_for_passes(3)
    books().assert_has(shared=0, sharing=0, unshared=1)
    assert alone.count(PageKind.ANON) == 1
    ksm_alone.start()
    second = ksm_alone.merge(region(1, pattern))
    ksm_alone.wait_until_merged(alone)
    assert alone.frames() == second.frames()
    books().assert_has(shared=1, sharing=1)


def test_pages_find_each_other_among_many(
    ksm_alone: KsmAlone, region: RegionFactory, books: ReadBooks
) -> None:
    """Contents in every order of their bytes, below and above each other, each there twice."""
    contents = [bytes([high, low] * 8) for high in range(1, 16) for low in (0, 1, 127, 128, 255)]
    pages = region(2 * len(contents))
    tail = unique_pattern()
    pages.fill(contents + contents[::-1])
    for page in range(pages.pages):
        pages.write(page, tail, PAGE_SIZE - len(tail))
    before = pages.read()
    ksm_alone.merge(pages)
    books().assert_has(shared=len(contents), sharing=len(contents))
    frames = pages.frames()
    assert frames == frames[::-1]
    assert len(set(frames)) == len(contents)
    assert pages.read() == before

    # Each finds the one like it in the stable tree, wherever that is.
    late = region(len(contents))
    late.process.call(served.store, late.address, before[: late.length])
    ksm_alone.start()
    ksm_alone.merge(late)
    assert late.frames() == frames[: late.pages]
    books().assert_has(shared=len(contents), sharing=2 * len(contents))
    assert late.read() == before[: late.length]


def test_memory_without_advice_is_left_alone(
    ksm_alone: KsmAlone, region: RegionFactory, start_process: Callable[[], Process]
) -> None:
    """Neither in a process that has mergeable memory, on either side of it, nor in another."""
    pattern = unique_pattern()
    pages = region(9, pattern)
    advised, stranger = pages.part(3, 3), region(2, pattern, process=start_process())
    ksm_alone.merge(advised)
    ksm_alone.wait_for_passes(4)
    for kept in (pages.part(0, 3), pages.part(6, 3), stranger):
        assert_unmerged(kept, pattern * (kept.length // 16))
    assert pages.process.ksm_stat().rmap_items == pages.process.merging_pages == 3
    assert stranger.process.ksm_stat().rmap_items == 0

    advised.part(1, 1).advise(lib.MADV_UNMERGEABLE)
    ksm_alone.wait_for_passes(4)
    assert_unmerged(advised.part(1, 1), pattern * (PAGE_SIZE // 16))


def test_process_that_ksmd_has_forgotten_comes_back(
    ksm_alone: KsmAlone, region: RegionFactory, start_process: Callable[[], Process]
) -> None:
    """Without mergeable memory a process is dropped from the list, and taken up by new advice."""
    keeps_ksmd_awake = region(2, process=start_process())
    ksm_alone.merge(keeps_ksmd_awake)

    def merge_first(pages: Region) -> Region:
        ksm_alone.stop()
        ksm_alone.come_to_first()
        pages.advise(lib.MADV_MERGEABLE)
        ksm_alone.start()
        ksm_alone.wait_until_merged(pages)
        return pages

    for _ in range(3):
        pages = merge_first(region(4))
        content = pages.read()
        pages.advise(lib.MADV_UNMERGEABLE)
        ksm_alone.wait_for_passes()
        assert pages.process.ksm_stat().rmap_items == 0
        merge_first(pages)
        assert pages.read() == content
        pages.unmap()
        ksm_alone.wait_for_passes()
        assert pages.process.ksm_stat().rmap_items == 0


@pytest.mark.upstream_bug_on(
    "arm",
    "a page that fork shares is lost to KSM when its merge fails halfway",
    symbol="CONFIG_ARM_LPAE",
)
def test_page_that_a_fork_shares_does_not_merge_with_itself(
    ksm_alone: KsmAlone, region: RegionFactory, fork: Fork, books: ReadBooks
) -> None:
    """Parent and child map the same page; it merges once there is another like it."""
    pattern = unique_pattern()
    ours = region(1, pattern)
    ours.advise(lib.MADV_MERGEABLE)
    theirs = ours.seen_from(fork(ours.process))
    frames = ours.frames()
    assert theirs.frames() == frames
    ksm_alone.wait_for_passes(4)
    assert ours.frames() == theirs.frames() == frames
    assert ours.process.merging_pages == theirs.process.merging_pages == 0
    books().assert_has(shared=0, sharing=0, unshared=1, volatile=1)
    ksm_alone.start()
    third = region(1, pattern)
    third.advise(lib.MADV_MERGEABLE)
    ksm_alone.wait_until_merged(third)
    assert ksm_alone.wait_until(
        lambda: ours.frames() == theirs.frames() == third.frames(), passes=30
    ), (ours.describe(), theirs.describe(), third.describe())
    books().assert_has(shared=1, sharing=2)
    theirs.write(0, b"child")
    assert ours.read() == third.read() == pattern * (PAGE_SIZE // 16)


def test_content_that_nobody_has_any_more_can_come_again(
    ksm_alone: KsmAlone, region: RegionFactory, books: ReadBooks
) -> None:
    """A KSM page whose sharers are gone is forgotten, and its content merges anew."""
    pattern = unique_pattern()
    keeps_ksmd_awake = ksm_alone.merge(region(2))
    for _ in range(4):
        merged = ksm_alone.merge(region(4, pattern))
        books().assert_has(shared=2, sharing=4)
        merged.unmap()
        ksm_alone.start()
        ksm_alone.wait_for_passes()
        books().assert_has(shared=1, sharing=1)
        ksm_alone.start()
    assert_merged_into_one(keeps_ksmd_awake)


def test_change_while_a_page_is_merged_is_not_lost(
    ksm_alone: KsmAlone,
    process: Process,
    region: RegionFactory,
    start_process: Callable[[], Process],
    enter_first: EnterFirst,
) -> None:
    """What was equal when ksmd compared it is compared again when it cannot change any more."""
    other = start_process()
    enter_first(other, process)
    ksm_alone.start()
    shared = ksm_alone.merge(region(2, process=other))
    content = shared.read()
    flipping = region(FLIPPING, content[:16])
    flipping.advise(lib.MADV_MERGEABLE)
    assert flipping.process.call(served.flip, flipping.address, FLIPPING, FLIPS) == 0
    assert shared.read() == content
    ksm_alone.wait_until_merged(flipping)


@pytest.mark.parametrize("seed", range(3))
def test_random_changes_leave_every_byte(
    seed: int,
    ksm_alone: KsmAlone,
    start_process: Callable[[], Process],
    enter_first: EnterFirst,
    books: ReadBooks,
) -> None:
    """Processes write, unmerge, discard, move, unmap and fork memory that ksmd merges meanwhile.

    Each knows what it has written, and compares it again and again (mm/churning.py).
    """
    crowd, contents = [start_process() for _ in range(3)], [unique_pattern() for _ in range(4)]
    enter_first(*crowd)
    ksm_alone.start()
    for number, process in enumerate(crowd):
        process.send(churning.churn, 10 * seed + number, contents, 120)
    regions = [
        Region(process, address, churning.BLOCK)
        for process in crowd
        for address in process.answer()
    ]
    ksm_alone.wait_for_passes(4)
    counts = books()
    frames = [
        state.pfn for each in regions for state in each.states() if state.kind is PageKind.KSM
    ]
    assert len(frames) > len(set(frames)) > 0
    counts.assert_has(
        shared=len(set(frames)),
        sharing=len(frames) - len(set(frames)),
        unshared=sum(each.count(PageKind.ANON) for each in regions),
    )
    for process in crowd:
        process.call(churning.check)
