# SPDX-License-Identifier: GPL-2.0
"""A huge page that is split gives its pages of zeros up for the zero page, and loses nothing else.

As KSM does, but without it: any split of anonymous memory, since 6.12.
"""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from ksmtests import tagging
from mm import served
from mm.process import Process
from mm.region import Region, unique_pattern
from plugins.evidence import Evidence
from plugins.ksm import KsmAlone
from plugins.processes import RegionFactory
from uapi import userfaultfd
from uapi.libc import lib
from uapi.pagemap import PageKind
from uapi.thp import Thp

pytestmark = [
    pytest.mark.collapse,
    pytest.mark.needs("page_frames", "thp", "huge_page_memory", "reclaim_advice"),
    # Only where advice asks for them are there huge pages, and nothing collapses them again.
    pytest.mark.usefixtures("khugepaged"),
]

KEPT = (
    "mm/rmap: fix soft-dirty and uffd-wp bit loss when remapping zero-filled mTHP subpage "
    "to shared zeropage"
)

HugePage: TypeAlias = Callable[..., Region]
Split: TypeAlias = Callable[[Region], None]


@pytest.fixture
def huge_page(process: Process, evidence: Evidence) -> HugePage:
    """Map a huge page, zeros but for its first page."""

    def build(prot: int = lib.PROT_READ | lib.PROT_WRITE) -> Region:
        region = evidence.watch(Region.map_aligned(process, Thp().pmd_pages()))
        region.protect(prot)
        region.advise(lib.MADV_HUGEPAGE)
        region.write(0, unique_pattern())
        if region.count(PageKind.THP) != region.pages:
            raise RuntimeError(f"no huge page was to be had: {region.describe()}")
        return region

    return build


@pytest.fixture
def split(ksm_alone: KsmAlone, region: RegionFactory) -> Split:
    """Have the kernel split a huge page: advice to reclaim one page of it alone."""

    def split_huge_page(huge: Region) -> None:
        def is_split() -> bool:
            huge.part(0, 1).advise(lib.MADV_COLD)
            return not huge.count(PageKind.THP)

        content = huge.read()
        # A page in a CPU's batch cannot be split; a pass of ksmd begins by emptying the batches.
        ksm_alone.merge(region(2))
        assert ksm_alone.wait_until(is_split, passes=30), huge.describe()
        assert huge.read() == content

    return split_huge_page


@pytest.mark.needs("userfaultfd_wp")
@pytest.mark.fixed_by(KEPT, "6.18")
def test_split_keeps_write_protection(huge_page: HugePage, split: Split) -> None:
    """What userfaultfd's monitor has protected is protected still."""
    protected = huge_page()
    call = protected.process.call
    fd = call(userfaultfd.open_userfaultfd, lib.UFFD_FEATURE_PAGEFAULT_FLAG_WP)
    mode = lib.UFFDIO_REGISTER_MODE_WP
    call(userfaultfd.register, fd, protected.address, protected.length, mode)
    call(userfaultfd.write_protect, fd, protected.address, protected.length)
    split(protected)
    assert all(state.uffd_wp for state in protected.states()), protected.describe()


@pytest.mark.needs("soft_dirty")
@pytest.mark.fixed_by(KEPT, "6.18")
def test_split_keeps_soft_dirty(huge_page: HugePage, split: Split) -> None:
    """What was written since is soft-dirty still."""
    mapped = huge_page()
    # A mapping's whole range counts as soft-dirty until the first time that is cleared.
    mapped.process.call(served.clear_soft_dirty)
    mapped.write(0, unique_pattern())
    split(mapped)
    assert all(state.soft_dirty for state in mapped.states()), mapped.describe()


@pytest.mark.needs("mte")
@pytest.mark.fixed_by("mm/thp: fix MTE tag mismatch when replacing zero-filled subpages", "6.18")
def test_split_keeps_tags(huge_page: HugePage, split: Split) -> None:
    """A page of zeros with tags is not one like the zero page."""
    tagged = huge_page(tagging.TAGGED)
    tags = tagging.tag(tagged)
    split(tagged)
    assert tagging.tags_of(tagged) == tags
