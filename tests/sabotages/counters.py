# SPDX-License-Identifier: GPL-2.0
"""Counters of KSM that are wrong while the pages are right."""

from collections.abc import Callable

from mm.process import Process
from tests.sabotages.acts import Act, method
from tests.sabotages.readings import (
    GENERAL_PROFIT,
    MERGING,
    Remembers,
    Short,
    never_falls,
    never_rises,
    of_process,
    of_system,
    reading,
    stands_still,
    stat,
    stat_field,
)
from tests.sabotages.scene import Sabotage, Scene, Wraps, true_stat
from uapi.ksm import Ksm, ProcessStat
from uapi.libc import PAGE_SIZE

LARGER = 8  # bytes more than an rmap_item has


def _merging(remembers: Remembers) -> Wraps:
    return {**stat_field("merging_pages", remembers), **of_process(MERGING, remembers)}


def _merging_with_zero_pages() -> Wraps:
    def in_stat(_: Scene, __: int, found: ProcessStat) -> ProcessStat:
        return found._replace(merging_pages=(found.merging_pages or 0) + (found.zero_pages or 0))

    def in_file(_: Scene, pid: int, pages: int) -> int:
        return pages + (true_stat(pid).zero_pages or 0)

    return {**stat(in_stat), **reading(MERGING, in_file)}


def _zero_with_merging_pages() -> Wraps:
    def change(_: Scene, __: int, found: ProcessStat) -> ProcessStat:
        return found._replace(zero_pages=(found.zero_pages or 0) + (found.merging_pages or 0))

    return stat(change)


def _inherited(name: str) -> Wraps:
    """A counter that a child begins with at its parent's value."""

    def begin(act: Act) -> Process:
        child: Process = act.perform()
        act.scene.noted[child.pid] = getattr(true_stat(act.process.pid), name)
        return child

    def change(scene: Scene, pid: int, found: ProcessStat) -> ProcessStat:
        return found._replace(**{name: getattr(found, name) + scene.noted.get(pid, 0)})

    return {**method(begin, "fork"), **stat(change)}


def _inherited_merging() -> Wraps:
    def in_file(scene: Scene, pid: int, pages: int) -> int:
        return pages + scene.noted.get(pid, 0)

    return {**_inherited("merging_pages"), **reading(MERGING, in_file)}


def _profit(change: Callable[[ProcessStat], int]) -> Wraps:
    """ksm_process_profit with `change(ksm_stat)` bytes more."""

    def changed(_: Scene, __: int, found: ProcessStat) -> ProcessStat:
        return found._replace(process_profit=(found.process_profit or 0) + change(found))

    return stat(changed)


def _general_profit(change: Callable[[Ksm], int]) -> Wraps:
    """general_profit with `change(counters)` bytes more."""
    return reading(GENERAL_PROFIT, lambda _, counters, profit: profit + change(counters))


def _sabotage(name: str, bug: str, wraps: Wraps) -> Sabotage:
    return Sabotage(name, bug, wraps, "account")


