# SPDX-License-Identifier: GPL-2.0
"""Memory that a monitor watches by userfaultfd, while KSM merges and unmerges its pages."""

import errno
import os
from collections.abc import Iterator

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged, assert_zero_pages
from mm import served
from mm.process import Process
from mm.region import Region
from plugins.ksm import KsmAlone
from plugins.processes import RegionFactory
from uapi import libc, userfaultfd
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import PageKind

pytestmark = [pytest.mark.sharing, pytest.mark.needs("ksm_stat", "page_frames", "userfaultfd")]

MISSING, PROTECTED = lib.UFFDIO_REGISTER_MODE_MISSING, lib.UFFDIO_REGISTER_MODE_WP


class Monitor:
    """A userfaultfd of a process, and a descriptor of the test's own for it."""

    def __init__(self, process: Process, features: int = 0) -> None:
        self.process = process
        self.fd: int = process.call(userfaultfd.open_userfaultfd, features)
        pidfd = os.pidfd_open(process.pid)
        try:
            self.ours = libc.pidfd_getfd(pidfd, self.fd)
        finally:
            os.close(pidfd)

    def watch(self, region: Region, mode: int) -> None:
        """Register memory."""
        self.process.call(userfaultfd.register, self.fd, region.address, region.length, mode)


@pytest.fixture
def monitor(process: Process) -> Iterator[Monitor]:
    """A monitor of the process under test that can protect pages where there are such."""
    offered = userfaultfd.features()
    watching = Monitor(process, offered & lib.UFFD_FEATURE_PAGEFAULT_FLAG_WP)
    yield watching
    os.close(watching.ours)


def test_unmerging_is_no_fault_of_a_missing_page(
    ksm_alone: KsmAlone, region: RegionFactory, monitor: Monitor
) -> None:
    """Nobody is told of the copies that unmerging makes, and nobody has to wait for an answer."""
    merged = ksm_alone.merge(region())
    content = merged.read()
    monitor.watch(merged, MISSING)
    merged.part(0, 8).advise(lib.MADV_UNMERGEABLE)
    merged.write(9, content[9 * PAGE_SIZE : 9 * PAGE_SIZE + 16])
    assert merged.read() == content
    assert userfaultfd.pending_events(monitor.ours) == 0
    ksm_alone.unmerge_all()
    assert_unmerged(merged, content)
    assert userfaultfd.pending_events(monitor.ours) == 0


def test_memory_with_missing_pages_is_scanned_without_a_fault(
    ksm_alone: KsmAlone, region: RegionFactory, monitor: Monitor
) -> None:
    """ksmd merges the pages there are, and asks the monitor for none that is not."""
    sparse = region(8)
    missing = sparse.part(3, 2)
    missing.advise(lib.MADV_DONTNEED)
    monitor.watch(sparse, MISSING)
    sparse.advise(lib.MADV_MERGEABLE)
    for there in (sparse.part(0, 3), sparse.part(5, 3)):
        ksm_alone.wait_until_merged(there)
    ksm_alone.wait_for_passes(3)
    assert missing.count(PageKind.NONE) == missing.pages, sparse.describe()
    assert userfaultfd.pending_events(monitor.ours) == 0


def test_pages_that_a_monitor_fills_merge(
    ksm_alone: KsmAlone, region: RegionFactory, monitor: Monitor
) -> None:
    """UFFDIO_COPY makes pages like any others."""
    source = region(8)
    filled = Region.map(source.process, 8)
    monitor.watch(filled, MISSING)
    copied = source.process.call(
        userfaultfd.copy, monitor.fd, filled.address, source.address, source.length
    )
    assert copied == source.length
    ksm_alone.merge(source)
    ksm_alone.merge(filled)
    assert_merged_into_one(filled)
    assert set(filled.frames()) == set(source.frames())
    assert filled.read() == source.read()


def test_zero_pages_that_a_monitor_places_are_not_ksms(
    ksm_alone: KsmAlone, region: RegionFactory, monitor: Monitor
) -> None:
    """UFFDIO_ZEROPAGE maps the zero page: nothing is there to be merged, counted or unmerged."""
    placed = Region.map(monitor.process, 8)
    monitor.watch(placed, MISSING)
    placed.advise(lib.MADV_MERGEABLE)
    monitor.process.call(userfaultfd.place_zeropage, monitor.fd, placed.address, placed.length)
    ksm_alone.merge(region(2))
    ksm_alone.wait_for_passes(3)
    assert_zero_pages(placed)
    assert placed.process.merging_pages == 2
    assert placed.process.ksm_stat().rmap_items == 2
    placed.advise(lib.MADV_UNMERGEABLE)
    assert_zero_pages(placed)


@pytest.mark.needs("userfaultfd_move")
def test_ksm_pages_cannot_be_moved(
    ksm_alone: KsmAlone, region: RegionFactory, monitor: Monitor
) -> None:
    """UFFDIO_MOVE takes pages that are the process's own: KSM's are busy, and stay."""
    merged = ksm_alone.merge(region(4))
    content = merged.read()
    ksm_alone.stop()
    target = Region.map(merged.process, 4)
    monitor.watch(target, MISSING)

    def move() -> int:
        return monitor.process.call(
            userfaultfd.move, monitor.fd, target.address, merged.address, merged.length
        )

    with pytest.raises(OSError) as refused:
        move()
    assert refused.value.errno == errno.EBUSY
    assert_merged_into_one(merged)
    assert merged.read() == content

    merged.advise(lib.MADV_UNMERGEABLE)
    assert move() == merged.length
    assert target.read() == content


@pytest.mark.needs("userfaultfd_wp")
def test_write_to_a_protected_ksm_page_waits_for_the_monitor(
    ksm_alone: KsmAlone, region: RegionFactory, monitor: Monitor
) -> None:
    """The monitor is told of the write before the copy is made; then it goes on."""
    merged = ksm_alone.merge(region(4))
    content = merged.read()
    ksm_alone.stop()
    monitor.watch(merged, PROTECTED)
    merged.process.call(userfaultfd.write_protect, monitor.fd, merged.address, merged.length)
    assert all(state.uffd_wp for state in merged.states()), merged.describe()
    assert_merged_into_one(merged)
    merged.process.send(served.store, merged.address + PAGE_SIZE, b"late")
    fault = userfaultfd.wait_for_fault(monitor.ours)
    assert fault.address == merged.address + PAGE_SIZE
    assert fault.flags == lib.UFFD_PAGEFAULT_FLAG_WRITE | lib.UFFD_PAGEFAULT_FLAG_WP
    assert_merged_into_one(merged)
    userfaultfd.write_unprotect(monitor.ours, merged.address + PAGE_SIZE, PAGE_SIZE)
    merged.process.answer()
    assert merged.read() == content[:PAGE_SIZE] + b"late" + content[PAGE_SIZE + 4 :]
    assert merged.states()[1].kind is PageKind.ANON
    assert [state.uffd_wp for state in merged.states()] == [True, False, True, True]
