# SPDX-License-Identifier: GPL-2.0
"""A sabotage, and the scene it is set in: a test's processes, and their memory as it truly is.

Whatever is read or written here is bound before anything is wrapped.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from mm.process import Process
from uapi import ksm, smaps
from uapi.libc import PAGE_SIZE

true_stat = ksm.process_stat
_vmas_in = smaps.vmas_in
_pread, _pwrite = os.pread, os.pwrite

ADDRESS_SPACE = 1 << 63  # bytes; more than any process has

Span = tuple[int, int]  # address and length, bytes


class Scene:
    """One test under sabotage."""

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.errors: Counter[int] = Counter()  # pid -> pages to add to its ksm_zero_pages
        self.system_error = 0  # pages to add to the system's, besides these
        self.noted: dict[int, int] = {}  # pid -> pages that one wrap keeps in mind for another
        self.told: set[int] = set()  # pids of processes that were told a lie

    @property
    def processes(self) -> list[Process]:
        """The test's processes that still answer."""
        evidence = self._fixture("evidence")
        return [process for process in evidence.processes if process.alive] if evidence else []

    @property
    def alone(self) -> bool:
        """Whether no other test uses KSM now, so that settings may change."""
        return self._fixture("ksm_alone") is not None

    def _fixture(self, name: str) -> Any:
        fixtures: dict[str, Any] = getattr(self.item, "funcargs", {})
        return fixtures.get(name)

    def process(self, pid: int) -> Process | None:
        """The test's process of that number."""
        return next((process for process in self.processes if process.pid == pid), None)

    def zero_pages(self) -> Counter[int]:
        """KSM-placed zero pages of each of the test's processes."""
        return Counter({process.pid: zero_pages(process.pid) for process in self.processes})


Wrap = Callable[[Scene, Callable[..., Any]], Callable[..., Any]]
Wraps = Mapping[str, Wrap]


@dataclass(frozen=True)
class Sabotage:
    """One bug the kernel seems to have."""

    name: str
    bug: str  # what is wrong with the kernel
    wraps: Wraps  # dotted name of a function or attribute -> what takes its place
    kind: Literal["operation", "account", "repair"]  # a repair takes a bug away


def zero_pages(pid: int) -> int:
    """KSM-placed zero pages of one mm; 0 once it is gone."""
    try:
        return true_stat(pid).zero_pages or 0
    except OSError:
        return 0


def poke(pid: int, address: int, data: bytes) -> None:
    """Write to memory, whatever its protection; nothing where nothing is mapped."""
    fd = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    try:
        with contextlib.suppress(OSError):
            _pwrite(fd, data, address)
    finally:
        os.close(fd)


def peek(pid: int, address: int, length: int) -> bytes:
    """Read memory, whatever its protection; nothing where nothing is mapped."""
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return _pread(fd, length, address)
    except OSError:
        return b""
    finally:
        os.close(fd)


def pages_of(span: Span) -> range:
    """The addresses of the pages a span touches."""
    first = span[0] // PAGE_SIZE * PAGE_SIZE
    return range(first, span[0] + span[1], PAGE_SIZE)


def unshare(pid: int, span: Span) -> None:
    """Give the process pages of its own there, with the content they have."""
    for address in pages_of(span):
        poke(pid, address, peek(pid, address, 1))


def mergeable_spans(pid: int) -> list[Span]:
    """Memory marked for KSM."""
    return [
        (vma.start, vma.end - vma.start)
        for vma in _vmas_in(pid, 0, ADDRESS_SPACE)
        if "mg" in vma.flags
    ]


def unshare_all(scene: Scene) -> None:
    """Give the test's processes pages of their own for all that is marked for KSM."""
    for process in scene.processes:
        for span in mergeable_spans(process.pid):
            unshare(process.pid, span)
