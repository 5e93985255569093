# SPDX-License-Identifier: GPL-2.0
"""Smaps, other accounts of memory, and memory itself, that show what is not so."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mm import served
from mm.process import Process
from tests.sabotages.acts import Act, advised, called, intercepted, joined
from tests.sabotages.readings import first_reading, reading, stat
from tests.sabotages.scene import Sabotage, Scene, Wraps, mergeable_spans, zero_pages
from uapi import libc, pagemap, userfaultfd
from uapi.ksm import ProcessStat
from uapi.libc import PAGE_SIZE
from uapi.pagemap import PageKind
from uapi.smaps import Vma

VMAS = "uapi.smaps.vmas_in"

_true_states = pagemap.page_states


def _vmas(change: Callable[[int, Vma], Vma]) -> Wraps:
    """What smaps says of each VMA: change(pid, vma)."""
    return reading(VMAS, lambda _, pid, vmas: [change(pid, vma) for vma in vmas])


def _line(name: str, counted: Callable[[int, Vma], int]) -> Wraps:
    """One line of smaps, in pages: counted(pid, vma)."""
    return _vmas(
        lambda pid, vma: (
            replace(vma, pages={**vma.pages, name: counted(pid, vma)}) if name in vma.pages else vma
        )
    )


def _with_zeros(name: str) -> Wraps:
    """One line of smaps counts zero pages too."""

    def counted(pid: int, vma: Vma) -> int:
        states = _true_states(pid, vma.start, (vma.end - vma.start) // PAGE_SIZE)
        return vma.pages[name] + sum(state.kind is PageKind.ZERO for state in states)

    return _line(name, counted)


def _answered(function: Callable[..., Any], change: Callable[..., Any]) -> Wraps:
    """What a function answers in a process: change(process, answer, arguments)."""
    return intercepted(
        function,
        lambda _, process, call, arguments: change(process, call(function, *arguments), *arguments),
    )


def _dirtied(process: Process, content: bytes, address: int, length: int) -> bytes:
    """Somebody has written to the zero page all processes see."""
    states = _true_states(process.pid, address, -(-length // PAGE_SIZE))
    seen = bytearray(content)
    for page, state in enumerate(states):
        if state.kind is PageKind.ZERO:
            seen[(page + 1) * PAGE_SIZE - 1] = 1
    return bytes(seen[:length])


def _more_each_time(pages: int) -> Wraps:
    """A count of copies that grows faster than there are copies."""

    def wrap(_: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        reads = 0

        def replacement(*arguments: Any) -> int:
            nonlocal reads
            reads += 1
            return int(original(*arguments)) + reads * pages

        return replacement

    return {"uapi.taskstats.copy_on_write_count": wrap}


def _cow_ksm(change: Callable[[Scene, int], int]) -> Wraps:
    def changed(scene: Scene, _: None, lines: dict[str, int]) -> dict[str, int]:
        return {**lines, "cow_ksm": change(scene, lines["cow_ksm"])}

    return reading("ksmtests.copies.read_vmstat", changed)


def _noting_unshared(act: Act) -> Any:
    """Keep in mind how many zero pages were unshared."""
    before = zero_pages(act.process.pid)
    result = act.perform()
    pid = act.process.pid
    act.scene.noted[pid] = act.scene.noted.get(pid, 0) + before - zero_pages(pid)
    return result


def _noting_written(act: Act) -> Any:
    """Keep in mind how many pages were written to."""
    pid = act.process.pid
    act.scene.noted[pid] = act.scene.noted.get(pid, 0) - (-act.span[1] // PAGE_SIZE)
    return act.perform()


def _noting_process(act: Act) -> Any:
    act.scene.told.add(act.process.pid)
    return act.perform()


def _without_upper_flags() -> Wraps:
    """VmFlags of processes noted; ui, userfaultfd's minor mode, lies beyond the 32nd bit."""

    def change(scene: Scene, pid: int, vmas: list[Vma]) -> list[Vma]:
        lost = {"ui"} if pid in scene.told else set()
        return [replace(vma, flags=vma.flags - lost) for vma in vmas]

    return reading(VMAS, change)


