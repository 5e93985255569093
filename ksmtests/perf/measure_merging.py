# SPDX-License-Identifier: GPL-2.0
"""How fast pages merge and are unmerged, and how that grows with their number."""

import time

import pytest

from ksmtests.perf.conftest import MIB, ROUNDS, SIZE, Benchmark, Workload, exponent
from mm.region import ZEROS, unique_pattern
from uapi.libc import lib
from uapi.pagemap import PageKind

pytestmark = [
    pytest.mark.sharing,
    pytest.mark.timeout(900),
    pytest.mark.needs("ksm_stat", "page_frames", "ksmd_time"),
]

SIZES = [size * MIB for size in (4, 8, 16, 32, 64)]


def note_speed(benchmark: Benchmark, workload: Workload, length: int) -> None:
    """MiB per second of ksmd's processor time, into the JSON."""
    benchmark.extra_info["ksmd_MiB_per_s"] = length / MIB / workload.ksmd_seconds()


@pytest.mark.parametrize(
    "huge", [False, pytest.param(True, marks=pytest.mark.needs("thp", "huge_page_memory"))]
)
@pytest.mark.usefixtures("khugepaged")
def test_merging(huge: bool, benchmark: Benchmark, workload: Workload) -> None:
    """Pages that are all alike, from the start of ksmd until the last one is merged."""

    def prepare() -> None:
        mapped = workload.map(SIZE, unique_pattern(), huge=huge)
        if huge:
            assert mapped.count(PageKind.THP), mapped.describe()
        mapped.advise(lib.MADV_MERGEABLE)

    benchmark.pedantic(workload.merge, setup=prepare, rounds=ROUNDS)
    note_speed(benchmark, workload, SIZE)


@pytest.mark.needs("ksm_zero_pages")
def test_placing_zero_pages(benchmark: Benchmark, workload: Workload) -> None:
    """Pages of zeros, which go to the zero page."""

    def prepare() -> None:
        workload.map(SIZE, ZEROS).advise(lib.MADV_MERGEABLE)

    benchmark.pedantic(workload.merge, setup=prepare, rounds=ROUNDS)
    note_speed(benchmark, workload, SIZE)


@pytest.mark.parametrize(
    "zeros", [False, pytest.param(True, marks=pytest.mark.needs("ksm_zero_pages"))]
)
def test_unmerging(zeros: bool, benchmark: Benchmark, workload: Workload) -> None:
    """MADV_UNMERGEABLE of merged pages, or of placed zero pages."""

    def prepare() -> None:
        workload.map(SIZE, ZEROS if zeros else unique_pattern()).advise(lib.MADV_MERGEABLE)
        workload.merge()

    def unmerge() -> None:
        assert workload.region
        workload.region.advise(lib.MADV_UNMERGEABLE)

    benchmark.pedantic(unmerge, setup=prepare, rounds=ROUNDS)
    assert workload.region
    assert workload.region.count(PageKind.ANON) == workload.region.pages
    benchmark.extra_info["pages"] = workload.region.pages


def test_growth(benchmark: Benchmark, workload: Workload) -> None:
    """Merging and unmerging regions of several sizes; the exponents are in the JSON."""
    merging: list[float] = []
    unmerging: list[float] = []

    def measure() -> None:
        for size in SIZES:
            region = workload.map(size, unique_pattern())
            region.advise(lib.MADV_MERGEABLE)
            workload.merge()
            merging.append(workload.latest())
            before = time.monotonic()
            region.advise(lib.MADV_UNMERGEABLE)
            unmerging.append(time.monotonic() - before)

    benchmark.pedantic(measure, setup=lambda: None, rounds=1)
    benchmark.extra_info["merging_exponent"] = exponent(SIZES, merging)
    benchmark.extra_info["unmerging_exponent"] = exponent(SIZES, unmerging)
