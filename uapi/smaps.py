# SPDX-License-Identifier: GPL-2.0
"""VMAs of a process as /proc/PID/smaps tells them (Documentation/filesystems/proc.rst)."""

import re
from dataclasses import dataclass
from pathlib import Path

from uapi.libc import PAGE_SIZE

_HEAD = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) .*$", re.MULTILINE)
_SIZE = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)
_FLAGS = re.compile(r"^VmFlags:(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Vma:
    """One VMA; addresses in bytes, `pages` in pages."""

    start: int
    end: int
    pages: dict[str, int]  # Rss, Anonymous, KSM, … by their names
    flags: frozenset[str]  # VmFlags: rd wr mr mw … mg


def parse_smaps(text: str, first: int, last: int) -> list[Vma]:
    """The VMAs that have an address of [first, last). Raises ValueError if no VMA begins it."""
    if not text:  # the process has no memory any more
        return []
    heads = list(_HEAD.finditer(text))
    if not heads or heads[0].start() != 0:
        raise ValueError(f"smaps begins with {text[:40]!r}, not with an address range")
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return [
        _parse_vma(head, text[head.end() : end])
        for head, end in zip(heads, ends, strict=True)
        if int(head[1], 16) < last and int(head[2], 16) > first
    ]


def _parse_vma(head: re.Match[str], body: str) -> Vma:
    pages = {name: int(kib) * 1024 // PAGE_SIZE for name, kib in _SIZE.findall(body)}
    flags = _FLAGS.search(body)
    return Vma(
        int(head[1], 16), int(head[2], 16), pages, frozenset(flags[1].split() if flags else ())
    )


def vmas_in(pid: int, address: int, length: int) -> list[Vma]:
    """The VMAs of `pid` that touch [address, address + length)."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    return parse_smaps(text, address, address + length)


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
