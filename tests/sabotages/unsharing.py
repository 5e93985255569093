# SPDX-License-Identifier: GPL-2.0
"""Bugs of what should unshare pages: advice, write faults, writers from outside; and of reading."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mm import served
from tests.sabotages.acts import Act, Flaw, advised, called, joined, reached
from tests.sabotages.flaws import (
    charged_to_relatives,
    counted_out,
    damages,
    damages_before,
    halved,
    ignored,
    spills,
    spreads,
    uncounted,
    unshares,
)
from tests.sabotages.readings import WRONG_COUNTS, reading
from tests.sabotages.scene import Sabotage, Scene, Wraps, unshare
from uapi import io_uring, libc
from uapi.smaps import Vma

WRITES = (served.store, served.store_each)
LENDERS = (io_uring.pin_pages, libc.mlock)  # make pages writable, write nothing


def _writers(flaw: Flaw) -> Wraps:
    """The flaw, in every way of writing into another process, or through the kernel."""
    return {
        **called(flaw, served.read_file_into),
        **reached(flaw, "os.pwrite", "uapi.libc.ptrace", "uapi.libc.process_vm_writev"),
    }


def _loses_writes(_: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
    """A /proc/PID/mem that takes writes and does nothing with them."""

    def replacement(path: str, *arguments: Any, **named: Any) -> Any:
        lost = os.fspath(path).endswith("/mem")
        return original(os.devnull if lost else path, *arguments, **named)

    return replacement


def _unshares_alone(act: Act) -> None:
    """What the advice should do, but for the mark; `_without_marks` hides that."""
    act.scene.told.add(act.process.pid)
    unshare(act.process.pid, act.span)


def _without_marks() -> Wraps:
    def change(scene: Scene, pid: int, vmas: list[Vma]) -> list[Vma]:
        hidden = {"mg"} if pid in scene.told else set()
        return [replace(vma, flags=vma.flags - hidden) for vma in vmas]

    return reading("uapi.smaps.vmas_in", change)


def _reads_something_else(act: Act) -> bytes:
    """Its first byte is another one from the second time on."""
    content: bytes = act.perform()
    pid = act.process.pid
    times = act.scene.noted[pid] = act.scene.noted.get(pid, 0) + 1
    return content if times == 1 else bytes([content[0] ^ 1]) + content[1:]


def _sabotage(name: str, bug: str, wraps: Wraps) -> Sabotage:
    return Sabotage(name, bug, wraps, "operation")


SABOTAGES = (
    _sabotage(
        "unmergeable-ignored",
        "MADV_UNMERGEABLE does nothing",
        advised(ignored, "MADV_UNMERGEABLE"),
    ),
    _sabotage(
        "unmergeable-halved",
        "MADV_UNMERGEABLE stops half-way",
        advised(halved, "MADV_UNMERGEABLE"),
    ),
    _sabotage(
        "unmergeable-uncounted",
        "MADV_UNMERGEABLE unshares zero pages and leaves them counted",
        {**advised(uncounted, "MADV_UNMERGEABLE"), **WRONG_COUNTS},
    ),
    _sabotage(
        "unmergeable-damages",
        "MADV_UNMERGEABLE copies a page wrongly",
        advised(damages, "MADV_UNMERGEABLE"),
    ),
    _sabotage(
        "unmergeable-spills",
        "MADV_UNMERGEABLE unshares the page behind its range too",
        advised(spills, "MADV_UNMERGEABLE"),
    ),
    _sabotage(
        "unmergeable-spreads",
        "MADV_UNMERGEABLE unshares the pages of relatives too",
        advised(spreads, "MADV_UNMERGEABLE"),
    ),
    _sabotage(
        "unmergeable-charged-to-relatives",
        "MADV_UNMERGEABLE counts zero pages out of another process of the family",
        {**advised(charged_to_relatives, "MADV_UNMERGEABLE"), **WRONG_COUNTS},
    ),
    _sabotage(
        "unmergeable-for-a-moment",
        "MADV_UNMERGEABLE unshares, clears the mark, and ksmd merges the memory all the same",
        joined(advised(_unshares_alone, "MADV_UNMERGEABLE"), _without_marks()),
    ),
    _sabotage(
        "unmergeable-unshares-ordinary-zero-pages",
        "MADV_UNMERGEABLE unshares zero pages that KSM did not place",
        advised(unshares, "MADV_UNMERGEABLE"),
    ),
    _sabotage(
        "write-lost",
        "a write to a merged page does not land",
        called(ignored, *WRITES),
    ),
    _sabotage(
        "write-uncounted",
        "a write fault unshares a zero page and leaves it counted",
        {**called(uncounted, *WRITES), **WRONG_COUNTS},
    ),
    _sabotage(
        "write-damages",
        "a write fault leaves something else than zeros in the rest of the page",
        called(damages, *WRITES),
    ),
    _sabotage(
        "write-spills",
        "a write fault unshares the neighbours too",
        called(spills, *WRITES),
    ),
    _sabotage(
        "write-spreads",
        "a write fault unshares the pages of relatives too",
        called(spreads, *WRITES),
    ),
    _sabotage(
        "write-charged-to-relatives",
        "a write fault counts its zero page out of another process of the family",
        {**called(charged_to_relatives, *WRITES), **WRONG_COUNTS},
    ),
    _sabotage(
        "read-unshares",
        "a read fault unshares a zero page",
        called(unshares, served.load),
    ),
    _sabotage(
        "read-differs",
        "a page that is read again holds something else",
        called(_reads_something_else, served.load),
    ),
    _sabotage(
        "read-counts-out",
        "reading a zero page counts it out",
        {**called(counted_out, served.load), **WRONG_COUNTS},
    ),
    _sabotage(
        "outside-write-lost",
        "a write into a process through the kernel or get_user_pages is lost",
        {**_writers(ignored), "ksmtests.test_functional_port.open": _loses_writes},
    ),
    _sabotage(
        "outside-write-uncounted",
        "get_user_pages and copy_to_user unshare zero pages and leave them counted",
        {**_writers(uncounted), **WRONG_COUNTS},
    ),
    _sabotage(
        "outside-write-damages",
        "get_user_pages and copy_to_user copy a page wrongly before they write",
        _writers(damages_before),
    ),
    _sabotage(
        "outside-write-spills",
        "get_user_pages and copy_to_user unshare the neighbours too",
        _writers(spills),
    ),
    _sabotage(
        "pin-ignored",
        "pinning and locking leave pages shared",
        called(ignored, *LENDERS),
    ),
    _sabotage(
        "pin-uncounted",
        "pinning and locking unshare zero pages and leave them counted",
        {**called(uncounted, *LENDERS), **WRONG_COUNTS},
    ),
    _sabotage(
        "pin-damages",
        "pinning and locking copy a page wrongly",
        called(damages, *LENDERS),
    ),
    _sabotage(
        "pin-spills",
        "pinning and locking unshare the neighbours too",
        called(spills, *LENDERS),
    ),
    _sabotage(
        "populate-write-ignored",
        "MADV_POPULATE_WRITE leaves pages shared",
        advised(ignored, "MADV_POPULATE_WRITE"),
    ),
    _sabotage(
        "populate-write-uncounted",
        "MADV_POPULATE_WRITE unshares zero pages and leaves them counted",
        {**advised(uncounted, "MADV_POPULATE_WRITE"), **WRONG_COUNTS},
    ),
    _sabotage(
        "populate-write-damages",
        "MADV_POPULATE_WRITE copies a page wrongly",
        advised(damages, "MADV_POPULATE_WRITE"),
    ),
    _sabotage(
        "populate-write-spills",
        "MADV_POPULATE_WRITE unshares the neighbours too",
        advised(spills, "MADV_POPULATE_WRITE"),
    ),
)
