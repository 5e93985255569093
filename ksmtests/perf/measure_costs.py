# SPDX-License-Identifier: GPL-2.0
"""What KSM costs those who use it: copies on write, forks, and scanning that finds nothing."""

import pytest

from ksmtests.perf.conftest import ROUNDS, SIZE, Benchmark, Workload
from mm.process import Process
from mm.region import unique_pattern, unique_tokens
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import PageKind

pytestmark = [
    pytest.mark.sharing,
    pytest.mark.timeout(900),
    pytest.mark.needs("ksm_stat", "page_frames", "ksmd_time"),
]

STATES = pytest.mark.parametrize("merged", [False, True], ids=["unmerged", "merged"])


def prepare(workload: Workload, *, merged: bool) -> None:
    """A region, merged or as it was filled; ksmd is stopped."""
    region = workload.map(SIZE, unique_pattern())
    if merged:
        region.advise(lib.MADV_MERGEABLE)
        workload.merge()
    assert region.count(PageKind.KSM if merged else PageKind.ANON) == region.pages


@STATES
def test_writing(merged: bool, benchmark: Benchmark, workload: Workload) -> None:
    """A write to every page: what it costs more on merged ones is the copies."""
    benchmark.pedantic(
        workload.touch, setup=lambda: prepare(workload, merged=merged), rounds=ROUNDS
    )
    benchmark.extra_info["pages"] = SIZE // PAGE_SIZE


@STATES
def test_forking(merged: bool, benchmark: Benchmark, workload: Workload) -> None:
    """A fork of a process with as many pages, merged or not."""
    children: list[Process] = []

    def end_child() -> None:
        while children:
            children.pop().kill()

    prepare(workload, merged=merged)
    benchmark.pedantic(
        lambda: children.append(workload.process.fork()), setup=end_child, rounds=4 * ROUNDS
    )
    end_child()
    benchmark.extra_info["pages"] = SIZE // PAGE_SIZE


def test_scanning_in_vain(benchmark: Benchmark, workload: Workload) -> None:
    """A pass over pages none of which has an equal; ksmd's time for a page is in the JSON."""
    pages = SIZE // PAGE_SIZE
    region = workload.map(SIZE, unique_tokens(pages))
    region.advise(lib.MADV_MERGEABLE)
    workload.ksm.pass_once()  # the rest of a pass
    workload.ksm.pass_once()  # checksums are new to it

    def scan() -> None:
        with workload.counting():
            workload.ksm.pass_once()

    benchmark.pedantic(scan, setup=lambda: None, rounds=ROUNDS)
    assert region.count(PageKind.ANON) == pages
    benchmark.extra_info["ksmd_ns_per_page"] = workload.ksmd_seconds() * 1e9 / pages
