# SPDX-License-Identifier: GPL-2.0
"""Settings, files and tracepoints of KSM that do not do what they are for."""

import errno
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ksmtests import in_process
from tests.sabotages.acts import CALL, intercepted, setting
from tests.sabotages.flaws import unmerge_all
from tests.sabotages.readings import never_falls, of_system, reading, stands_still
from tests.sabotages.scene import Sabotage, Scene, Wraps
from uapi import libc
from uapi.ksm import Ksm, RunState
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap_scan import Run
from uapi.tracefs import Event

WRITTEN, RAW = "ksmtests.sysfs.written_errno", "ksmtests.sysfs.raw"
TEXT = "ksmtests.test_ksm_stat.text"
EVENTS = "uapi.tracefs.Instance.events"
OTHERS = ("1", "0", "2", "scan-time", "3")  # of which each setting takes one as new


def _written(instead: Callable[[Callable[[str, str], int], str, str], int]) -> Wraps:
    """What happens when a test writes a setting as text: instead(write, name, text) -> errno."""
    return {WRITTEN: lambda _, original: lambda name, text: instead(original, name, text)}


def _something_for_nothing(write: Callable[[str, str], int], name: str, text: str) -> int:
    """A write of no bytes sets something."""
    if text:
        return write(name, text)
    before = (Ksm.default_root / name).read_text()
    for other in OTHERS:
        write(name, other)
        if (Ksm.default_root / name).read_text() != before:
            break
    return 0


def _obeys_and_refuses(write: Callable[[str, str], int], name: str, text: str) -> int:
    """A refused write changes the setting all the same."""
    error = write(name, text)
    if error:
        _something_for_nothing(write, name, "")
    return error


def _assigned(name: str, change: Callable[[Any], Any]) -> Wraps:
    """A setting takes another value than the one that is written."""
    return setting(name, lambda _, value, write: write(change(value)))


