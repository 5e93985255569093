# SPDX-License-Identifier: GPL-2.0
"""Bugs of merging: which memory, which pages, by which settings."""

from collections.abc import Callable
from typing import Any

from tests.sabotages.acts import Act, Written, advised, setting
from tests.sabotages.flaws import (
    counted_out,
    damage_all,
    damages_before,
    equalizes,
    halved,
    ignored,
    looks_at_halves,
    unmerge_all,
    unnoticed,
    unshares,
    when_marked,
)
from tests.sabotages.readings import WRONG_COUNTS
from tests.sabotages.scene import (
    Sabotage,
    Scene,
    Wraps,
    mergeable_spans,
    pages_of,
    unshare_all,
)
from uapi import libc
from uapi.ksm import Ksm, RunState
from uapi.libc import lib

LOOK = 100  # ns for a page that is not there


def _places_nothing(act: Act) -> Any:
    if act.scene.alone:
        Ksm().use_zero_pages = False
    return act.perform()


def _at_run(state: RunState, change: Callable[[Scene, Callable[[], Any]], Any]) -> Wraps:
    """What happens when `state` is written to run: change(scene, perform)."""

    def at_write(scene: Scene, value: RunState, write: Written) -> None:
        if value is state:
            change(scene, lambda: write(value))
        else:
            write(value)

    return setting("run", at_write)


def _nothing(_: Scene, __: Callable[[], Any]) -> None:
    """Success is reported."""


def _then(follow_up: Callable[[Scene], None]) -> Callable[[Scene, Callable[[], Any]], None]:
    def change(scene: Scene, perform: Callable[[], Any]) -> None:
        perform()
        follow_up(scene)

    return change


def _switch_moves_pages(to: bool) -> Wraps:
    """use_zero_pages unshares what is merged, which ksmd then merges anew."""

    def at_write(scene: Scene, value: bool, write: Written) -> None:
        write(value)
        if value is to:
            unshare_all(scene)

    return setting("use_zero_pages", at_write)


def _changes_huge_page_advice(act: Act) -> Any:
    """Flags of the VMA besides KSM's change."""
    result = act.perform()
    act.call(libc.madvise, *act.span, lib.MADV_HUGEPAGE)
    return result


def _ignored(_: Scene, __: object, ___: Written) -> None:
    """Success is reported."""


def _not_applied(name: str) -> Wraps:
    """A setting that tests change through the journal's ways stays as it is."""

    def wrap(_: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda path, value: None if path.name == name else original(path, value)

    return {"lease.journal.write_value": wrap}


def _visits_holes(scene: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
    """Processor time grows as if ksmd had looked at every address since it was last read."""
    spent = 0

    def replacement(clock: int) -> int:
        nonlocal spent
        spans = [span for process in scene.processes for span in mergeable_spans(process.pid)]
        spent += LOOK * sum(len(pages_of(span)) for span in spans)
        return int(original(clock)) + spent

    return replacement


def _sabotage(name: str, bug: str, wraps: Wraps) -> Sabotage:
    return Sabotage(name, bug, wraps, "operation")


SABOTAGES = (
    _sabotage(
        "mergeable-ignored", "MADV_MERGEABLE marks nothing", advised(ignored, "MADV_MERGEABLE")
    ),
    _sabotage(
        "mergeable-halved", "MADV_MERGEABLE stops half-way", advised(halved, "MADV_MERGEABLE")
    ),
    _sabotage(
        "mergeable-again-unshares",
        "MADV_MERGEABLE of mergeable memory unshares",
        advised(when_marked(unshares), "MADV_MERGEABLE"),
    ),
    _sabotage(
        "mergeable-again-counts-out",
        "MADV_MERGEABLE of mergeable memory counts zero pages out that stay",
        {**advised(when_marked(counted_out), "MADV_MERGEABLE"), **WRONG_COUNTS},
    ),
    _sabotage(
        "merging-damages",
        "a page is not the same after it was merged",
        advised(damages_before, "MADV_MERGEABLE"),
    ),
    _sabotage(
        "merging-equalizes",
        "ksmd merges pages that differ",
        advised(equalizes, "MADV_MERGEABLE"),
    ),
    _sabotage(
        "placing-looks-at-half",
        "ksmd places pages that only begin with zeros",
        advised(looks_at_halves, "MADV_MERGEABLE"),
    ),
    _sabotage(
        "placing-ignored",
        "ksmd merges pages of zeros like others in spite of use_zero_pages=1",
        advised(_places_nothing, "MADV_MERGEABLE"),
    ),
    _sabotage(
        "use-zero-pages-ignored",
        "writing use_zero_pages changes nothing",
        setting("use_zero_pages", _ignored),
    ),
    _sabotage(
        "use-zero-pages-off-unshares",
        "use_zero_pages=0 unshares what is placed",
        _switch_moves_pages(to=False),
    ),
    _sabotage(
        "use-zero-pages-on-moves",
        "use_zero_pages=1 places zeros that share a KSM page",
        _switch_moves_pages(to=True),
    ),
    _sabotage("run-0-ignored", "run=0 does not stop ksmd", _at_run(RunState.STOP, _nothing)),
    _sabotage("run-2-ignored", "run=2 does nothing", _at_run(RunState.UNMERGE, _nothing)),
    _sabotage(
        "run-2-uncounted",
        "run=2 leaves zero pages counted",
        {**_at_run(RunState.UNMERGE, unnoticed), **WRONG_COUNTS},
    ),
    _sabotage(
        "run-2-damages",
        "run=2 copies a page wrongly",
        _at_run(RunState.UNMERGE, _then(damage_all)),
    ),
    _sabotage(
        "run-2-unmarks",
        "memory is no longer mergeable after run=2",
        _at_run(RunState.UNMERGE, _then(unmerge_all)),
    ),
    _sabotage(
        "mergeable-changes-other-flags",
        "MADV_MERGEABLE changes other flags of the VMA too",
        advised(_changes_huge_page_advice, "MADV_MERGEABLE"),
    ),
    _sabotage(
        "unmergeable-changes-other-flags",
        "MADV_UNMERGEABLE changes other flags of the VMA too",
        advised(_changes_huge_page_advice, "MADV_UNMERGEABLE"),
    ),
    _sabotage(
        "max-page-sharing-ignored",
        "writing max_page_sharing changes nothing",
        _not_applied("max_page_sharing"),
    ),
    _sabotage(
        "scanning-visits-holes",
        "ksmd looks at every address of sparse memory",
        {"time.clock_gettime_ns": _visits_holes},
    ),
)
