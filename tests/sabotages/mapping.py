# SPDX-License-Identifier: GPL-2.0
"""Bugs of what changes mappings: unmapping, moving, protecting, reclaim, huge pages."""

from collections.abc import Callable
from typing import Any

from mm import served
from tests.sabotages.acts import Flaw, Written, advised, called, reached, setting
from tests.sabotages.flaws import (
    counted_out,
    damage_all,
    damages,
    damages_target,
    engulfs,
    halved,
    ignored,
    loses_mark,
    populates,
    shares_again,
    spills,
    uncounted,
    unmaps,
    unnoticed,
    unshares,
)
from tests.sabotages.readings import WRONG_COUNTS
from tests.sabotages.scene import Sabotage, Scene, Wraps, unshare_all
from uapi import libc, userfaultfd
from uapi.libc import lib

KHUGEPAGED_WAIT = "plugins.khugepaged.KhugepagedAlone.wait_until"
RECLAIM = ("MADV_FREE", "MADV_COLD", "MADV_PAGEOUT")


def _moves(_: int, __: int, ___: int, flags: int = 0, *____: int) -> bool:
    return bool(flags & lib.MREMAP_FIXED) and not flags & lib.MREMAP_DONTUNMAP


def _leaves(_: int, __: int, ___: int, flags: int = 0, *____: int) -> bool:
    return bool(flags & lib.MREMAP_DONTUNMAP)


def _grows(_: int, old: int, new: int, *__: int) -> bool:
    return new > old


def _shrinks(_: int, old: int, new: int, *__: int) -> bool:
    return new < old


def _unmappers(flaw: Flaw) -> Wraps:
    """The flaw, in each way of unmapping a range; advice is joined to the others by hand."""

    def unmapping(*arguments: int) -> bool:
        return len(arguments) == 2 or arguments[2] in (lib.MADV_DONTNEED, lib.MADV_GUARD_INSTALL)

    return called(flaw, libc.munmap, served.map_over, libc.madvise, when=unmapping)


