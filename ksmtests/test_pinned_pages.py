# SPDX-License-Identifier: GPL-2.0
"""Pages that somebody besides page tables holds do not merge, and stay the ones they are.

A device or a pipe goes on reading and writing the page it was given; were that replaced by a KSM
page, the process would no longer see what is written, nor the other side what it writes.
"""

import os
from pathlib import Path

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged
from ksmtests.placement import pipe_with
from mm.region import Region, unique_pattern, unique_tokens
from plugins.ksm import KsmAlone, ReadBooks
from plugins.processes import RegionFactory
from uapi import io_uring
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import PageKind

pytestmark = [pytest.mark.sharing, pytest.mark.needs("ksm_stat", "page_frames")]

PAGES = 4


def assert_left_alone(held: Region, ksm_alone: KsmAlone) -> None:
    """Passes of ksmd, which knows a KSM page with their content, replace none of these pages."""
    frames = held.frames()
    held.advise(lib.MADV_MERGEABLE)
    ksm_alone.wait_for_passes(4)
    assert held.frames() == frames, held.describe()
    assert held.count(PageKind.ANON) == held.pages, held.describe()


@pytest.fixture
def pattern(ksm_alone: KsmAlone, region: RegionFactory) -> bytes:
    """A content that others share.

    Pages that are held would keep them from it: with its like in the unstable tree, no page merges.
    """
    content = unique_pattern()
    ksm_alone.merge(region(2, content))
    return content


@pytest.mark.needs("page_pinning")
def test_pinned_pages_merge_when_they_are_let_go(
    ksm_alone: KsmAlone, region: RegionFactory, pattern: bytes
) -> None:
    """Pages of a fixed buffer of io_uring stay, until it is one no more."""
    pinned = region(PAGES, pattern)
    content = pinned.read()
    ring = pinned.process.call(io_uring.pin_pages, pinned.address, pinned.length)
    assert_left_alone(pinned, ksm_alone)
    pinned.process.call(io_uring.unpin_pages, ring)
    ksm_alone.wait_until_merged(pinned)
    assert_merged_into_one(pinned)
    assert pinned.read() == content


@pytest.mark.needs("page_pinning")
def test_what_a_device_writes_to_pinned_pages_is_seen(
    ksm_alone: KsmAlone, region: RegionFactory, pattern: bytes, tmp_path: Path
) -> None:
    """The device writes to pages that were mergeable for passes, and reads what is written."""
    pinned = region(PAGES, pattern)
    call = pinned.process.call
    ring = call(io_uring.pin_pages, pinned.address, pinned.length)
    assert_left_alone(pinned, ksm_alone)

    file = tmp_path / "data"
    data = os.urandom(pinned.length)
    file.write_bytes(data)
    fd = call(os.open, str(file), os.O_RDWR)
    assert call(io_uring.read_fixed, ring, fd, pinned.address, pinned.length) == len(data)
    assert pinned.read() == data

    pinned.fill(pattern)
    content = pinned.read()
    assert_left_alone(pinned, ksm_alone)
    pinned.write(0, b"seen by the device")
    assert call(io_uring.write_fixed, ring, fd, pinned.address, pinned.length) == len(data)
    assert file.read_bytes() == b"seen by the device" + content[18:]


@pytest.mark.needs("page_pinning")
def test_device_writes_to_a_copy_of_a_ksm_page(
    ksm_alone: KsmAlone, region: RegionFactory, tmp_path: Path
) -> None:
    """Pinning merged pages unmerges them, for good, and the other sharers keep their content."""
    merged = ksm_alone.merge(region(2 * PAGES))
    pinned, others = merged.halves()
    content = others.read()
    ksm_alone.stop()
    call = merged.process.call
    ring = call(io_uring.pin_pages, pinned.address, pinned.length)
    assert_unmerged(pinned, content)
    frames = pinned.frames()
    ksm_alone.start()
    ksm_alone.wait_for_passes(3)
    assert pinned.frames() == frames

    data = os.urandom(pinned.length)
    (tmp_path / "data").write_bytes(data)
    fd = call(os.open, str(tmp_path / "data"), os.O_RDONLY)
    assert call(io_uring.read_fixed, ring, fd, pinned.address, pinned.length) == len(data)
    assert pinned.read() == data
    assert others.read() == content
    assert_merged_into_one(others)


def test_pages_in_a_pipe_merge_when_they_have_been_read(
    ksm_alone: KsmAlone, region: RegionFactory, pattern: bytes
) -> None:
    """The pipe reads what was last written to the pages it holds, as they are still the same."""
    held = region(PAGES, pattern)
    content = held.read()
    source, _ = pipe_with(held)
    assert_left_alone(held, ksm_alone)
    held.write(1, b"written late")
    seen = held.process.call(os.read, source, held.length)
    assert seen == content[:PAGE_SIZE] + b"written late" + content[PAGE_SIZE + 12 :]
    held.write(1, content[:12])
    ksm_alone.wait_until_merged(held)
    assert_merged_into_one(held)


@pytest.mark.needs("page_pinning")
def test_page_whose_only_equal_is_pinned_stays_its_own(
    ksm_alone: KsmAlone, region: RegionFactory, books: ReadBooks
) -> None:
    """A merge that fails half-way is undone: the page is writable memory of the process's own."""
    pages = region(2)
    content = pages.read()
    pinned = pages.part(0, 1)
    pages.process.call(io_uring.pin_pages, pinned.address, pinned.length)
    frame = pinned.frames()
    pages.advise(lib.MADV_MERGEABLE)
    ksm_alone.wait_for_passes(4)
    books().assert_has(shared=0, sharing=0, unshared=1, volatile=1)
    assert pinned.frames() == frame
    assert_unmerged(pages, content)
    assert pages.process.merging_pages == 0


@pytest.mark.parametrize("event", ["write", "unmerge", "unmap"])
def test_ksm_pages_in_a_pipe_keep_their_content(
    event: str, ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """What the process does to merged pages later is not seen at the other end of the pipe."""
    merged = ksm_alone.merge(region(2 * PAGES))
    ksm_alone.stop()
    held, others = merged.halves()
    content = held.read()
    source, _ = pipe_with(held)
    if event == "write":
        held.write_each(unique_tokens(held.pages))
    elif event == "unmerge":
        merged.advise(lib.MADV_UNMERGEABLE)
        held.fill(unique_pattern())
    else:
        held.unmap()
    assert others.read() == content
    assert held.process.call(os.read, source, held.length) == content