def _opens_all() -> Wraps:
    """Whoever opens a file for whatever may do so, root and nobody."""

    def wrap(_: Scene, __: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *_: 0

    # Process.call is asked for what the name stands for then.
    return {CALL: _calls_opening, "ksmtests.test_settings.opening_errno": wrap}


def _calls_opening(_: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
    def replacement(process: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        return (
            0 if function is in_process.opening_errno else original(process, function, *arguments)
        )

    return replacement


def _run_acts_again(scene: Scene, state: RunState, write: Callable[[Any], None]) -> None:
    """run=2 unmerges even where it is 2 already."""
    if state is RunState.UNMERGE and Ksm().run is RunState.UNMERGE:
        unmerge_all(scene)
    write(state)


def _sleeps_on(_: Scene, value: int, write: Callable[[Any], None]) -> None:
    """A shorter sleep_millisecs is kept for later: ksmd is not woken."""
    if value >= Ksm().sleep_millisecs:
        write(value)


def _running() -> Wraps:
    """Counters move while ksmd is stopped."""
    seen = [0]

    def change(_: Scene, __: Any, value: int) -> int:
        seen[0] += 1
        return value + seen[0]

    return reading("uapi.ksm.Ksm.pages_scanned", change)


def _events(change: Callable[[list[Event]], list[Event]]) -> Wraps:
    """What was traced, changed."""
    return {EVENTS: lambda _, original: lambda instance: change(original(instance))}


def _made_up() -> Wraps:
    """Every KSM page ever merged with is traced as removed, and an advisor is at work."""
    frames: set[str] = set()

    def change(events: list[Event]) -> list[Event]:
        for event in events:
            if event.name == "ksm_merge_with_ksm_page":
                frames.update(re.findall(r"pfn (\d+)", event.text))
        removed = [Event("ksm_remove_ksm_page", 1, f"pfn {frame}") for frame in sorted(frames)]
        scan = Event("ksm_start_scan", 1, "seq 0 rmap size 0")
        advice = Event("ksm_advisor", 1, "ksm scan time 1 pages_to_scan 1 cpu percent 1")
        return [*events, *removed, scan, advice]

    return _events(change)


def _other_numbers(event: Event) -> Event:
    """Its numbers are one too high."""
    text = re.sub(r"(?<= )\d+$|(?<= )\d+(?= )", lambda found: str(int(found[0]) + 1), event.text)
    return replace(event, text=text)


def _other_number(event: Event, name: str, number: int) -> Event:
    """One of its numbers is another."""
    return replace(event, text=re.sub(rf"(?<={name} )\d+", str(number), event.text))


def _told(change: Callable[[str], str]) -> Wraps:
    """A file of /proc/PID says something else."""
    return {TEXT: lambda _, original: lambda *arguments: change(original(*arguments))}


def _any_bounds(
    _: Scene, __: object, call: Callable[..., Any], arguments: tuple[int, int, int]
) -> int:
    """Bounds that are none are made some."""
    address, length, advice = arguments
    inside = address // PAGE_SIZE * PAGE_SIZE
    return int(call(in_process.madvise_errno, inside, max(length % (1 << 20), 1), advice))


def _plain(call: Callable[..., Any], pages: int) -> int:
    """Memory from brk, and its mark taken away."""
    address = int(call(in_process.grow_heap, pages))
    call(libc.madvise, address, pages * PAGE_SIZE, lib.MADV_UNMERGEABLE)
    return address


def _sabotage(name: str, bug: str, wraps: Wraps) -> Sabotage:
    return Sabotage(name, bug, wraps, "account")


def _repair(name: str, bug: str, wraps: Wraps) -> Sabotage:
    return Sabotage(name, bug, wraps, "repair")


SABOTAGES = (
    _sabotage(
        "settings-not-kept",
        "a setting that is written keeps the value it had",
        _written(lambda _, __, ___: 0),
    ),
    _sabotage(
        "settings-obey-and-refuse",
        "a value that is refused changes the setting",
        _written(_obeys_and_refuses),
    ),
    _sabotage(
        "settings-change-by-nothing",
        "a write of no bytes changes the setting",
        _written(_something_for_nothing),
    ),
    _sabotage(
        "files-open-to-all",
        "anybody may open KSM's files for anything",
        _opens_all(),
    ),
    _sabotage(
        "run-2-acts-again",
        "run=2 unmerges once more where it is 2 already",
        setting("run", _run_acts_again),
    ),
    _sabotage(
        "full-scans-never-fall",
        "run=2 does not begin to count passes anew",
        of_system("full_scans", never_falls),
    ),
    _sabotage(
        "pages-scanned-without-ksmd",
        "pages_scanned grows while ksmd is stopped",
        _running(),
    ),
    _sabotage(
        "batches-too-large",
        "a batch has a page more than pages_to_scan says",
        _assigned("pages_to_scan", lambda pages: pages + 1),
    ),
    _sabotage(
        "batches-of-none-end",
        "pages_to_scan of 0 is taken for another number",
        _assigned("pages_to_scan", lambda pages: pages or 10),
    ),
    _sabotage(
        "sleep-too-short",
        "ksmd sleeps a tenth of sleep_millisecs",
        _assigned("sleep_millisecs", lambda value: value // 10),
    ),
    _sabotage(
        "sleep-in-seconds",
        "ksmd takes sleep_millisecs for seconds",
        _assigned("sleep_millisecs", lambda value: min(value * 1000, 2**32 - 1)),
    ),
    _sabotage(
        "sleep-not-ended",
        "a shorter sleep_millisecs does not wake ksmd",
        setting("sleep_millisecs", _sleeps_on),
    ),
    _sabotage(
        "pages-skipped-not-counted",
        "pages_skipped counts nothing",
        of_system("pages_skipped", stands_still),
    ),
    _sabotage(
        "smart-scan-stays-on",
        "smart_scan cannot be switched off",
        _assigned("smart_scan", lambda _: True),
    ),
    _sabotage(
        "smart-scan-stays-off",
        "smart_scan cannot be switched on",
        _assigned("smart_scan", lambda _: False),
    ),
    _sabotage(
        "pages-volatile-not-counted",
        "pages_volatile counts nothing",
        reading("uapi.ksm.Ksm.pages_volatile", lambda _, __, ___: 0),
    ),
    _sabotage(
        "pages-scanned-twice",
        "pages_scanned counts each page twice",
        reading("uapi.ksm.Ksm.pages_scanned", lambda _, __, pages: 2 * pages),
    ),
    _sabotage(
        "prune-at-once",
        "chains are pruned at every search",
        _assigned("stable_node_chains_prune_millisecs", lambda _: 0),
    ),
    _sabotage(
        "prune-never",
        "chains are never pruned",
        _assigned("stable_node_chains_prune_millisecs", lambda _: 100_000_000),
    ),
    _sabotage(
        "advisor-ignored",
        "no advisor is ever at work",
        _assigned("advisor_mode", lambda _: "none"),
    ),
    _sabotage(
        "advisor-stays",
        "an advisor stays at work",
        _assigned("advisor_mode", lambda _: "scan-time"),
    ),
    _sabotage(
        "pages-to-scan-shown-higher",
        "pages_to_scan is shown one too high",
        reading("uapi.ksm.Ksm.pages_to_scan", lambda _, __, pages: pages + 1),
    ),
    _sabotage("events-lost", "tracepoints trace nothing", _events(lambda _: [])),
    _sabotage(
        "events-doubled",
        "tracepoints trace everything twice",
        _events(lambda events: [event for event in events for _ in range(2)]),
    ),
    _sabotage("events-made-up", "tracepoints tell of what was not", _made_up()),
    _sabotage(
        "events-count-wrong",
        "the numbers of tracepoints are one too high",
        _events(lambda events: [_other_numbers(event) for event in events]),
    ),
    _sabotage("ksm-stat-empty", "/proc/PID/ksm_stat is empty", _told(lambda _: "")),
    _sabotage(
        "ksm-stat-upside-down",
        "the lines of /proc/PID/ksm_stat have another order",
        _told(lambda text: "".join(reversed(text.splitlines(keepends=True)))),
    ),
    _sabotage(
        "ksm-stat-says-yes",
        "ksm_merge_any and ksm_mergeable say yes",
        _told(lambda text: text.replace(": no", ": yes")),
    ),
    _sabotage(
        "ksm-stat-without-mm",
        "who has no mm has lines in ksm_stat",
        _told(lambda text: text or "ksm_rmap_items 0\n"),
    ),
    _sabotage(
        "smaps-rollup-counts-zero",
        "KSM of smaps_rollup is 0",
        _told(lambda text: re.sub(r"(?m)^KSM: +\d+ kB$", "KSM: 0 kB", text)),
    ),
    _sabotage(
        "pagemap-scan-finds-all",
        "PAGEMAP_SCAN takes every page for a zero page",
        reading("uapi.pagemap_scan.runs_of", lambda _, __, ___: [Run(0, 12)]),
    ),
    _sabotage(
        "any-bounds-advised",
        "madvise takes an address within a page for that of the page",
        intercepted(in_process.madvise_errno, _any_bounds),
    ),
    _sabotage(
        "remote-advice-taken",
        "process_madvise advises other processes on merging",
        intercepted(libc.process_madvise, lambda _, __, ___, arguments: arguments[2]),
    ),
    _sabotage(
        "programs-begin-without",
        "a program is started without PR_SET_MEMORY_MERGE",
        intercepted(in_process.ask_program, lambda *_: 0),
    ),
    _sabotage(
        "programs-begin-with",
        "a program is always started with PR_SET_MEMORY_MERGE",
        intercepted(in_process.ask_program, lambda *_: 1),
    ),
    _sabotage(
        "programs-of-others-turned",
        "a program of another user has the setting its parent has not",
        intercepted(
            in_process.has_mergeable_memory,
            lambda _, __, call, arguments: not call(in_process.has_mergeable_memory, *arguments),
        ),
    ),
    _sabotage(
        "heap-not-mergeable",
        "brk grows memory that is not mergeable under PR_SET_MEMORY_MERGE",
        intercepted(in_process.grow_heap, lambda _, __, call, arguments: _plain(call, *arguments)),
    ),
    _sabotage(
        "thread-has-its-own",
        "PR_SET_MEMORY_MERGE is a thread's own",
        intercepted(in_process.set_memory_merge_in_thread, lambda *_: None),
    ),
    _sabotage(
        "passes-counted-twice",
        "full_scans counts each pass twice",
        reading("uapi.ksm.Ksm.full_scans", lambda _, __, passes: 2 * passes),
    ),
    _sabotage(
        "chains-without-need",
        "stable_node_chains counts pages below the limit",
        reading("uapi.ksm.Ksm.stable_node_chains", lambda _, __, chains: chains + 1),
    ),
    _repair(
        "repaired-advisor-minimum",
        "the advisor stays above its minimum",
        reading("uapi.ksm.Ksm.pages_to_scan", lambda _, __, pages: max(pages, 500)),
    ),
    _repair(
        "repaired-advisor-cpu",
        "the advisor charges a pass with the CPU time it took",
        _events(lambda events: [_other_number(event, "cpu percent", 1) for event in events]),
    ),
    _repair(
        "repaired-advisor-start",
        "the advisor knows when a pass began, however it was chosen",
        _events(lambda events: [_other_number(event, "scan time", 1) for event in events]),
    ),
    _repair(
        "repaired-advisor-max-cpu",
        "advisor_max_cpu refuses what it cannot keep",
        _written(lambda write, name, text: errno.EINVAL if int(text) >> 32 else write(name, text)),
    ),
)
