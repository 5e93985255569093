# SPDX-License-Identifier: GPL-2.0
"""What identifies a defect that a kernel reports: its kind, and the functions it happened in.

Addresses, numbers, times and names of tasks are left out, and the kind is called the same where
releases and architectures word it in different ways: the same defect gives the same fingerprint on
the next boot, on another machine and, as far as the functions are the same, on another release.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import pytest

from uapi.kmsg import CUT_HERE, is_trouble

SYMBOLS = 3
LONGEST = 120  # characters of the kind
PROPERTY = "fingerprint"  # of reports of tests

_BEGINNING = re.compile(r"^(?:\[ *[\d.]+\])?(?:\[ *[TC]\d+\])?\s*")

# What a report's first line says, and what its kind is called.
_KINDS = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"BUG: (K[A-Z]+): (.+?) in ", r"\1: \2"),  # mm/kasan, mm/kfence, kernel/kcsan, mm/kmsan
        # kernel/panic.c: "WARNING: CPU: 1 PID: 2 at FILE:3 FUNCTION"; 7.2 "WARNING: FILE:3 at …".
        (r"WARNING: (?:CPU: \d+ PID: \d+ |\S+:\d+ )?at ", "WARNING"),
        (CUT_HERE.pattern, "WARNING"),
        (r"kernel BUG at (\S+?):\d+!", r"kernel BUG at \1"),
        # arch/x86/mm/fault.c; arch/arm*/mm/fault.c, arch/riscv/mm/fault.c; arch/powerpc/mm/fault.c
        (r"(?i)kernel NULL pointer dereference", "NULL pointer dereference"),
        (r"(?i)unable to handle (?:page fault|kernel \w)", "bad memory access"),
        (r"(?i)kernel data access on", "bad memory access"),
        (r"general protection fault", "general protection fault"),
        (r"soft lockup - CPU", "soft lockup"),
        (r"detected hard LOCKUP", "hard lockup"),
        (r"INFO: task .* blocked .*for more than", "hung task"),
        (r"INFO: (\S+) (?:self-)?detected (?:expedited )?stall", r"stall of \1"),
        (r"BUG: (Bad (?:page|rss)\S* \w+)", r"\1"),
        (r"BUG (\S+) \(.*?\): (.*)", r"slab \1: \2"),  # mm/slub.c
    )
)
_VARIABLE = (
    (re.compile(r"[^\s:/]+/\d+(?:/0x[0-9a-f]+)?"), "TASK"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b|\b[0-9a-f]{8,}\b"), "X"),
    (re.compile(r"\b\d+\b"), "N"),
)

# Where functions stand. Frames with a question mark are leftovers on the stack; "lr" is a register.
_SYMBOL = r"([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+"
_PLACE = re.compile(
    rf"^\s*(?:\[<\S+>\] )?(?:<\w+>\s+)?{_SYMBOL}|"  # a frame
    rf"^\s*\S+ from (?:\[<\S+>\] \()?{_SYMBOL}|"  # a frame, on arm
    rf"^\s*(?:RIP: 0010:|pc : |PC is at |NIP \[\w+\] |epc : ){_SYMBOL}|"
    rf", at: {_SYMBOL}|"  # a lock was taken there
    rf"(?:WARNING: .*? |BUG: K[A-Z]+: .* in ){_SYMBOL}"
)
_INTERRUPTED = re.compile(r"^\s*(?:RIP: 0010:|pc : |PC is at |NIP \[|epc : )")
_END = re.compile(r"---\[ end ")

# What was interrupted to tell of a processor that gets nowhere is behind how the report came about.
_OF_PROCESSORS = re.compile(r"lockup|stall of ")

# What reports a defect, how a processor gets there, and how a task comes to wait.
_PLUMBING = re.compile(
    r"_?_?(dump_stack|show_|dump_backtrace|panic|vpanic|oops_|die|__die|warn_|__warn|report_bug|"
    r"handle_bug|exc_|asm_exc_|do_error_trap|page_fault_oops|no_context|kasan_|kfence_|print_|"
    r"bug_handler|brk_handler|call_break_hook|do_debug_exception|el1|do_mem_abort|unwind_|"
    r"do_kernel_fault|do_DataAbort|do_PrefetchAbort|dabt_|pabt_|und_|do_undefinstr|"
    r"lockdep_|lock_acquire|asan_|hwasan_|nmi_cpu_backtrace|nmi_trigger|"
    r"ubsan_|bad_page|switch_to|schedule|io_schedule|mutex_lock|down_|rwsem_|rt_mutex_|"
    r"kmalloc|kzalloc|kmem_cache_alloc|kvmalloc|slab_|alloc_pages|kmemleak_)"
)


def defect(reports: Iterable[pytest.TestReport]) -> str:
    """The fingerprint that a test's reports have; "" without a defect."""
    found = (
        str(value) for report in reports for key, value in report.user_properties if key == PROPERTY
    )
    return next(found, "")


def fingerprint(lines: Iterable[str]) -> str | None:
    """`kind in function, function, function`; None where nothing is reported."""
    report = [_BEGINNING.sub("", line) for line in lines]
    begins = [number for number, line in enumerate(report) if is_trouble(line)]
    # "cut here" stands above what is reported, and alone if that is lost.
    said = [number for number in begins if not CUT_HERE.match(report[number])]
    if not begins:
        return None
    first = (said or begins)[0]
    return named(_kind(report[first]), report[first:])


def named(kind: str, report: Sequence[str]) -> str:
    """The fingerprint of a report of this kind."""
    symbols = list(_symbols(_body(kind, report)))
    return kind + (f" in {', '.join(symbols)}" if symbols else "")


def _kind(line: str) -> str:
    for pattern, kind in _KINDS:
        if match := pattern.search(line):
            return match.expand(kind)[:LONGEST]
    text = line.strip()
    for pattern, word in _VARIABLE:
        text = pattern.sub(word, text)
    return text[:LONGEST]


def _body(kind: str, report: Sequence[str]) -> Sequence[str]:
    """The lines that the functions are looked for in."""
    end = next((number for number, line in enumerate(report) if _END.search(line)), len(report))
    report = report[:end]
    if _OF_PROCESSORS.search(kind):
        for number, line in enumerate(report):
            if _INTERRUPTED.match(line):
                return report[number:]
    return report


def _symbols(lines: Iterable[str]) -> Iterator[str]:
    found = 0
    last = ""
    for line in lines:
        match = _PLACE.search(line)
        name = next(filter(None, match.groups())).partition(".")[0] if match else ""
        if name and name != last and not _PLUMBING.match(name):
            yield name
            last = name
            found += 1
            if found == SYMBOLS:
                return
