# SPDX-License-Identifier: GPL-2.0
"""Known upstream bugs made to look as if they were gone: the tests for them must pass."""

import errno
from dataclasses import replace
from typing import Any

from mm import served
from mm.process import Process
from tests.sabotages.acts import Act, Arguments, Call, advised, called, intercepted, method
from tests.sabotages.flaws import ignored
from tests.sabotages.readings import WRONG_COUNTS, reading
from tests.sabotages.scene import Sabotage, Scene, Wraps, unshare
from uapi import libc, pagemap, userfaultfd
from uapi.libc import PAGE_SIZE
from uapi.pagemap import PageKind, PageState

_true_states = pagemap.page_states
MERGED = (PageKind.ZERO, PageKind.KSM)


def _unshares_source(act: Act) -> Any:
    """Pages of the process's own move without harm to any count."""
    unshare(act.process.pid, act.span)
    return act.perform()


def _noting_zero_pages(act: Act) -> Any:
    """Keep in mind how many zero pages a child will not inherit."""
    address, length = act.span
    states = _true_states(act.process.pid, address, length // PAGE_SIZE)
    placed = sum(state.kind is PageKind.ZERO for state in states)
    act.scene.noted[act.process.pid] = placed
    return act.perform()


def _counts_what_is_copied(act: Act) -> Process:
    child: Process = act.perform()
    act.scene.errors[child.pid] -= act.scene.noted.get(act.process.pid, 0)
    return child


def _fails_at_once(_: Scene, __: Process, ___: Call, ____: Arguments) -> int:
    return errno.ENOMEM


def _refills_without_fork(_: Scene, __: Process, call: Call, arguments: Arguments) -> None:
    address, pages, _forks = arguments
    call(served.fill, address, [bytes(8)] * pages)


def _keeps_write_protection(_: Scene, __: int, states: list[PageState]) -> list[PageState]:
    return [replace(state, uffd_wp=True) if state.kind in MERGED else state for state in states]


def _sabotage(name: str, bug: str, wraps: Wraps) -> Sabotage:
    return Sabotage(name, bug, wraps, "repair")


SABOTAGES = (
    _sabotage(
        "repaired-userfaultfd-move",
        "UFFDIO_MOVE moves pages without leaving zero pages counted",
        called(_unshares_source, userfaultfd.move),
    ),
    _sabotage(
        "repaired-fork-without-copies",
        "a child does not count pages it did not inherit",
        {
            **advised(_noting_zero_pages, "MADV_DONTFORK", "MADV_WIPEONFORK"),
            **method(_counts_what_is_copied, "fork"),
            **WRONG_COUNTS,
        },
    ),
    _sabotage(
        "repaired-failing-fork",
        "a fork that fails changes no count",
        intercepted(served.fork_errno, _fails_at_once),
    ),
    _sabotage(
        "repaired-fork-race",
        "fork and ksmd do not race for the count",
        intercepted(served.fork_while_refilling, _refills_without_fork),
    ),
    _sabotage(
        "repaired-hole-in-file",
        "a hole in a file leaves private pages alone",
        called(ignored, libc.punch_hole),
    ),
    _sabotage(
        "repaired-lazy-freeing",
        "MADV_FREE leaves KSM pages alone",
        advised(ignored, "MADV_FREE"),
    ),
    _sabotage(
        "repaired-write-protection",
        "merging keeps userfaultfd's write protection",
        reading("uapi.pagemap.page_states", _keeps_write_protection),
    ),
)
