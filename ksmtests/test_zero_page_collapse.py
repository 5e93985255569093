# SPDX-License-Identifier: GPL-2.0
"""A huge page that replaces KSM-placed zero pages takes them out of both counts."""

import errno
from collections.abc import Callable

import pytest

from ksmtests.expectations import assert_zero_pages
from mm.process import Process
from mm.region import ZEROS, Region, unique_pattern
from plugins.evidence import Evidence
from plugins.khugepaged import KhugepagedAlone
from plugins.ksm import KsmAlone, OpenLedger
from uapi.libc import lib
from uapi.pagemap import PageKind
from uapi.thp import Thp

pytestmark = [
    pytest.mark.zero_pages,
    pytest.mark.collapse,
    pytest.mark.needs("ksm_zero_pages", "page_frames", "thp", "huge_page_memory"),
    # Left alone, khugepaged would be there before the test.
    pytest.mark.usefixtures("khugepaged"),
]


@pytest.fixture
def huge_range(
    ksm_alone: KsmAlone, process: Process, evidence: Evidence
) -> Callable[[set[int]], Region]:
    """A range a huge page fits, all KSM-placed zero pages but for those named."""

    def build(written: set[int]) -> Region:
        mapped = evidence.watch(Region.map_aligned(process, Thp().pmd_pages()))
        mapped.keep_from_huge_pages()
        mapped.fill(ZEROS)
        for page in written:
            mapped.write(page, unique_pattern())
        ksm_alone.start()
        ksm_alone.place(mapped, mapped.pages - len(written))
        ksm_alone.stop()
        # Advice against huge pages lasts until advice for them.
        mapped.advise(lib.MADV_HUGEPAGE)
        return mapped

    return build


def collapse_refusal(region: Region) -> int:
    """errno of MADV_COLLAPSE, 0 where it succeeds."""
    try:
        region.advise(lib.MADV_COLLAPSE)
    except OSError as error:
        return error.errno or 0
    return 0


@pytest.mark.needs("collapse_advice")
@pytest.mark.parametrize("written", [{0}, {5, 6, 31}], ids=["one written", "three written"])
def test_collapse_advice_uncounts_zero_pages(
    written: set[int], huge_range: Callable[[set[int]], Region], ledger: OpenLedger
) -> None:
    """MADV_COLLAPSE replaces zero and written pages alike; what they held stays."""
    mixed = huge_range(written)
    content = mixed.read()
    with ledger(mixed) as books:
        mixed.advise(lib.MADV_COLLAPSE)
    placed = mixed.pages - len(written)
    books.assert_change(zero_pages=-placed, anonymous=placed)
    assert mixed.count(PageKind.THP) == mixed.pages, mixed.describe()
    assert mixed.read() == content


@pytest.mark.needs("collapse_advice")
def test_collapse_advice_over_zero_pages_alone(
    huge_range: Callable[[set[int]], Region], ledger: OpenLedger
) -> None:
    """A range of zero pages alone is collapsed and uncounted, or refused and left as it is.

    Kernels whose collapse wants one writable PTE refuse with EINVAL; later ones do not want it.
    """
    zeros = huge_range(set())
    with ledger(zeros) as books:
        refusal = collapse_refusal(zeros)
    if refusal:
        assert refusal == errno.EINVAL
        books.assert_change(zero_pages=0, anonymous=0)
        assert_zero_pages(zeros)
    else:
        books.assert_change(zero_pages=-zeros.pages, anonymous=zeros.pages)
        assert zeros.count(PageKind.THP) == zeros.pages, zeros.describe()
        assert not any(zeros.read())


@pytest.mark.needs("collapse_advice")
def test_collapse_keeps_zero_pages_outside_the_huge_page(
    ksm_alone: KsmAlone,
    huge_range: Callable[[set[int]], Region],
    evidence: Evidence,
    ledger: OpenLedger,
) -> None:
    """Zero pages of the same process beside the range stay placed and counted."""
    mixed = huge_range({1})
    beside = evidence.watch(Region.map(mixed.process, 16))
    beside.fill(ZEROS)
    ksm_alone.start()
    ksm_alone.merge(beside)
    with ledger(beside) as books:
        assert collapse_refusal(mixed) == 0
    books.assert_change(zero_pages=-(mixed.pages - 1), anonymous=0)
    assert_zero_pages(beside)
    assert beside.process.zero_pages == beside.pages


def test_khugepaged_uncounts_zero_pages(
    khugepaged: KhugepagedAlone, huge_range: Callable[[set[int]], Region], ledger: OpenLedger
) -> None:
    """khugepaged, left to itself, replaces zero pages by a huge page within max_ptes_none."""
    mixed = huge_range({3})
    content = mixed.read()
    placed = mixed.pages - 1
    with ledger(mixed) as books:
        khugepaged.start(max_ptes_none=placed)
        assert khugepaged.wait_until(lambda: mixed.count(PageKind.THP) == mixed.pages)
        khugepaged.stop()
    books.assert_change(zero_pages=-placed, anonymous=placed)
    assert mixed.read() == content


def test_khugepaged_leaves_more_zero_pages_than_max_ptes_none(
    khugepaged: KhugepagedAlone, huge_range: Callable[[set[int]], Region], ledger: OpenLedger
) -> None:
    """A KSM-placed zero page counts as none: one too many and khugepaged keeps its hands off."""
    mixed = huge_range({3})
    control = huge_range({3, 4})
    with ledger(mixed) as books:
        khugepaged.start(max_ptes_none=mixed.pages - 2)
        # The control is one page within the limit: once it is huge, khugepaged was here.
        assert khugepaged.wait_until(lambda: control.count(PageKind.THP) == control.pages)
        khugepaged.wait_for_passes()
        khugepaged.stop()
    books.assert_change(zero_pages=-(control.pages - 2), anonymous=0)
    assert mixed.count(PageKind.ZERO) == mixed.pages - 1, mixed.describe()
