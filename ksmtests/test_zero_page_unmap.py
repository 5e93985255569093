# SPDX-License-Identifier: GPL-2.0
"""KSM-placed zero pages leave both counts with their PTEs; what keeps the PTE keeps the count."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from ksmtests.expectations import assert_zero_pages
from mm import served
from mm.region import Region
from plugins.ksm import KsmAlone, OpenLedger
from uapi import libc, userfaultfd
from uapi.libc import lib
from uapi.pagemap import PageKind

pytestmark = [pytest.mark.zero_pages, pytest.mark.needs("ksm_zero_pages", "page_frames")]

Event = Callable[[Region], None]


def unmap(region: Region) -> None:
    """munmap(2)."""
    region.unmap()


def discard(region: Region) -> None:
    """MADV_DONTNEED."""
    region.advise(lib.MADV_DONTNEED)


def map_over(region: Region) -> None:
    """mmap(2) with MAP_FIXED over it."""
    assert region.process.call(served.map_over, region.address, region.length) == region.address


def install_guards(region: Region) -> None:
    """MADV_GUARD_INSTALL."""
    region.advise(lib.MADV_GUARD_INSTALL)


UNMAPPERS = (
    unmap,
    discard,
    map_over,
    pytest.param(install_guards, marks=pytest.mark.needs("guard_advice")),
)


@pytest.mark.parametrize("event", UNMAPPERS, ids=lambda event: event.__name__)
def test_unmapped_pages_are_uncounted(event: Event, zeros: Region, ledger: OpenLedger) -> None:
    """Unmapping a part takes as many pages out of the count, at once."""
    gone = zeros.part(10, 5)
    with ledger(zeros) as books:
        event(gone)
    books.assert_change(zero_pages=-gone.pages, anonymous=0)
    assert gone.count(PageKind.ZERO) == 0, zeros.describe()
    assert_zero_pages(zeros.part(0, 10))
    assert_zero_pages(zeros.part(15, zeros.pages - 15))


def test_inaccessible_pages_are_counted_until_unmapped(zeros: Region, ledger: OpenLedger) -> None:
    """mprotect(PROT_NONE) changes no count; munmap after it does."""
    with ledger(zeros) as books:
        zeros.protect(lib.PROT_NONE)
    books.assert_change(zero_pages=0, anonymous=0)
    with ledger(zeros) as books:
        zeros.unmap()
    books.assert_change(zero_pages=-zeros.pages, anonymous=0)


def exit_orderly(region: Region) -> None:
    """exit_group(2)."""
    assert region.process.exit() == 0


def killed(region: Region) -> None:
    """SIGKILL."""
    assert region.process.kill() == -9


@pytest.mark.parametrize("event", [exit_orderly, killed], ids=lambda event: event.__name__)
def test_end_of_the_mm_uncounts_all(event: Event, zeros: Region, ledger: OpenLedger) -> None:
    """The system's count loses what the mm had, when the mm ends."""
    with ledger(zeros) as books:
        event(zeros)
    books.assert_change(zero_pages=-zeros.pages, anonymous=0)


def test_exec_uncounts_all(zeros: Region, ledger: OpenLedger) -> None:
    """execve(2) begins with an mm that has no zero pages, and the system loses those of the old."""
    with ledger(zeros) as books:
        zeros.process.execute()
    books.assert_change(zero_pages=-zeros.pages, anonymous=None)
    assert zeros.process.zero_pages == 0


def free_lazily(region: Region) -> None:
    """MADV_FREE."""
    region.advise(lib.MADV_FREE)


def make_cold(region: Region) -> None:
    """MADV_COLD."""
    region.advise(lib.MADV_COLD)


def page_out(region: Region) -> None:
    """MADV_PAGEOUT."""
    region.advise(lib.MADV_PAGEOUT)


def populate_read(region: Region) -> None:
    """MADV_POPULATE_READ."""
    region.advise(lib.MADV_POPULATE_READ)


def make_read_only(region: Region) -> None:
    """mprotect(PROT_READ) and back."""
    region.protect(lib.PROT_READ)
    region.protect(lib.PROT_READ | lib.PROT_WRITE)


def advise_again(region: Region) -> None:
    """MADV_MERGEABLE once more."""
    region.advise(lib.MADV_MERGEABLE)


def clear_referenced(region: Region) -> None:
    """1 to /proc/PID/clear_refs."""
    Path(f"/proc/{region.process.pid}/clear_refs").write_text("1")


def move_to_a_node(region: Region) -> None:
    """move_pages(2): there is no page to move, and it says so."""
    statuses = libc.move_pages(region.process.pid, region.addresses(), node=0)
    assert set(statuses) == {-errno.EFAULT}, statuses


def write_protect(region: Region) -> None:
    """UFFDIO_WRITEPROTECT."""
    call = region.process.call
    fd = call(userfaultfd.open_userfaultfd, lib.UFFD_FEATURE_PAGEFAULT_FLAG_WP)
    mode = lib.UFFDIO_REGISTER_MODE_WP
    call(userfaultfd.register, fd, region.address, region.length, mode)
    call(userfaultfd.write_protect, fd, region.address, region.length)


KEEPERS = (
    pytest.param(free_lazily, marks=pytest.mark.needs("free_advice")),
    pytest.param(make_cold, marks=pytest.mark.needs("reclaim_advice")),
    pytest.param(page_out, marks=pytest.mark.needs("reclaim_advice")),
    pytest.param(populate_read, marks=pytest.mark.needs("populate_advice")),
    make_read_only,
    advise_again,
    clear_referenced,
    pytest.param(move_to_a_node, marks=pytest.mark.needs("move_pages")),
    pytest.param(write_protect, marks=pytest.mark.needs("userfaultfd_wp")),
)


@pytest.mark.parametrize("event", KEEPERS, ids=lambda event: event.__name__)
def test_zero_pages_stay_counted(event: Event, zeros: Region, ledger: OpenLedger) -> None:
    """What does not unmap the zero page changes no count, and unmapping counts it out later."""
    with ledger(zeros) as books:
        event(zeros)
    books.assert_change(zero_pages=0, anonymous=0)
    assert zeros.count(PageKind.ZERO) == zeros.pages, zeros.describe()

    with ledger(zeros) as books:
        zeros.unmap()
    books.assert_change(zero_pages=-zeros.pages, anonymous=0)


def test_unmap_with_ksmd_stopped_leaves_ksm_pages_in_the_books(
    ksm_alone: KsmAlone, zeros: Region
) -> None:
    """Zero pages leave the books at once, KSM pages when ksmd next passes by."""
    merged = Region.map(zeros.process, 16)
    merged.fill(b"k" * 16)
    ksm_alone.merge(merged)
    ksm_alone.stop()

    zeros.unmap()
    merged.unmap()

    assert zeros.process.zero_pages == 0
    assert merged.process.merging_pages == merged.pages
    keeps_ksmd_awake = Region.map(zeros.process, 1)
    keeps_ksmd_awake.advise(lib.MADV_MERGEABLE)
    ksm_alone.start()
    assert ksm_alone.wait_until(lambda: merged.process.merging_pages == 0)