SABOTAGES = (
    _sabotage(
        "mm-count-never-falls",
        "ksm_zero_pages of a process never decreases",
        stat_field("zero_pages", never_falls),
    ),
    _sabotage(
        "mm-count-never-rises",
        "ksm_zero_pages of a process does not count what is placed",
        stat_field("zero_pages", never_rises),
    ),
    _sabotage(
        "mm-count-stands-still",
        "ksm_zero_pages of a process never changes: only the system's does",
        stat_field("zero_pages", stands_still),
    ),
    _sabotage(
        "mm-count-falls-short",
        "ksm_zero_pages of a process forgets one page of each event",
        stat_field("zero_pages", Short),
    ),
    _sabotage(
        "mm-count-with-ksm-pages",
        "ksm_zero_pages of a process counts its KSM pages too",
        _zero_with_merging_pages(),
    ),
    _sabotage(
        "system-count-never-falls",
        "the system's ksm_zero_pages never decreases",
        of_system("ksm_zero_pages", never_falls),
    ),
    _sabotage(
        "system-count-never-rises",
        "the system's ksm_zero_pages does not count what is placed",
        of_system("ksm_zero_pages", never_rises),
    ),
    _sabotage(
        "system-count-stands-still",
        "the system's ksm_zero_pages never changes: only the processes' do",
        of_system("ksm_zero_pages", stands_still),
    ),
    _sabotage(
        "system-count-falls-short",
        "the system's ksm_zero_pages forgets one page of each event",
        of_system("ksm_zero_pages", Short),
    ),
    _sabotage(
        "merging-pages-never-fall",
        "ksm_merging_pages never decreases",
        _merging(never_falls),
    ),
    _sabotage(
        "merging-pages-never-rise",
        "ksm_merging_pages does not count what is merged",
        _merging(never_rises),
    ),
    _sabotage(
        "merging-pages-with-zero-pages",
        "ksm_merging_pages counts zero pages too",
        _merging_with_zero_pages(),
    ),
    _sabotage(
        "merging-pages-inherited",
        "a child begins with its parent's ksm_merging_pages",
        _inherited_merging(),
    ),
    _sabotage(
        "rmap-items-never-fall",
        "ksm_rmap_items never decreases",
        stat_field("rmap_items", never_falls),
    ),
    _sabotage(
        "rmap-items-never-rise",
        "ksm_rmap_items does not count new items",
        stat_field("rmap_items", never_rises),
    ),
    _sabotage(
        "rmap-items-inherited",
        "a child begins with its parent's ksm_rmap_items",
        _inherited("rmap_items"),
    ),
    _sabotage(
        "process-profit-without-zero-pages",
        "ksm_process_profit leaves zero pages out",
        _profit(lambda found: -PAGE_SIZE * (found.zero_pages or 0)),
    ),
    _sabotage(
        "process-profit-without-ksm-pages",
        "ksm_process_profit leaves merging pages out",
        _profit(lambda found: -PAGE_SIZE * (found.merging_pages or 0)),
    ),
    _sabotage(
        "process-profit-counts-larger-items",
        "ksm_process_profit reckons with items larger than general_profit does",
        _profit(lambda found: -LARGER * (found.rmap_items or 0)),
    ),
    _sabotage(
        "process-profit-without-items",
        "ksm_process_profit leaves the cost of items out",
        # All a process has saved, and not a byte less.
        stat(
            lambda _, __, found: found._replace(
                process_profit=PAGE_SIZE * ((found.merging_pages or 0) + (found.zero_pages or 0)),
            )
        ),
    ),
    _sabotage(
        "process-profit-never-falls",
        "ksm_process_profit never decreases",
        stat_field("process_profit", never_falls),
    ),
    _sabotage(
        "general-profit-without-zero-pages",
        "general_profit leaves zero pages out",
        _general_profit(lambda counters: -PAGE_SIZE * counters.ksm_zero_pages),
    ),
    _sabotage(
        "general-profit-without-ksm-pages",
        "general_profit leaves pages_sharing out",
        _general_profit(lambda counters: -PAGE_SIZE * counters.pages_sharing),
    ),
    _sabotage(
        "general-profit-counts-larger-items",
        "general_profit reckons with items larger than ksm_process_profit does",
        _general_profit(lambda counters: -LARGER * counters.rmap_items()),
    ),
    _sabotage(
        "general-profit-never-falls",
        "general_profit never decreases",
        of_system("general_profit", never_falls),
    ),
    _sabotage(
        "pages-sharing-with-zero-pages",
        "pages_sharing counts zero pages too",
        reading(
            "uapi.ksm.Ksm.pages_sharing",
            lambda _, counters, pages: pages + counters.ksm_zero_pages,
        ),
    ),
    _sabotage(
        "pages-shared-never-rise",
        "pages_shared does not count new KSM pages",
        of_system("pages_shared", never_rises),
    ),
    _sabotage(
        "pages-sharing-never-fall",
        "pages_sharing keeps pages that are unshared or gone",
        of_system("pages_sharing", never_falls),
    ),
    _sabotage(
        "pages-unshared-not-counted",
        "pages_unshared counts nothing",
        reading("uapi.ksm.Ksm.pages_unshared", lambda _, __, ___: 0),
    ),
    _sabotage(
        "pages-scanned-halved",
        "pages_scanned counts every other page",
        reading("uapi.ksm.Ksm.pages_scanned", lambda _, __, pages: pages // 2),
    ),
    _sabotage(
        "chains-not-counted",
        "stable_node_chains counts nothing",
        reading("uapi.ksm.Ksm.stable_node_chains", lambda _, __, ___: 0),
    ),
    _sabotage(
        "duplicates-not-counted",
        "stable_node_dups counts nothing",
        reading("uapi.ksm.Ksm.stable_node_dups", lambda _, __, ___: 0),
    ),
)
