# SPDX-License-Identifier: GPL-2.0
"""The fields of KSM's tracepoints (include/trace/events/ksm.h)."""

import re
from dataclasses import dataclass
from typing import Any

from uapi.tracefs import Event

_SCAN = r"seq (?P<seq>-?\d+) rmap size (?P<items>\d+)"
_MM = r"mm (?P<mm>[0-9a-f]+)"
_ITEM = rf"pfn (?P<pfn>\d+) rmap_item (?P<item>[0-9a-f]+) {_MM}"
FORMS = {
    "ksm_start_scan": _SCAN,
    "ksm_stop_scan": _SCAN,
    "ksm_enter": _MM,
    "ksm_exit": _MM,
    "ksm_merge_one_page": rf"ksm {_ITEM} error (?P<error>-?\d+)",
    # "ksm" where the page is merged with a KSM page, and not made one itself.
    "ksm_merge_with_ksm_page": rf"(?P<ksm>ksm )?{_ITEM} error (?P<error>-?\d+)",
    "ksm_remove_ksm_page": r"pfn (?P<pfn>\d+)",
    "ksm_remove_rmap_item": _ITEM,
    "ksm_advisor": r"ksm scan time (?P<seconds>\d+) "
    r"pages_to_scan (?P<pages>\d+) cpu percent (?P<percent>\d+)",
}


NUMBERS = frozenset({"seq", "items", "pfn", "error", "seconds", "pages", "percent"})


@dataclass(frozen=True)
class KsmEvent:
    """An event; fields it does not have are 0 or empty."""

    name: str
    pid: int  # of the thread during which it happened
    seq: int = 0
    items: int = 0
    mm: str = ""
    item: str = ""
    pfn: int = 0
    error: int = 0
    with_ksm_page: bool = False
    seconds: int = 0
    pages: int = 0
    percent: int = 0


def parse(event: Event) -> KsmEvent:
    """Raises AssertionError for an event that does not look as it should."""
    match = re.fullmatch(FORMS[event.name], event.text)
    assert match, f"{event.name} prints {event.text!r}, not {FORMS[event.name]}"
    fields: dict[str, Any] = match.groupdict()
    if "ksm" in fields:
        fields["with_ksm_page"] = bool(fields.pop("ksm"))
    for name in fields.keys() & NUMBERS:
        fields[name] = int(fields[name])
    return KsmEvent(event.name, event.pid, **fields)


def named(events: list[Event], *names: str) -> list[KsmEvent]:
    """The events of these names, in order."""
    return [parse(event) for event in events if event.name in names]


def only(events: list[KsmEvent]) -> KsmEvent:
    """The one event there is. Raises AssertionError where there is none, or more."""
    assert len(events) == 1, f"not one event: {events}"
    return events[0]
