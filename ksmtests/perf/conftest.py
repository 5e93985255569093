# SPDX-License-Identifier: GPL-2.0
"""What measurements work on."""

import math
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import pytest

from mm import served
from mm.process import Process
from mm.region import Region
from plugins.evidence import Evidence
from plugins.ksm import KsmAlone
from plugins.record import MEASURED
from uapi import ksm
from uapi.libc import PAGE_SIZE, lib

MIB = 1 << 20
SIZE = 32 * MIB  # bytes of a region that is measured
ROUNDS = 5


class Benchmark(Protocol):
    """pytest-benchmark's fixture, as far as it is used."""

    extra_info: dict[str, Any]  # goes into the JSON beside the times, and into a record
    stats: Any  # None where it was told not to measure

    def pedantic(
        self, target: Callable[[], object], *, setup: Callable[[], None], rounds: int
    ) -> object:
        """Time `target` once a round, each after a `setup` that is not timed."""
        ...


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Say what was measured; of as many pages as the test names, what each took at least."""
    report: pytest.TestReport = (yield).get_result()
    benchmark: Any = item.funcargs.get("benchmark")
    if call.when == "call" and report.passed and benchmark and benchmark.stats:
        if pages := benchmark.extra_info.pop("pages", None):
            benchmark.extra_info["ns_per_page"] = benchmark.stats.stats.min * 1e9 / pages
        report.user_properties.append((MEASURED, dict(benchmark.extra_info)))


class Workload:
    """One process with one region, which is mapped anew for every round."""

    def __init__(self, ksm_alone: KsmAlone, process: Process, evidence: Evidence) -> None:
        self.ksm = ksm_alone
        self.process = process
        self.region: Region | None = None
        self._evidence = evidence
        self._cpu_seconds: list[float] = []  # ksmd's, a round each

    def map(self, length: int, content: bytes | Sequence[bytes], *, huge: bool = False) -> Region:
        """Have no other region than this one, filled and not yet mergeable; ksmd is stopped."""
        if self.region:
            self.region.unmap()
        self.ksm.unmerge_all()  # or the books would have the last region, until ksmd came to it
        pages = length // PAGE_SIZE
        if huge:
            region = Region.map_aligned(self.process, pages)
            region.advise(lib.MADV_HUGEPAGE)
        else:
            region = Region.map(self.process, pages)
        region.fill(content)
        self.region = self._evidence.watch(region)
        return region

    def merge(self) -> None:
        """Have the whole region merged, from the start of ksmd until it stops.

        The time of a thread that runs elsewhere is not known before it sleeps or its tick comes.
        """
        region = self._mapped()
        with self.counting():
            self.ksm.start()
            done = self.ksm.wait_until(lambda: self._merged() >= region.pages, passes=30)
            self.ksm.stop()
        assert done, region.describe()

    def _merged(self) -> int:
        return self.process.merging_pages + (self.process.ksm_stat().zero_pages or 0)

    def _mapped(self) -> Region:
        if self.region is None:
            raise LookupError("nothing is mapped yet")
        return self.region

    def counting(self) -> "Counting":
        """Count ksmd's processor time in a block."""
        return Counting(self._cpu_seconds)

    def ksmd_seconds(self) -> float:
        """The least that ksmd took in a round, as other programs only add to it."""
        return min(self._cpu_seconds)

    def latest(self) -> float:
        """What ksmd took in the last round, s."""
        return self._cpu_seconds[-1]

    def touch(self) -> None:
        """Write to every page."""
        region = self._mapped()
        token = [b"touched!"] * region.pages
        self.process.call(served.store_each, region.address, token)


class Counting:
    """Appends ksmd's processor time in the block, s."""

    def __init__(self, seconds: list[float]) -> None:
        self._seconds = seconds
        self._clock = ksm.ksmd_clock()

    def __enter__(self) -> None:
        self._before = time.clock_gettime_ns(self._clock)

    def __exit__(self, *_: object) -> None:
        self._seconds.append((time.clock_gettime_ns(self._clock) - self._before) / 1e9)


@pytest.fixture
def workload(ksm_alone: KsmAlone, process: Process, evidence: Evidence) -> Workload:
    """What is measured, in a process of its own."""
    return Workload(ksm_alone, process, evidence)


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The k of seconds ~ size^k, by least squares: 1 where cost grows as size does."""
    slope, _ = statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    )
    return slope
