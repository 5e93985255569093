# SPDX-License-Identifier: GPL-2.0
"""How counters are read under sabotage, and the counts that miss an event."""

from collections.abc import Callable, Hashable
from typing import Any

from tests.sabotages.scene import Scene, Wraps
from uapi.ksm import Ksm, ProcessStat
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
        """What is shown now; what did not exist when the test began was 0 then."""
        self.shown[key] = self.pick(self.shown.get(key, 0), value)
        return self.shown[key]

    def begin(self, key: Hashable, value: int) -> None:
        """What is true when the test begins."""
        self.shown[key] = value


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

    def begin(self, key: Hashable, value: int) -> None:
        """What is true when the test begins."""
        self.last[key] = value


Remembers = Callable[[], Memory | Short]


def never_falls() -> Memory:
    """The highest value so far."""
    return Memory(max)


def never_rises() -> Memory:
    """The lowest value so far."""
    return Memory(min)


def stands_still() -> Memory:
    """The value when the test began."""
    return Memory(lambda shown, _: shown)


def stat_field(name: str, remembers: Remembers) -> Wraps:
    """A line of ksm_stat that remembers wrongly."""

    def wrap(scene: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        memory = remembers()
        for process in scene.processes:
            memory.begin(process.pid, getattr(original(process.pid), name) or 0)

        def replacement(pid: int) -> ProcessStat:
            found: ProcessStat = original(pid)
            return found._replace(**{name: memory(pid, getattr(found, name) or 0)})

        return replacement

    return {STAT: wrap}


def of_process(target: str, remembers: Remembers) -> Wraps:
    """A function of a pid that remembers wrongly."""

    def wrap(scene: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        memory = remembers()
        for process in scene.processes:
            memory.begin(process.pid, original(process.pid))
        return lambda pid: memory(pid, original(pid))

    return {target: wrap}


def of_system(name: str, remembers: Remembers) -> Wraps:
    """A counter of KSM that remembers wrongly."""
    target = f"uapi.ksm.Ksm.{name}"

    def wrap(_: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        memory = remembers()
        memory.begin(name, original(Ksm()))
        return lambda counters: memory(name, original(counters))

    return {target: wrap}


def first_reading(target: str) -> Wraps:
    """A function that answers what it answered first."""

    def wrap(_: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        answers: list[Any] = []

        def replacement(*arguments: Any) -> Any:
            if not answers:
                answers.append(original(*arguments))
            return answers[0]

        return replacement

    return {target: wrap}


def _wrong_stat(scene: Scene, pid: int, found: ProcessStat) -> ProcessStat:
    error = scene.errors[pid]
    return found._replace(
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
