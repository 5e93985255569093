# SPDX-License-Identifier: GPL-2.0
"""What several tests assert of a region, each with more than one witness."""

from collections.abc import Callable
from typing import Any

from mm.process import Process
from mm.region import Region
from uapi.libc import PAGE_SIZE
from uapi.pagemap import PageKind, frame_counts


def assert_merged_into_one(region: Region) -> None:
    """All pages are KSM pages; no page frame appears more often than max_page_sharing allows."""
    assert region.count(PageKind.KSM) == region.pages, region.describe()
    assert "mg" in region.vmas()[0].flags


def assert_unmerged(region: Region, content: bytes) -> None:
    """Every page is the process's own again, holds what it held, and is mapped just once."""
    states = region.states()
    assert {state.kind for state in states} == {PageKind.ANON}, region.describe()
    assert all(state.exclusive for state in states), region.describe()
    frames = [state.pfn for state in states]
    assert len(set(frames)) == region.pages, "a page frame is mapped twice in the region"
    assert set(frame_counts(frames).values()) == {1}, "a page frame is mapped elsewhere too"
    assert region.read() == content


def overwritten(content: bytes, tokens: list[bytes]) -> bytes:
    """The content of pages after a token was written to the start of each."""
    changed = bytearray(content)
    for page, token in enumerate(tokens):
        changed[page * PAGE_SIZE : page * PAGE_SIZE + len(token)] = token
    return bytes(changed)


def assert_zero_pages(region: Region) -> None:
    """Every page maps the kernel's zero page and reads as zeros."""
    assert region.count(PageKind.ZERO) == region.pages, region.describe()
    assert not any(region.read()), "a zero page reads as something else"


def assert_not_mergeable(region: Region) -> None:
    """No VMA of the region is marked for KSM."""
    marked = [vma for vma in region.vmas() if "mg" in vma.flags]
    assert not marked, f"still mergeable: {marked}"


def status_of(process: Process, function: Callable[..., Any], *arguments: Any) -> int:
    """The exit status of a child of the process that makes the call: 0, or -SIGSEGV and the like.

    The child has the same memory, and dies in the process's place.
    """
    child = process.fork()
    child.send(function, *arguments)
    return child.exit()
