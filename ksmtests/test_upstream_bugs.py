# SPDX-License-Identifier: GPL-2.0
"""Defects no released kernel has fixed. Each test says what must hold, and is expected to fail.

What such a defect adds to the system's ksm_zero_pages stays until the next boot; the fixture
`count_repaired` takes it out again with the opposite defect.
"""

import os
from collections.abc import Iterator

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_zero_pages
from mm import served
from mm.ledger import system_zero_pages
from mm.process import Process, Zygote
from mm.region import ZEROS, Region
from plugins.evidence import Evidence
from plugins.ksm import KsmAlone, OpenLedger
from plugins.processes import Fork, RegionFactory
from uapi import hmm, libc, userfaultfd
from uapi.libc import PAGE_SIZE, lib
from uapi.meminfo import total_memory

pytestmark = [pytest.mark.zero_pages, pytest.mark.needs("ksm_zero_pages", "page_frames")]

FORKS = 40


def place_zeros(ksm_alone: KsmAlone, process: Process, pages: int, *, address: int = 0) -> Region:
    """Zero pages placed by KSM, with ksmd stopped."""
    mapped = Region.map(process, pages, address=address)
    mapped.fill(ZEROS)
    ksm_alone.start()
    ksm_alone.merge(mapped)
    ksm_alone.stop()
    return mapped


def doomed_zeros(ksm_alone: KsmAlone, process: Process, pages: int) -> Region:
    """Placed zero pages that a fork of the process copies before it fails."""
    oversized = process.call(served.map_more_than_memory, total_memory())
    # VMAs are copied in the order of their addresses.
    zeros = place_zeros(ksm_alone, process, pages, address=oversized - 2 * pages * PAGE_SIZE)
    if zeros.address > oversized:
        raise RuntimeError(f"{zeros.address:#x} was to lie below {oversized:#x}")
    return zeros


def fork_without(ksm_alone: KsmAlone, process: Process, pages: int, advice: int) -> Process:
    """A child that did not inherit so many placed zero pages."""
    place_zeros(ksm_alone, process, pages).advise(advice)
    return process.fork()


@pytest.fixture(autouse=True)
def count_repaired(ksm_alone: KsmAlone, zygote: Zygote) -> Iterator[None]:
    """After the test's processes are gone, bring the system's count back to what it was."""
    ksm_alone.stop()
    nobody: frozenset[int] = frozenset()
    before = system_zero_pages(ksm_alone.settings, nobody)
    ksm_alone.start()
    yield
    ksm_alone.stop()
    drift = system_zero_pages(ksm_alone.settings, nobody) - before
    if drift == 0:
        return
    process = zygote.process.fork()
    if drift > 0:
        doomed_zeros(ksm_alone, process, drift)
        process.call(served.fork_errno)
    else:
        fork_without(ksm_alone, process, -drift, lib.MADV_DONTFORK).kill()
    process.kill()


@pytest.mark.needs("userfaultfd_move")
@pytest.mark.upstream_bug("UFFDIO_MOVE of a KSM-placed zero page leaves it counted for ever")
def test_moved_zero_pages_are_uncounted_with_their_ptes(zeros: Region, ledger: OpenLedger) -> None:
    """Wherever the page went: when source and destination are gone, so is its count.

    move_zeropage_pte() in mm/userfaultfd.c clears the PTE past ksm_might_unmap_zero_page().
    """
    process = zeros.process
    target = Region.map(process, zeros.pages)
    fd = process.call(userfaultfd.open_userfaultfd, lib.UFFD_FEATURE_MOVE)
    mode = lib.UFFDIO_REGISTER_MODE_MISSING
    process.call(userfaultfd.register, fd, target.address, target.length, mode)
    with ledger(zeros) as books:
        moved = process.call(userfaultfd.move, fd, target.address, zeros.address, zeros.length)
        if moved != zeros.length:
            raise OSError(f"UFFDIO_MOVE moved {moved} of {zeros.length} bytes")
        zeros.unmap()
        target.unmap()
    books.assert_change(zero_pages=-zeros.pages, anonymous=0)


@pytest.mark.needs("hmm_mirror")
@pytest.mark.upstream_bug("a device that takes KSM-placed zero pages leaves them counted for ever")
def test_zero_pages_taken_by_a_device_are_uncounted(zeros: Region, ledger: OpenLedger) -> None:
    """The device has them in memory of its own; what comes back at a fault is the process's own.

    migrate_vma_insert_page() in mm/migrate_device.c replaces the PTE past
    ksm_might_unmap_zero_page().
    """
    mirror = zeros.process.call(hmm.open_mirror)
    with ledger(zeros) as books:
        taken = zeros.process.call(hmm.migrate, mirror, zeros.address, zeros.pages)
        assert taken == zeros.read() == bytes(zeros.length)
    books.assert_change(zero_pages=-zeros.pages, anonymous=zeros.pages)


@pytest.mark.parametrize("advice", ["MADV_DONTFORK", "MADV_WIPEONFORK"])
@pytest.mark.upstream_bug("fork counts KSM-placed zero pages it does not copy")
def test_child_does_not_count_pages_it_did_not_inherit(
    advice: str, ksm_alone: KsmAlone, process: Process, evidence: Evidence
) -> None:
    """A child without the region has none of its zero pages, nor has the system when it ends.

    dup_mm() in kernel/fork.c copies the count with the mm; dup_mmap() may leave the VMA out.
    """
    child = evidence.watch_process(fork_without(ksm_alone, process, 8, getattr(lib, advice)))
    assert child.zero_pages == 0


