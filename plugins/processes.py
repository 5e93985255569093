# SPDX-License-Identifier: GPL-2.0
"""Processes and regions for a test; all of them end with it."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

import pytest

from mm.process import Process, Zygote
from mm.region import ZEROS, Region, unique_pattern
from plugins.evidence import Evidence
from plugins.ksm import KsmAlone
from uapi.libc import lib

Fork: TypeAlias = Callable[[Process], Process]


class RegionFactory(Protocol):
    """Maps and fills a region in the test's process, or in another."""

    def __call__(
        self,
        pages: int = ...,
        fill: bytes | None = ...,
        *,
        process: Process | None = ...,
        prot: int = ...,
    ) -> Region:
        """Pages filled with `fill`, or with a pattern that is this region's alone."""
        ...


@pytest.fixture
def start_process(
    lease: None, zygote: Zygote, evidence: Evidence
) -> Iterator[Callable[[], Process]]:
    """Start processes with an address space of their own."""

    def start() -> Process:
        return evidence.watch_process(zygote.process.fork())

    yield start
    for process in reversed(evidence.processes):
        process.end()


@pytest.fixture
def process(start_process: Callable[[], Process]) -> Process:
    """The process under test."""
    return start_process()


@pytest.fixture
def whole_process(process: Process) -> None:
    """Have the process under test share no page with any other: all of it may be merged.

    A page that a fork shares with the zygote would become a KSM page of the zygote's too, which
    nothing can unmerge: the zygote's memory is not mergeable.
    """
    process.execute()


@pytest.fixture
def fork(evidence: Evidence) -> Fork:
    """Fork a process of the test; the child ends with the test at the latest."""
    return lambda parent: evidence.watch_process(parent.fork())


@pytest.fixture
def region(process: Process, evidence: Evidence) -> RegionFactory:
    """Map regions filled with one pattern, by default one that is this region's alone."""

    def map_region(
        pages: int = 32,
        fill: bytes | None = None,
        *,
        process: Process | None = None,
        prot: int = lib.PROT_READ | lib.PROT_WRITE,
    ) -> Region:
        mapped = Region.map(process or default, pages, prot=prot)
        mapped.fill(unique_pattern() if fill is None else fill)
        return evidence.watch(mapped)

    default = process
    return map_region


@pytest.fixture
def zeros(ksm_alone: KsmAlone, region: RegionFactory) -> Region:
    """Pages that KSM has placed on the zero page."""
    return ksm_alone.merge(region(fill=ZEROS))
