# SPDX-License-Identifier: GPL-2.0
"""How counters are read under sabotage, and the counts that miss an event."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

from tests.sabotages.scene import Scene, Wraps
from uapi.ksm import ProcessStat
from uapi.libc import PAGE_SIZE

STAT = "uapi.ksm.process_stat"
MERGING = "uapi.ksm.merging_pages"
SYSTEM = "uapi.ksm.Ksm.ksm_zero_pages"
GENERAL_PROFIT = "uapi.ksm.Ksm.general_profit"

ChangeStat = Callable[[Scene, int, ProcessStat], ProcessStat]


def stat(change: ChangeStat) -> Wraps:
    """What /proc/PID/ksm_stat says, changed."""

    def wrap(scene: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda pid: change(scene, pid, original(pid))

    return {STAT: wrap}


def reading(target: str, change: Callable[[Scene, Any, Any], Any]) -> Wraps:
    """What a function or counter says: change(scene, first argument, true value)."""

    def wrap(scene: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: change(scene, next(iter(arguments), None), original(*arguments))

    return {target: wrap}


class Memory:
    """A counter that does not go where it should; one value for each thing counted."""

    def __init__(self, pick: Callable[[int, int], int]) -> None:
        """`pick` chooses between what was last shown and what is true."""
        self.pick = pick
        self.shown: dict[Hashable, int] = {}

    def __call__(self, key: Hashable, value: int) -> int:
        """What is shown now."""
        self.shown[key] = self.pick(self.shown.get(key, value), value)
        return self.shown[key]


class Short:
    """A counter that falls by one less than it should, every time."""

    def __init__(self) -> None:
        self.last: dict[Hashable, int] = {}
        self.missed: dict[Hashable, int] = {}

    def __call__(self, key: Hashable, value: int) -> int:
        """What is shown now."""
        if value < self.last.get(key, value):
            self.missed[key] = self.missed.get(key, 0) + 1
        self.last[key] = value
        return value + self.missed.get(key, 0)


Remembers = Callable[[], Callable[[Hashable, int], int]]


def never_falls() -> Memory:
    """The highest value so far."""
    return Memory(max)


def never_rises() -> Memory:
    """The lowest value so far."""
    return Memory(min)


def stands_still() -> Memory:
    """The first value."""
    return Memory(lambda shown, _: shown)


def stat_field(name: str, remembers: Remembers) -> Wraps:
    """A line of ksm_stat that remembers wrongly."""

    def wrap(_: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        memory = remembers()

        def replacement(pid: int) -> ProcessStat:
            found: ProcessStat = original(pid)
            return replace(found, **{name: memory(pid, getattr(found, name) or 0)})

        return replacement

    return {STAT: wrap}


def remembered(target: str, remembers: Remembers) -> Wraps:
    """A function or counter that remembers wrongly."""

    def wrap(_: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        memory = remembers()

        def replacement(first: Any, *rest: Any) -> int:
            key = first if isinstance(first, int) else target
            return memory(key, original(first, *rest))

        return replacement

    return {target: wrap}


def _wrong_stat(scene: Scene, pid: int, found: ProcessStat) -> ProcessStat:
    error = scene.errors[pid]
    return replace(
        found,
        zero_pages=(found.zero_pages or 0) + error,
        process_profit=(found.process_profit or 0) + error * PAGE_SIZE,
    )


def _system_error(scene: Scene) -> int:
    return scene.errors.total() + scene.system_error


WRONG_COUNTS: Wraps = {
    **stat(_wrong_stat),
    **reading(SYSTEM, lambda scene, _, pages: pages + _system_error(scene)),
    **reading(GENERAL_PROFIT, lambda scene, _, profit: profit + _system_error(scene) * PAGE_SIZE),
}
