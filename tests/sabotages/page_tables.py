# SPDX-License-Identifier: GPL-2.0
"""Page tables and page flags that show what is not so."""

from collections.abc import Callable
from dataclasses import replace

from tests.sabotages.readings import reading
from tests.sabotages.scene import Sabotage, Scene, Wraps
from uapi.pagemap import PageKind, PageState

STATES = "uapi.pagemap.page_states"


def _pages(change: Callable[[PageState], PageState]) -> Wraps:
    """What the page tables say of each page, changed."""
    return reading(STATES, lambda _, __, states: [change(state) for state in states])


def _shown_as(shown: PageKind, kind: PageKind) -> Wraps:
    return _pages(lambda state: replace(state, kind=shown) if state.kind is kind else state)


def _one_frame(kind: PageKind) -> Wraps:
    """All pages of a kind seem to be the same page frame."""

    def change(_: Scene, __: int, states: list[PageState]) -> list[PageState]:
        frames = [state.pfn for state in states if state.kind is kind]
        return [replace(state, pfn=frames[0]) if state.kind is kind else state for state in states]

    return reading(STATES, change)


def _frames_of_one_process(scene: Scene, pid: int, states: list[PageState]) -> list[PageState]:
    """Page frames that no other process of the test seems to map."""
    if len(scene.processes) < 2:
        return states
    return [
        replace(state, pfn=state.pfn << 22 | pid) if state.kind is PageKind.KSM else state
        for state in states
    ]


def _sabotage(name: str, bug: str, wraps: Wraps) -> Sabotage:
    return Sabotage(name, bug, wraps, "account")


SABOTAGES = (
    _sabotage(
        "zero-page-shown-as-ksm",
        "a placed zero page is a KSM page by its flags",
        _shown_as(PageKind.KSM, PageKind.ZERO),
    ),
    _sabotage(
        "zero-page-shown-as-file",
        "a placed zero page has no flag that says what it is",
        _shown_as(PageKind.FILE, PageKind.ZERO),
    ),
    _sabotage(
        "ksm-page-shown-as-anon",
        "a KSM page is an ordinary anonymous page by its flags",
        _shown_as(PageKind.ANON, PageKind.KSM),
    ),
    _sabotage(
        "anon-shown-as-ksm",
        "an unshared page is still a KSM page by its flags",
        _shown_as(PageKind.KSM, PageKind.ANON),
    ),
    _sabotage(
        "huge-page-shown-as-small",
        "a collapse leaves small pages",
        _shown_as(PageKind.ANON, PageKind.THP),
    ),
    _sabotage(
        "unmapped-shown-as-zero-page",
        "an unmapped page leaves the zero page mapped",
        _shown_as(PageKind.ZERO, PageKind.NONE),
    ),
    _sabotage(
        "unshared-on-one-frame",
        "unshared pages share a page frame still",
        _one_frame(PageKind.ANON),
    ),
    _sabotage(
        "unshared-mapped-elsewhere",
        "an unshared page is mapped by somebody else too",
        reading(
            "ksmtests.expectations.frame_counts",
            lambda _, __, counts: {frame: count + 1 for frame, count in counts.items()},
        ),
    ),
    _sabotage(
        "unshared-not-exclusive",
        "an unshared page is not marked as its process's alone",
        _pages(
            lambda state: replace(state, exclusive=False) if state.kind is PageKind.ANON else state
        ),
    ),
    _sabotage(
        "ksm-page-beyond-max-sharing",
        "more pages share a KSM page than max_page_sharing allows",
        _one_frame(PageKind.KSM),
    ),
    _sabotage(
        "ksm-page-of-one-process",
        "ksmd does not merge across processes: each has KSM pages of its own",
        reading(STATES, _frames_of_one_process),
    ),
    _sabotage(
        "unsharing-drops-write-protection",
        "an unshared page has lost userfaultfd's write protection",
        _pages(
            lambda state: replace(state, uffd_wp=False) if state.kind is PageKind.ANON else state
        ),
    ),
    _sabotage(
        "zero-page-drops-marks",
        "a page of zeros loses uffd-wp and soft-dirty bits when its huge page is split",
        _pages(
            lambda state: (
                replace(state, uffd_wp=False, soft_dirty=False)
                if state.kind is PageKind.ZERO
                else state
            )
        ),
    ),
    _sabotage(
        "tags-change",
        "the tags of a page's memory are not what they were",
        reading("uapi.mte.get_tags", lambda _, __, tags: bytes(tag ^ 1 for tag in tags)),
    ),
    _sabotage(
        "ksm-page-mapped-elsewhere",
        "a KSM page is mapped more often than its sharers account for",
        reading(
            "ksmtests.test_sharing_limit.frame_counts",
            lambda _, __, counts: {frame: count + 1 for frame, count in counts.items()},
        ),
    ),
)
