# SPDX-License-Identifier: GPL-2.0
"""Memory that 64-bit ARM tags is not merged: a page has one set of tags, whoever maps it.

Where the processor tags memory, memory without tags merges as anywhere.
"""

import pytest

from ksmtests import tagging
from ksmtests.expectations import assert_merged_into_one, assert_zero_pages
from mm.region import ZEROS, unique_pattern
from plugins.ksm import KsmAlone
from plugins.processes import RegionFactory
from uapi.libc import lib
from uapi.pagemap import PageKind

pytestmark = [pytest.mark.sharing, pytest.mark.needs("mte", "page_frames")]


@pytest.mark.needs("ksm_zero_pages")
@pytest.mark.parametrize("zeros", [True, False], ids=["zeros", "a pattern"])
@pytest.mark.parametrize("tagged", [True, False], ids=["tags", "no tags yet"])
@pytest.mark.fixed_by("arm64: mte: Do not flag the zero page as PG_mte_tagged", "6.18")
def test_tagged_pages_do_not_merge(
    zeros: bool, tagged: bool, ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """Neither with each other, nor with the zero page or with memory that has no tags."""
    pattern = ZEROS if zeros else unique_pattern()
    without, mapped = region(8, pattern), region(8, pattern, prot=tagging.TAGGED)
    tags = tagging.tag(mapped) if tagged else bytes(mapped.pages * tagging.GRANULES)
    content = mapped.read()
    mapped.advise(lib.MADV_MERGEABLE)
    ksm_alone.merge(without)
    ksm_alone.wait_for_passes(3)
    (assert_zero_pages if zeros else assert_merged_into_one)(without)
    assert mapped.count(PageKind.ANON) == mapped.pages, mapped.describe()
    assert mapped.read() == content
    assert tagging.tags_of(mapped) == tags


@pytest.mark.fixed_by("arm64: mte: Do not flag the zero page as PG_mte_tagged", "6.18")
def test_tags_of_the_zero_page_can_be_read(region: RegionFactory) -> None:
    """Memory never written has no tags, and reading them is no defect to the kernel."""
    unwritten = region(4, prot=tagging.TAGGED)
    unwritten.advise(lib.MADV_DONTNEED)
    unwritten.read()
    assert_zero_pages(unwritten)
    assert not any(tagging.tags_of(unwritten))