def _by_khugepaged(change: Callable[[Scene, Callable[[], Any]], Any]) -> Wraps:
    """What khugepaged does while the test waits for it."""

    def wrap(scene: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: change(scene, lambda: original(*arguments))

    return {KHUGEPAGED_WAIT: wrap}


def _then_damage(scene: Scene, perform: Callable[[], Any]) -> Any:
    result = perform()
    damage_all(scene)
    return result


def _then_unshare(scene: Scene, perform: Callable[[], Any]) -> Any:
    result = perform()
    unshare_all(scene)
    return result


def _not_written(_: Scene, __: object, ___: Written) -> None:
    """Success is reported."""


def _one_more(_: Scene, value: int, write: Written) -> None:
    write(value + 1)


def _sabotage(name: str, bug: str, wraps: Wraps) -> Sabotage:
    return Sabotage(name, bug, wraps, "operation")


SABOTAGES = (
    _sabotage("munmap-ignored", "munmap unmaps nothing", called(ignored, libc.munmap)),
    _sabotage("dontneed-ignored", "MADV_DONTNEED drops nothing", advised(ignored, "MADV_DONTNEED")),
    _sabotage("dontneed-halved", "MADV_DONTNEED stops half-way", advised(halved, "MADV_DONTNEED")),
    _sabotage(
        "map-over-ignored", "mmap(MAP_FIXED) maps nothing new", called(ignored, served.map_over)
    ),
    _sabotage(
        "guards-ignored",
        "MADV_GUARD_INSTALL installs nothing",
        advised(ignored, "MADV_GUARD_INSTALL"),
    ),
    _sabotage(
        "unmapping-uncounted",
        "unmapping leaves zero pages counted",
        {**_unmappers(uncounted), **WRONG_COUNTS},
    ),
    _sabotage("unmapping-spills", "unmapping a range unshares its neighbours", _unmappers(spills)),
    _sabotage("protect-unshares", "mprotect unshares", called(unshares, libc.mprotect)),
    _sabotage(
        "protect-counts-out",
        "mprotect counts zero pages out that stay",
        {**called(counted_out, libc.mprotect), **WRONG_COUNTS},
    ),
    _sabotage("reclaim-unshares", "advice to reclaim unshares", advised(unshares, *RECLAIM)),
    _sabotage("reclaim-unmaps", "advice to reclaim drops zero pages", advised(unmaps, *RECLAIM)),
    _sabotage(
        "reclaim-counts-out",
        "advice to reclaim counts zero pages out that stay",
        {**advised(counted_out, *RECLAIM), **WRONG_COUNTS},
    ),
    _sabotage(
        "populate-read-unshares",
        "MADV_POPULATE_READ unshares",
        advised(unshares, "MADV_POPULATE_READ"),
    ),
    _sabotage(
        "populate-read-counts-out",
        "MADV_POPULATE_READ counts zero pages out that stay",
        {**advised(counted_out, "MADV_POPULATE_READ"), **WRONG_COUNTS},
    ),
    _sabotage(
        "clear-refs-unshares",
        "/proc/PID/clear_refs unshares",
        reached(unshares, "pathlib.Path.write_text"),
    ),
    _sabotage(
        "clear-refs-counts-out",
        "/proc/PID/clear_refs counts zero pages out that stay",
        {**reached(counted_out, "pathlib.Path.write_text"), **WRONG_COUNTS},
    ),
    _sabotage(
        "migration-unshares", "move_pages unshares", reached(unshares, "uapi.libc.move_pages")
    ),
    _sabotage(
        "migration-counts-out",
        "move_pages counts zero pages out that stay",
        {**reached(counted_out, "uapi.libc.move_pages"), **WRONG_COUNTS},
    ),
    _sabotage(
        "write-protection-unshares",
        "UFFDIO_WRITEPROTECT unshares",
        called(unshares, userfaultfd.write_protect),
    ),
    _sabotage(
        "write-protection-counts-out",
        "UFFDIO_WRITEPROTECT counts zero pages out that stay",
        {**called(counted_out, userfaultfd.write_protect), **WRONG_COUNTS},
    ),
    _sabotage(
        "write-protection-ignored",
        "UFFDIO_WRITEPROTECT protects nothing",
        called(ignored, userfaultfd.write_protect),
    ),
    _sabotage("move-ignored", "mremap moves nothing", called(ignored, libc.mremap, when=_moves)),
    _sabotage(
        "move-uncounted",
        "mremap unshares the zero pages it moves and leaves them counted",
        {**called(uncounted, libc.mremap, when=_moves), **WRONG_COUNTS},
    ),
    _sabotage(
        "move-damages",
        "mremap copies a page wrongly",
        called(damages_target, libc.mremap, when=_moves),
    ),
    _sabotage(
        "move-carries-along",
        "mremap moves zero pages as they are",
        called(shares_again, libc.mremap, when=_moves),
    ),
    _sabotage(
        "move-loses-mark",
        "memory is no longer mergeable once mremap has moved it",
        called(loses_mark, libc.mremap, when=_moves),
    ),
    _sabotage(
        "dontunmap-uncounted",
        "MREMAP_DONTUNMAP unshares the zero pages it moves and leaves them counted",
        {**called(uncounted, libc.mremap, when=_leaves), **WRONG_COUNTS},
    ),
    _sabotage(
        "dontunmap-damages",
        "MREMAP_DONTUNMAP copies a page wrongly",
        called(damages_target, libc.mremap, when=_leaves),
    ),
    _sabotage(
        "dontunmap-populates",
        "MREMAP_DONTUNMAP leaves pages behind",
        called(populates, libc.mremap, when=_leaves),
    ),
    _sabotage(
        "growth-unshares", "mremap unshares what grows", called(unshares, libc.mremap, when=_grows)
    ),
    _sabotage(
        "growth-counts-out",
        "mremap counts zero pages out of what grows",
        {**called(counted_out, libc.mremap, when=_grows), **WRONG_COUNTS},
    ),
    _sabotage(
        "shrink-ignored", "mremap does not shrink", called(ignored, libc.mremap, when=_shrinks)
    ),
    _sabotage(
        "shrink-uncounted",
        "mremap leaves the zero pages counted that it cuts off",
        {**called(uncounted, libc.mremap, when=_shrinks), **WRONG_COUNTS},
    ),
    _sabotage(
        "shrink-unshares",
        "mremap unshares what it keeps of a range",
        called(unshares, libc.mremap, when=_shrinks),
    ),
    _sabotage("collapse-ignored", "MADV_COLLAPSE does nothing", advised(ignored, "MADV_COLLAPSE")),
    _sabotage(
        "collapse-uncounted",
        "MADV_COLLAPSE leaves zero pages counted",
        {**advised(uncounted, "MADV_COLLAPSE"), **WRONG_COUNTS},
    ),
    _sabotage(
        "collapse-damages", "MADV_COLLAPSE copies a page wrongly", advised(damages, "MADV_COLLAPSE")
    ),
    _sabotage(
        "collapse-engulfs",
        "MADV_COLLAPSE unshares memory outside the huge page",
        advised(engulfs, "MADV_COLLAPSE"),
    ),
    _sabotage(
        "khugepaged-idle",
        "khugepaged takes no max_ptes_none",
        setting("max_ptes_none", _not_written),
    ),
    _sabotage(
        "khugepaged-takes-one-more",
        "khugepaged takes one empty page more than max_ptes_none",
        setting("max_ptes_none", _one_more),
    ),
    _sabotage(
        "khugepaged-uncounted",
        "khugepaged leaves zero pages counted",
        {**_by_khugepaged(unnoticed), **WRONG_COUNTS},
    ),
    _sabotage(
        "khugepaged-damages", "khugepaged copies a page wrongly", _by_khugepaged(_then_damage)
    ),
    _sabotage(
        "khugepaged-unshares",
        "khugepaged unshares zero pages it does not collapse",
        _by_khugepaged(_then_unshare),
    ),
)
