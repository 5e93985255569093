# SPDX-License-Identifier: GPL-2.0
"""KSM and huge pages: one is split when a page of it merges, and left alone otherwise."""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from mm.process import Process
from mm.region import Region, unique_pattern, unique_tokens
from plugins.evidence import Evidence
from plugins.ksm import KsmAlone, ReadBooks
from plugins.processes import RegionFactory
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import PageKind
from uapi.thp import Thp

pytestmark = [
    pytest.mark.sharing,
    pytest.mark.needs("ksm_stat", "page_frames", "thp", "huge_page_memory"),
    # Only where advice asks for them are there huge pages, and nothing collapses them again.
    pytest.mark.usefixtures("khugepaged"),
]

HugePage: TypeAlias = Callable[[list[bytes]], Region]


@pytest.fixture
def huge_page(process: Process, evidence: Evidence) -> HugePage:
    """Map a huge page with a pattern for each of its pages, the last one for all that follow."""

    def build(patterns: list[bytes]) -> Region:
        region = evidence.watch(Region.map_aligned(process, Thp().pmd_pages()))
        region.advise(lib.MADV_HUGEPAGE)
        region.fill(patterns + patterns[-1:] * (region.pages - len(patterns)))
        if region.count(PageKind.THP) != region.pages:
            raise RuntimeError(f"no huge page was to be had: {region.describe()}")
        region.advise(lib.MADV_NOHUGEPAGE)  # what is split must not be collapsed again
        return region

    return build


def own(content: bytes, page: int) -> bytes:
    """One page's bytes."""
    return content[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]


def test_huge_page_of_equal_pages_is_split_and_merged(
    ksm_alone: KsmAlone, huge_page: HugePage, books: ReadBooks
) -> None:
    """Nothing of it is huge any more, and all its pages share as far as the limit allows."""
    huge = huge_page([unique_pattern()])
    assert huge.smaps_pages("AnonHugePages") == huge.pages
    content = huge.read()
    ksm_alone.merge(huge)
    assert huge.smaps_pages("AnonHugePages") == 0
    assert huge.read() == content
    limit = ksm_alone.settings.max_page_sharing
    frames = set(huge.frames())
    assert len(frames) <= huge.pages // limit + 2
    books().assert_has(shared=len(frames), sharing=huge.pages - len(frames))
    huge.advise(lib.MADV_UNMERGEABLE)
    assert {state.kind for state in huge.states()} == {PageKind.ANON}
    assert huge.read() == content


def test_huge_page_that_nothing_equals_stays_huge(
    ksm_alone: KsmAlone, huge_page: HugePage, region: RegionFactory
) -> None:
    """ksmd looks at each of its pages, and splits it for none of them."""
    huge = huge_page(unique_tokens(Thp().pmd_pages()))
    content = huge.read()
    huge.advise(lib.MADV_MERGEABLE)
    ksm_alone.merge(region(2))
    ksm_alone.wait_for_passes(4)
    assert huge.count(PageKind.THP) == huge.pages, huge.describe()
    assert huge.process.ksm_stat().rmap_items == huge.pages + 2
    assert huge.process.merging_pages == 2
    assert huge.read() == content


def test_one_page_that_merges_splits_the_huge_page(
    ksm_alone: KsmAlone, huge_page: HugePage, region: RegionFactory
) -> None:
    """It alone shares; the others are small pages of the process's own, with their content."""
    patterns = unique_tokens(Thp().pmd_pages())
    huge = huge_page(patterns)
    content = huge.read()
    equal = ksm_alone.merge(region(2, patterns[7]))
    huge.advise(lib.MADV_MERGEABLE)
    ksm_alone.wait_until_merged(huge.part(7, 1))
    ksm_alone.wait_for_passes()
    assert huge.part(7, 1).frames() == equal.frames()[:1]
    assert huge.count(PageKind.KSM) == 1
    assert huge.count(PageKind.ANON) == huge.pages - 1, huge.describe()
    assert huge.process.merging_pages == 3
    assert huge.read() == content


def test_equal_pages_within_a_huge_page_merge(
    ksm_alone: KsmAlone, huge_page: HugePage, books: ReadBooks
) -> None:
    """Two pages of the same huge page become one, and it is split for them."""
    patterns = unique_tokens(Thp().pmd_pages())
    patterns[5] = patterns[9]
    huge = huge_page(patterns)
    content = huge.read()
    huge.advise(lib.MADV_MERGEABLE)
    for page in (5, 9):
        ksm_alone.wait_until_merged(huge.part(page, 1))
    ksm_alone.wait_for_passes()
    frames = huge.frames()
    assert frames[5] == frames[9]
    assert len(set(frames)) == huge.pages - 1
    books().assert_has(shared=1, sharing=1, unshared=huge.pages - 2)
    assert huge.read() == content
    assert own(content, 5) == own(content, 9)