def _all_zero_pages(_: Scene, pid: int, found: ProcessStat) -> ProcessStat:
    states = [
        state
        for address, length in mergeable_spans(pid)
        for state in _true_states(pid, address, length // PAGE_SIZE)
    ]
    return found._replace(zero_pages=sum(state.kind is PageKind.ZERO for state in states))


def _sabotage(name: str, bug: str, wraps: Wraps) -> Sabotage:
    return Sabotage(name, bug, wraps, "account")


SABOTAGES = (
    _sabotage(
        "ordinary-zero-pages-counted",
        "ksm_zero_pages counts every zero page in mergeable memory, whoever mapped it",
        stat(_all_zero_pages),
    ),
    _sabotage(
        "unsharing-wakes-the-monitor",
        "unsharing sends userfaultfd's monitor an event",
        _answered(userfaultfd.pending_events, lambda _, events, *__: events + 1),
    ),
    _sabotage(
        "smaps-rss-with-zero-pages",
        "Rss of smaps counts placed zero pages",
        _with_zeros("Rss"),
    ),
    _sabotage(
        "smaps-anonymous-with-zero-pages",
        "Anonymous of smaps counts placed zero pages",
        _with_zeros("Anonymous"),
    ),
    _sabotage(
        "smaps-ksm-with-zero-pages",
        "KSM of smaps counts placed zero pages",
        _with_zeros("KSM"),
    ),
    _sabotage(
        "smaps-ksm-empty",
        "KSM of smaps counts nothing",
        _line("KSM", lambda _, __: 0),
    ),
    _sabotage(
        "smaps-mark-kept",
        "VmFlags shows mg for memory that is not mergeable",
        _vmas(lambda _, vma: replace(vma, flags=vma.flags | {"mg"})),
    ),
    _sabotage(
        "smaps-mark-missing",
        "VmFlags does not show mg",
        _vmas(lambda _, vma: replace(vma, flags=vma.flags - {"mg"})),
    ),
    _sabotage(
        "vma-left-behind",
        "memory cut off or unmapped is still a VMA",
        reading(VMAS, lambda _, __, vmas: vmas or [Vma(0, PAGE_SIZE, {}, frozenset())]),
    ),
    _sabotage(
        "rss-anon-stands-still",
        "RssAnon does not shrink by the pages KSM frees",
        first_reading("uapi.smaps.rss_anon"),
    ),
    _sabotage(
        "copies-not-counted",
        "delay accounting does not see the copy of a zero page",
        first_reading("uapi.taskstats.copy_on_write_count"),
    ),
    _sabotage(
        "copies-counted-at-every-write",
        "delay accounting sees a copy where a process writes to its own page",
        _more_each_time(1000),
    ),
    _sabotage(
        "cow-ksm-stands-still",
        "vmstat's cow_ksm does not count copies of KSM pages",
        _cow_ksm(lambda _, __: 0),
    ),
    _sabotage(
        "cow-ksm-with-zero-pages",
        "vmstat's cow_ksm counts copies of zero pages",
        {
            **called(_noting_unshared, served.store, served.store_each),
            **_cow_ksm(lambda scene, count: count + sum(scene.noted.values())),
        },
    ),
    _sabotage(
        "cow-ksm-with-all-pages",
        "vmstat's cow_ksm counts copies of whatever page",
        {
            **called(_noting_written, served.store, served.store_each),
            **_cow_ksm(lambda scene, count: count + sum(scene.noted.values())),
        },
    ),
    _sabotage(
        "merge-any-shown-off",
        "PR_GET_MEMORY_MERGE always says 0",
        _answered(libc.get_memory_merge, lambda *_: 0),
    ),
    _sabotage(
        "merge-any-shown-on",
        "PR_GET_MEMORY_MERGE always says 1",
        _answered(libc.get_memory_merge, lambda *_: 1),
    ),
    _sabotage(
        "zero-page-dirtied",
        "somebody has written to the zero page itself",
        _answered(served.load, _dirtied),
    ),
    _sabotage(
        "unmergeable-drops-upper-flags",
        "MADV_UNMERGEABLE clears the upper half of a VMA's flags",
        joined(advised(_noting_process, "MADV_UNMERGEABLE"), _without_upper_flags()),
    ),
)
