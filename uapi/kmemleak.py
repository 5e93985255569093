# SPDX-License-Identifier: GPL-2.0
"""kmemleak, which finds what the kernel leaks (Documentation/dev-tools/kmemleak.rst)."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path("/sys/kernel/debug/kmemleak")
LEAST_AGE_S = 5.0  # MSECS_MIN_AGE of mm/kmemleak.c: nothing younger is reported
TIMERS = Path("/proc/timer_list")

_HEAD = re.compile(r"unreferenced object(?: \(\w+\))? 0x([0-9a-f]+) \(size (\d+)\):")
_ORIGIN = re.compile(r'  comm "(.*)", pid (-?\d+), jiffies (\d+)')


@dataclass(frozen=True)
class Leak:
    """An object that nothing points to."""

    address: str
    jiffies: int  # when it was allocated
    lines: Sequence[str]  # the report


def present() -> bool:
    """Whether the kernel has kmemleak, and we may use it."""
    return os.access(FILE, os.R_OK | os.W_OK)


def jiffies() -> int:
    """The kernel's clock by which kmemleak tells when memory was allocated."""
    with TIMERS.open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith("jiffies:"))


def scan() -> None:
    """Look at all memory, which takes seconds. Raises OSError where kmemleak has given up.

    An object is reported by the second scan that finds nothing that points to it: the first one
    only notes what it holds, as something that changes is in use.
    """
    FILE.write_text("scan")


def leaks() -> list[Leak]:
    """All that was reported since boot."""
    return parse(FILE.read_text(errors="replace"))


def parse(text: str) -> list[Leak]:
    """The leaks in a report."""
    found = []
    for block in re.split(r"^(?=unreferenced object)", text, flags=re.MULTILINE):
        lines = block.splitlines()
        head = _HEAD.match(lines[0]) if lines else None
        origin = _ORIGIN.match(lines[1]) if len(lines) > 1 else None
        if head and origin:
            found.append(Leak(head[1], int(origin[3]), lines))
    return found
