# SPDX-License-Identifier: GPL-2.0
"""Bugs of what concerns a whole process: PR_SET_MEMORY_MERGE, fork, exec and exit."""

from collections.abc import Callable
from typing import Any

from mm import served
from mm.process import Process
from tests.sabotages.acts import (
    Act,
    Arguments,
    Call,
    Flaw,
    advised,
    intercepted,
    joined,
    method,
)
from tests.sabotages.flaws import uncounted, unmerge, unmerge_all, unshares
from tests.sabotages.readings import WRONG_COUNTS
from tests.sabotages.scene import Sabotage, Scene, Wraps, zero_pages
from uapi import libc
from uapi.libc import PAGE_SIZE, lib


def _set(value: int, instead: Callable[[Scene, Process, Call], Any]) -> Wraps:
    """What happens instead of PR_SET_MEMORY_MERGE of `value`."""

    def setting(scene: Scene, process: Process, call: Call, arguments: Arguments) -> Any:
        if arguments == (value,):
            return instead(scene, process, call)
        return call(libc.set_memory_merge, *arguments)

    return intercepted(libc.set_memory_merge, setting)


def _claimed(value: int) -> Wraps:
    """PR_GET_MEMORY_MERGE says `value` to whom it was set, or who inherited it."""

    def claim(scene: Scene, process: Process, call: Call, _: Arguments) -> Any:
        return value if process.pid in scene.told else call(libc.get_memory_merge)

    return intercepted(libc.get_memory_merge, claim)


def _hollow(value: int, instead: Callable[[Process, Call], None]) -> Wraps:
    """PR_SET_MEMORY_MERGE of `value` does something else, but is remembered."""

    def pretend(scene: Scene, process: Process, call: Call) -> None:
        scene.told.add(process.pid)
        instead(process, call)

    return joined(_set(value, pretend), _claimed(value))


def _set_then_unmerge(process: Process, call: Call) -> None:
    call(libc.set_memory_merge, 1)
    unmerge(process, call)


def _marks_all_again(_: Scene, __: Process, call: Call) -> None:
    if call(libc.get_memory_merge):
        call(libc.set_memory_merge, 0)
    call(libc.set_memory_merge, 1)


def _clears_advice(_: Scene, process: Process, call: Call) -> None:
    call(libc.set_memory_merge, 0)
    unmerge(process, call)


def _stray(change: Callable[[Call, Arguments], Any]) -> Wraps:
    """What happens instead of prctl(2) with arguments."""
    return intercepted(libc.prctl, lambda _, __, call, arguments: change(call, arguments))


def _overlooked(call: Call, arguments: Arguments) -> Any:
    meant = 2 if arguments[0] == lib.PR_SET_MEMORY_MERGE else 1
    return call(libc.prctl, *arguments[:meant])


def _obeyed_and_refused(call: Call, arguments: Arguments) -> Any:
    call(libc.set_memory_merge, 1)
    return call(libc.prctl, *arguments)


def _splits_mapping(_: Scene, __: Process, call: Call, arguments: Arguments) -> Any:
    address = call(libc.mmap, *arguments)
    # Of two pages side by side one is left out: they differ, and stay VMAs of their own.
    odd = arguments[0] == PAGE_SIZE and address // PAGE_SIZE % 2
    if odd and call(libc.get_memory_merge):
        call(libc.madvise, address, PAGE_SIZE, lib.MADV_UNMERGEABLE)
    return address


def _forgets_in_child(act: Act) -> Process:
    child: Process = act.perform()
    act.scene.told.add(child.pid)  # for _claimed
    child.call(libc.set_memory_merge, 0)
    return child


def _forgets_itself(act: Act) -> None:
    act.perform()
    act.scene.told.add(act.process.pid)
    act.call(libc.set_memory_merge, 0)


def _after_failed_fork(flaw: Callable[[Scene], None]) -> Wraps:
    def failing(scene: Scene, process: Process, call: Call, _: Arguments) -> Any:
        result = call(served.fork_errno)
        scene.told.add(process.pid)
        flaw(scene)
        return result

    return intercepted(served.fork_errno, failing)


def _forgotten(act: Act) -> Any:
    return act.result if act.process.pid in act.scene.told else act.perform()


def _child_uncounted(act: Act) -> Process:
    child: Process = act.perform()
    act.scene.errors[child.pid] -= zero_pages(child.pid)
    return child


def _child_uncounted_in_system(act: Act) -> Process:
    child: Process = act.perform()
    act.scene.system_error -= zero_pages(child.pid)
    return child


def _ends_at_relatives_cost(act: Act) -> Any:
    lost = zero_pages(act.process.pid)
    result = act.perform()
    for process in act.scene.processes:
        act.scene.errors[process.pid] -= lost
    return result


