# SPDX-License-Identifier: GPL-2.0
"""What identifies a defect that a kernel reports: its kind, and the functions it happened in.

Addresses, numbers and times are left out, so that the same defect gives the same fingerprint on the
next boot and on another machine.
"""

import re
from collections.abc import Iterable, Iterator

from uapi.kmsg import is_trouble

SYMBOLS = 3
LONGEST = 120  # characters of the kind

_BEGINNING = re.compile(r"^(?:\[ *[\d.]+\])?(?:\[ *[TC]\d+\])?\s*")
_SYMBOL = re.compile(r"\b([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+")
_VARIABLE = (
    (re.compile(r"\b0x[0-9a-fA-F]+\b|\b[0-9a-f]{8,}\b"), "X"),
    (re.compile(r"\b\d+\b"), "N"),
)
# What reports a defect, and how a processor gets there: the same for all of them.
_PLUMBING = re.compile(
    r"_?_?(dump_stack|show_|dump_backtrace|panic|vpanic|oops_|die|__die|warn_|__warn|report_bug|"
    r"handle_bug|exc_|asm_exc_|do_error_trap|page_fault_oops|no_context|kasan_|print_report|"
    r"bug_handler|brk_handler|call_break_hook|do_debug_exception|el1|do_mem_abort|unwind_)"
)


def fingerprint(lines: Iterable[str]) -> str | None:
    """`kind in function, function, function`; None where nothing is reported."""
    kept = iter(lines)
    for line in kept:
        if is_trouble(line):
            symbols = list(_symbols(kept))
            return _kind(line) + (f" in {', '.join(symbols)}" if symbols else "")
    return None


def _kind(line: str) -> str:
    text = _BEGINNING.sub("", line).strip()
    for pattern, letter in _VARIABLE:
        text = pattern.sub(letter, text)
    return text[:LONGEST]


def _symbols(lines: Iterable[str]) -> Iterator[str]:
    found = 0
    last = ""
    for line in lines:
        for match in _SYMBOL.finditer(line):
            name = match[1].partition(".")[0]
            if name != last and not _PLUMBING.match(name):
                yield name
                last = name
                found += 1
                if found == SYMBOLS:
                    return
