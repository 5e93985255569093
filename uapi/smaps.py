# SPDX-License-Identifier: GPL-2.0
"""VMAs of a process as /proc/PID/smaps tells them (Documentation/filesystems/proc.rst)."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from uapi.libc import PAGE_SIZE

_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")
_SIZE = re.compile(r"(\w+):\s+(\d+) kB")


@dataclass
class Vma:
    """One VMA; addresses and `size` in bytes, `pages` in pages."""

    start: int
    end: int
    pages: dict[str, int] = field(default_factory=dict)  # Rss, Anonymous, KSM, … by their names
    flags: frozenset[str] = frozenset()  # VmFlags: rd wr mr mw … mg


def parse_smaps(text: str) -> list[Vma]:
    """Parse smaps. Raises ValueError where it does not begin with a VMA's address range."""
    vmas: list[Vma] = []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            vmas.append(Vma(int(head[1], 16), int(head[2], 16)))
        elif not vmas:
            raise ValueError(f"smaps begins with {line!r}, not with an address range")
        elif size := _SIZE.match(line):
            vmas[-1].pages[size[1]] = int(size[2]) * 1024 // PAGE_SIZE
        elif line.startswith("VmFlags:"):
            vmas[-1].flags = frozenset(line.split()[1:])
    return vmas


def vmas_in(pid: int, address: int, length: int) -> list[Vma]:
    """The VMAs of `pid` that touch [address, address + length)."""
    vmas = parse_smaps(Path(f"/proc/{pid}/smaps").read_text())
    return [vma for vma in vmas if vma.start < address + length and vma.end > address]


def total_pages(vmas: list[Vma], name: str) -> int:
    """Sum of one smaps line, in pages. Raises KeyError where the kernel has no such line."""
    return sum(vma.pages[name] for vma in vmas)


def rss_anon(pid: int) -> int:
    """RssAnon of /proc/PID/status, in pages; 6.2 to 6.15 read it without its per-CPU parts."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    if match is None:
        raise ValueError(f"/proc/{pid}/status has no RssAnon line")
    return int(match[1]) * 1024 // PAGE_SIZE