def _ending(flaw: Flaw) -> Wraps:
    return {**method(flaw, "exit"), **method(flaw, "kill")}


def _sabotage(name: str, bug: str, wraps: Wraps) -> Sabotage:
    return Sabotage(name, bug, wraps, "operation")


SABOTAGES = (
    _sabotage(
        "merge-any-on-ignored",
        "PR_SET_MEMORY_MERGE=1 is ignored",
        _set(1, lambda _, __, ___: None),
    ),
    _sabotage(
        "merge-any-off-ignored",
        "PR_SET_MEMORY_MERGE=0 is ignored",
        _set(0, lambda _, __, ___: None),
    ),
    _sabotage(
        "merge-any-on-hollow",
        "PR_SET_MEMORY_MERGE=1 is remembered, but marks nothing",
        _hollow(1, lambda _, __: None),
    ),
    _sabotage(
        "merge-any-on-skips-present-memory",
        "PR_SET_MEMORY_MERGE=1 marks only what is mapped later",
        _hollow(1, _set_then_unmerge),
    ),
    _sabotage(
        "merge-any-on-again-marks-all",
        "PR_SET_MEMORY_MERGE=1 said twice marks what was taken out",
        _set(1, _marks_all_again),
    ),
    _sabotage(
        "merge-any-off-hollow",
        "PR_SET_MEMORY_MERGE=0 is remembered, but unmerges nothing",
        _hollow(0, lambda _, __: None),
    ),
    _sabotage(
        "merge-any-off-skips-later-memory",
        "PR_SET_MEMORY_MERGE=0 unmerges, but what is mapped later merges still",
        _hollow(0, unmerge),
    ),
    _sabotage(
        "merge-any-off-clears-advice",
        "PR_SET_MEMORY_MERGE=0 takes marks of advice away though nothing was set",
        _set(0, _clears_advice),
    ),
    _sabotage(
        "prctl-overlooks-stray-arguments",
        "PR_SET_MEMORY_MERGE and PR_GET_MEMORY_MERGE take arguments that mean nothing",
        _stray(_overlooked),
    ),
    _sabotage(
        "prctl-obeys-and-refuses",
        "a refused prctl sets PR_SET_MEMORY_MERGE all the same",
        _stray(_obeyed_and_refused),
    ),
    _sabotage(
        "merge-any-splits-mappings",
        "under PR_SET_MEMORY_MERGE mappings side by side stay VMAs of their own",
        intercepted(libc.mmap, _splits_mapping),
    ),
    _sabotage(
        "merge-any-lost-in-fork",
        "a child does not inherit PR_SET_MEMORY_MERGE",
        method(_forgets_in_child, "fork"),
    ),
    _sabotage(
        "merge-any-hollow-in-child",
        "a child inherits PR_SET_MEMORY_MERGE by name only",
        {**method(_forgets_in_child, "fork"), **_claimed(1)},
    ),
    _sabotage(
        "merge-any-lost-in-exec",
        "PR_SET_MEMORY_MERGE does not outlive exec",
        method(_forgets_itself, "execute"),
    ),
    _sabotage(
        "merge-any-hollow-after-exec",
        "PR_SET_MEMORY_MERGE outlives exec by name only",
        {**method(_forgets_itself, "execute"), **_claimed(1)},
    ),
    _sabotage("fork-unshares", "fork unshares the parent's pages", method(unshares, "fork")),
    _sabotage(
        "fork-uncounted",
        "a child's copies are not counted",
        {**method(_child_uncounted, "fork"), **WRONG_COUNTS},
    ),
    _sabotage(
        "fork-uncounted-in-system",
        "a child's copies are counted as its own, but not as the system's",
        {**method(_child_uncounted_in_system, "fork"), **WRONG_COUNTS},
    ),
    _sabotage(
        "end-uncounted",
        "a process that ends leaves its zero pages counted",
        {**_ending(uncounted), **WRONG_COUNTS},
    ),
    _sabotage(
        "end-at-relatives-cost",
        "a child's end counts its pages out of its parent too",
        {**_ending(_ends_at_relatives_cost), **WRONG_COUNTS},
    ),
    _sabotage(
        "exec-uncounted",
        "exec leaves the old memory's zero pages counted",
        {**method(uncounted, "execute"), **WRONG_COUNTS},
    ),
    _sabotage(
        "failed-fork-unmerges",
        "a fork that fails unmerges the parent's memory for good",
        _after_failed_fork(unmerge_all),
    ),
    _sabotage(
        "failed-fork-ends-merging",
        "a fork that fails makes ksmd forget the parent",
        joined(advised(_forgotten, "MADV_MERGEABLE"), _after_failed_fork(lambda _: None)),
    ),
)
