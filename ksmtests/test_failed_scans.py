# SPDX-License-Identifier: GPL-2.0
"""ksmd short of memory: for what it tracks pages with, for shared pages' nodes, and for copies.

What it does not get it does without: pages merge later, and no content and no count is lost.
"""

import itertools
from collections.abc import Callable

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged, assert_zero_pages
from mm.region import ZEROS, Region, unique_pattern, unique_tokens
from plugins.failing import Failing
from plugins.ksm import KsmAlone, OpenLedger, ReadBooks
from plugins.processes import RegionFactory
from uapi.libc import lib
from uapi.pagemap import PageKind

pytestmark = [
    pytest.mark.failed_allocations,
    pytest.mark.needs("ksm_zero_pages", "page_frames", "failed_allocations", "ksmd_time"),
]

EQUAL = 6  # pages


@pytest.fixture
def company(ksm_alone: KsmAlone, region: RegionFactory) -> Region:
    """A page that finds no equal: with it, ksmd makes passes when there is nothing else."""
    ksm_alone.unmerge_all()
    ksm_alone.stop()
    page = region(1)
    page.advise(lib.MADV_MERGEABLE)
    for _ in range(3):
        ksm_alone.pass_once()
    return page


@pytest.mark.parametrize("limit", [2, 256])
def test_pages_merge_whichever_allocation_fails(
    limit: int,
    ksm_alone: KsmAlone,
    company: Region,
    region: RegionFactory,
    allocations: Failing,
    books: ReadBooks,
) -> None:
    """Each fails once: one for each page, for each shared page, and for their chain."""
    ksm_alone.limit_sharing(limit)
    merged_in_time = []
    for nth in itertools.count(1):
        ksm_alone.stop()
        equal = region(EQUAL)
        content = equal.read()
        equal.advise(lib.MADV_MERGEABLE)
        allocations.nth_of_ksmd(nth)
        for _ in range(2):
            ksm_alone.pass_once()
        merged_in_time.append(equal.count(PageKind.KSM))
        reached = allocations.ksmd_reached_it()
        allocations.nth_of_ksmd(0)
        assert equal.read() == content
        ksm_alone.start()
        ksm_alone.wait_until_merged(equal)
        shared = -(-EQUAL // limit)
        counts = books()
        counts.assert_has(shared=shared, sharing=EQUAL - shared, unshared=company.pages)
        assert (counts.chains, counts.duplicates) == ((1, shared) if shared > 1 else (0, 0))
        stat = equal.process.ksm_stat()
        assert (stat.merging_pages, stat.rmap_items) == (EQUAL, EQUAL + company.pages)
        assert equal.read() == content
        equal.unmap()
        ksm_alone.pass_once()
        assert equal.process.ksm_stat().rmap_items == company.pages
        if not reached:
            break
    assert min(merged_in_time) < EQUAL == merged_in_time[-1], "no allocation failed ksmd"


def test_zero_pages_are_placed_whichever_allocation_fails(
    ksm_alone: KsmAlone,
    company: Region,
    region: RegionFactory,
    allocations: Failing,
    ledger: OpenLedger,
) -> None:
    """One for each page; each zero page is counted once, and no longer tracked."""
    for nth in itertools.count(1):
        zeros = region(EQUAL, ZEROS)
        zeros.advise(lib.MADV_MERGEABLE)
        with ledger(zeros) as books:
            allocations.nth_of_ksmd(nth)
            for _ in range(4):
                ksm_alone.pass_once()
            reached = allocations.ksmd_reached_it()
            allocations.nth_of_ksmd(0)
        books.assert_change(zero_pages=EQUAL, anonymous=-EQUAL)
        assert_zero_pages(zeros)
        assert zeros.process.ksm_stat().rmap_items == company.pages
        zeros.unmap()
        if not reached:
            break
    assert nth > EQUAL, "no allocation failed ksmd"


@pytest.fixture
def outcasts(ksm_alone: KsmAlone, region: RegionFactory, allocations: Failing) -> Region:
    """Two pages merged while ksmd got no node for them, nor memory to undo it; it is stopped."""
    allocations.include_user_pages()
    equal = region(2)
    equal.fill(unique_tokens(equal.pages))
    equal.advise(lib.MADV_MERGEABLE)
    for _ in range(2):
        ksm_alone.pass_once()
    equal.fill(unique_pattern())
    with allocations.all_of_ksmd():
        for _ in range(2):
            ksm_alone.pass_once()
    if len(set(equal.frames())) != 1 or equal.process.merging_pages:
        raise RuntimeError(f"ksmd was to merge what it cannot keep: {equal.describe()}")
    return equal


@pytest.mark.usefixtures("company")
@pytest.mark.parametrize(
    "unmerge",
    [
        lambda _, pages: pages.advise(lib.MADV_UNMERGEABLE),
        lambda ksm_alone, _: ksm_alone.unmerge_all(),
    ],
    ids=["advice", "run=2"],
)
def test_page_without_a_node_is_unmerged(
    unmerge: Callable[[KsmAlone, Region], None],
    outcasts: Region,
    ksm_alone: KsmAlone,
) -> None:
    """KSM finds it in the page tables, with its content, and it merges as any page does then."""
    content = outcasts.read()
    unmerge(ksm_alone, outcasts)
    assert_unmerged(outcasts, content)
    ksm_alone.start()
    assert_merged_into_one(ksm_alone.merge(outcasts))
    assert outcasts.process.merging_pages == outcasts.pages
    assert outcasts.read() == content


@pytest.mark.usefixtures("company")
@pytest.mark.upstream_bug("pages merged without memory for a node stay out of the books for ever")
def test_page_without_a_node_gets_one(outcasts: Region, ksm_alone: KsmAlone) -> None:
    """As soon as there is memory: break_ksm() says that each pass tries again to undo the merge.

    cmp_and_merge_page() in mm/ksm.c takes a page without a node for one that is not KSM's, which
    can merge with nothing: write_protect_page() finds no place where it is mapped.
    """
    process = outcasts.process
    ksm_alone.start()
    assert ksm_alone.wait_until(lambda: process.merging_pages == outcasts.pages), process.ksm_stat()
