# SPDX-License-Identifier: GPL-2.0
"""How an operation can go wrong, whichever it is."""

from collections.abc import Callable
from typing import Any

from mm import scanning
from mm.process import Process
from mm.region import Region
from tests.sabotages.acts import Act, Flaw
from tests.sabotages.scene import (
    Scene,
    Span,
    mergeable_spans,
    pages_of,
    peek,
    poke,
    unshare,
    zero_pages,
)
from uapi import libc
from uapi.ksm import Ksm, RunState
from uapi.libc import PAGE_SIZE, lib

ENDING = b"\xff"  # no test ends a page with it


def ignored(act: Act) -> Any:
    """Nothing is done, and success reported."""
    return act.result


def halved(act: Act) -> Any:
    """The second half of the memory is left out."""
    address, length = act.span
    return act.on((address, length // 2 // PAGE_SIZE * PAGE_SIZE))


def unnoticed(scene: Scene, perform: Callable[[], Any]) -> Any:
    """Neither count of KSM-placed zero pages follows what is done."""
    before = scene.zero_pages()
    result = perform()
    after = scene.zero_pages()
    for pid in before:
        scene.errors[pid] += before[pid] - after[pid]
    return result


def uncounted(act: Act) -> Any:
    """Neither count of KSM-placed zero pages follows what is done."""
    return unnoticed(act.scene, act.perform)


def counted_out(act: Act) -> Any:
    """A page that stays placed is counted out."""
    act.scene.errors[act.process.pid] -= 1
    return act.perform()


def unshares(act: Act) -> Any:
    """The process gets pages of its own where zero pages should stay."""
    # Before and not after: what is done may forbid writing.
    whole = len(pages_of(act.span)) > 1 << 30
    for span in mergeable_spans(act.process.pid) if whole else [act.span]:
        unshare(act.process.pid, span)
    return act.perform()


def spills(act: Act) -> Any:
    """The pages before and behind are unshared too."""
    pages = pages_of(act.span)
    result = act.perform()
    for neighbour in (pages[0] - PAGE_SIZE, pages[-1] + PAGE_SIZE):
        unshare(act.process.pid, (neighbour, 1))
    return result


def spreads(act: Act) -> Any:
    """Other processes' pages at the same addresses are unshared too."""
    result = act.perform()
    for process in act.scene.processes:
        if process is not act.process:
            unshare(process.pid, act.span)
    return result


def engulfs(act: Act) -> Any:
    """All other mergeable memory of the process is unshared too."""
    others = [span for span in mergeable_spans(act.process.pid) if span[0] != act.span[0]]
    result = act.perform()
    for span in others:
        unshare(act.process.pid, span)
    return result


def charged_to_relatives(act: Act) -> Any:
    """The right number of pages is counted out of the wrong process."""
    before = zero_pages(act.process.pid)
    result = act.perform()
    lost = before - zero_pages(act.process.pid)
    others = [process.pid for process in act.scene.processes if process is not act.process]
    if others:
        act.scene.errors[act.process.pid] += lost
        act.scene.errors[others[0]] -= lost
    return result


def unmaps(act: Act) -> Any:
    """The memory's pages are dropped."""
    result = act.perform()
    act.call(libc.madvise, *act.span, lib.MADV_DONTNEED)
    return result


def _damage(pid: int, span: Span) -> None:
    for address in pages_of(span):
        poke(pid, address + PAGE_SIZE - 1, ENDING)


def damage_all(scene: Scene) -> None:
    """Write to the end of every mergeable page."""
    for process in scene.processes:
        for span in mergeable_spans(process.pid):
            _damage(process.pid, span)


def damages(act: Act) -> Any:
    """The last byte of each page is wrong afterwards."""
    result = act.perform()
    _damage(act.process.pid, act.span)
    return result


def damages_before(act: Act) -> Any:
    """The last byte of each page is made wrong by what is done."""
    _damage(act.process.pid, act.span)
    return act.perform()


def damages_target(act: Act) -> Any:
    """The last byte of each page is wrong where the memory ends up."""
    result = act.perform()
    _damage(act.process.pid, (act.result, act.span[1]))
    return result


def equalizes(act: Act) -> Any:
    """Every page gets the content of the first, as if ksmd took all pages for equal."""
    first, *others = pages_of(act.span)
    content = peek(act.process.pid, first, PAGE_SIZE)
    for address in others:
        poke(act.process.pid, address, content)
    return act.perform()


def looks_at_halves(act: Act) -> Any:
    """A page that begins with zeros is taken for a page of zeros."""
    pid, half = act.process.pid, PAGE_SIZE // 2
    for address in pages_of(act.span):
        if not any(peek(pid, address, half)) and any(peek(pid, address + half, half)):
            poke(pid, address + half, bytes(half))
    return act.perform()


def shares_again(act: Act) -> Any:
    """Zero pages are carried along instead of being unshared: placed, and counted, they stay."""
    result = act.perform()
    settings = Ksm()
    settings.run = RunState.MERGE
    moved = Region(act.process, act.result, act.span[1] // PAGE_SIZE)
    scanning.wait_until_merged(settings, moved)
    settings.run = RunState.STOP
    return result


def loses_mark(act: Act) -> Any:
    """The memory is no longer marked for KSM, where it ends up."""
    result = act.perform()
    act.call(libc.madvise, act.result, act.span[1], lib.MADV_UNMERGEABLE)
    return result


def populates(act: Act) -> Any:
    """Memory left behind is filled with ordinary zero pages."""
    result = act.perform()
    act.call(libc.madvise, *act.span, lib.MADV_POPULATE_READ)
    return result


def when_marked(flaw: Flaw) -> Flaw:
    """The flaw where the memory is marked for KSM already."""

    def again(act: Act) -> Any:
        marked = any(
            start <= act.span[0] < start + length
            for start, length in mergeable_spans(act.process.pid)
        )
        return flaw(act) if marked else act.perform()

    return again


def unmerge(process: Process, call: Callable[..., Any]) -> None:
    """Take the mark of KSM from all memory of a process."""
    for address, length in mergeable_spans(process.pid):
        call(libc.madvise, address, length, lib.MADV_UNMERGEABLE)


def unmerge_all(scene: Scene) -> None:
    """Take the mark of KSM from all memory of the test's processes."""
    for process in scene.processes:
        unmerge(process, process.call)