@pytest.mark.parametrize("advice", ["MADV_DONTFORK", "MADV_WIPEONFORK"])
@pytest.mark.upstream_bug("fork counts KSM-placed zero pages it does not copy")
def test_system_does_not_count_pages_a_child_did_not_inherit(
    advice: str, zeros: Region, fork: Fork, ledger: OpenLedger
) -> None:
    """The system's count is the same before a child's fork and after its end."""
    zeros.advise(getattr(lib, advice))
    with ledger(zeros) as books:
        fork(zeros.process).exit()
    books.assert_change(zero_pages=0, anonymous=0)


@pytest.mark.needs("fork_failure")
@pytest.mark.upstream_bug("a failing fork uncounts the KSM-placed zero pages it had copied")
def test_failing_fork_leaves_the_count(
    ksm_alone: KsmAlone, process: Process, ledger: OpenLedger
) -> None:
    """A fork that fails half-way changes nobody's count.

    dup_mmap() zaps what it copied, and only a fork that succeeds gets to ksm_fork().
    """
    zeros = doomed_zeros(ksm_alone, process, 8)
    with ledger(zeros) as books:
        if process.call(served.fork_errno) == 0:
            raise RuntimeError("fork succeeded with a VMA larger than the memory")
    books.assert_change(zero_pages=0, anonymous=0)


@pytest.mark.needs("fork_failure")
@pytest.mark.fixed_by("fork: only invoke khugepaged, ksm hooks if no error", "6.12")
def test_failing_fork_leaves_the_process_mergeable(
    ksm_alone: KsmAlone, process: Process, region: RegionFactory
) -> None:
    """ksmd is not told of the child that never was, and goes on merging its parent's pages."""
    zeros = doomed_zeros(ksm_alone, process, 8)
    ksm_alone.start()
    for _ in range(5):
        assert process.call(served.fork_errno) != 0
        ksm_alone.wait_for_passes()
    assert_zero_pages(zeros)
    assert_merged_into_one(ksm_alone.merge(region()))


@pytest.mark.upstream_bug("fork reads the count of KSM-placed zero pages without the mmap lock")
def test_forks_while_ksmd_places_pages_keep_the_count(ksm_alone: KsmAlone, zeros: Region) -> None:
    """When all children have ended, the system counts what the parent counts.

    A race between dup_mm()'s copy and ksmd: where it is not met, the test passes unexpectedly.
    """
    own = frozenset({zeros.process.pid})

    def unaccounted() -> int:
        ksm_alone.stop()
        difference = system_zero_pages(ksm_alone.settings, own) - zeros.process.zero_pages
        ksm_alone.start()
        return difference

    before = unaccounted()
    zeros.process.call(served.fork_while_refilling, zeros.address, zeros.pages, FORKS)
    assert unaccounted() == before


@pytest.mark.upstream_bug("a hole punched in a file destroys private pages placed by KSM")
def test_private_file_pages_survive_a_hole_in_the_file(
    ksm_alone: KsmAlone, process: Process, evidence: Evidence
) -> None:
    """Zeros written to a private mapping stay, whatever becomes of the file.

    zap_present_ptes() in mm/memory.c takes a zero page for part of the file.
    """
    pages = 8
    fd = process.call(os.memfd_create, "private")
    process.call(os.write, fd, b"A" * pages * PAGE_SIZE)
    address = process.call(served.map_private_file, fd, pages * PAGE_SIZE)
    private = evidence.watch(Region(process, address, pages))
    private.fill(ZEROS)
    ksm_alone.merge(private)
    process.call(libc.punch_hole, fd, 0, private.length)
    process.call(os.pwrite, fd, b"B" * private.length, 0)
    assert private.read() == bytes(private.length)


@pytest.mark.needs("userfaultfd_wp")
@pytest.mark.parametrize("fill", [ZEROS, None], ids=["zero pages", "KSM pages"])
@pytest.mark.upstream_bug("merging drops userfaultfd's write protection")
def test_merging_keeps_write_protection(
    fill: bytes | None, ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """A page its monitor protected is still protected when KSM has replaced it.

    replace_page() in mm/ksm.c builds the new PTE from vm_page_prot alone.
    """
    protected = region(8, fill)
    call = protected.process.call
    fd = call(userfaultfd.open_userfaultfd, lib.UFFD_FEATURE_PAGEFAULT_FLAG_WP)
    mode = lib.UFFDIO_REGISTER_MODE_WP
    call(userfaultfd.register, fd, protected.address, protected.length, mode)
    call(userfaultfd.write_protect, fd, protected.address, protected.length)
    ksm_alone.merge(protected)
    lost = [page for page, state in enumerate(protected.states()) if not state.uffd_wp]
    assert lost == [], protected.describe()


@pytest.mark.needs("soft_dirty")
@pytest.mark.parametrize("fill", [ZEROS, None], ids=["zero pages", "KSM pages"])
@pytest.mark.upstream_bug("merging changes the soft-dirty bit")
def test_merging_keeps_soft_dirty(
    fill: bytes | None, ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """Merging is no write: what was soft-dirty stays so, and what was not does not become so."""
    halves = region(8, fill)
    halves.process.call(served.clear_soft_dirty)
    dirty, clean = halves.halves()
    dirty.fill(ZEROS if fill == ZEROS else halves.read(0, 1)[:16])
    ksm_alone.merge(halves)
    assert [state.soft_dirty for state in dirty.states()] == [True] * dirty.pages
    assert [state.soft_dirty for state in clean.states()] == [False] * clean.pages
