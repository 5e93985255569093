# SPDX-License-Identifier: GPL-2.0
"""Advice on merging sets and clears one flag of a VMA, and no other."""

import errno
from collections.abc import Callable

import pytest

from ksmtests.expectations import assert_unmerged
from mm import served
from mm.process import Process
from mm.region import Region, unique_tokens
from plugins.ksm import SharedKsm
from plugins.probes import max_map_count
from plugins.processes import RegionFactory
from uapi import libc, userfaultfd
from uapi.libc import PAGE_SIZE, lib

pytestmark = pytest.mark.vma

Prepare = Callable[[Region], None]


def advised(*advice: int) -> Prepare:
    """Memory with other advice."""

    def prepare(region: Region) -> None:
        for one in advice:
            region.advise(one)

    return prepare


def locked(region: Region) -> None:
    """Memory that is mlocked."""
    region.process.call(libc.mlock, region.address, region.length)


def write_protected(region: Region) -> None:
    """Memory registered for write protection by userfaultfd."""
    call = region.process.call
    fd = call(userfaultfd.open_userfaultfd, lib.UFFD_FEATURE_PAGEFAULT_FLAG_WP)
    mode = lib.UFFDIO_REGISTER_MODE_WP
    call(userfaultfd.register, fd, region.address, region.length, mode)


def flags(region: Region) -> frozenset[str]:
    """VmFlags of the region's one VMA."""
    (vma,) = region.vmas()
    return vma.flags


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(advised(), id="plain"),
        pytest.param(advised(lib.MADV_DONTFORK, lib.MADV_DONTDUMP), id="dontfork, dontdump"),
        pytest.param(
            advised(lib.MADV_SEQUENTIAL, lib.MADV_WIPEONFORK), id="sequential, wipeonfork"
        ),
        pytest.param(locked, id="locked"),
        pytest.param(
            write_protected, id="userfaultfd-wp", marks=pytest.mark.needs("userfaultfd_wp")
        ),
    ],
)
def test_advice_changes_its_own_flag_alone(prepare: Prepare, region: RegionFactory) -> None:
    """MADV_MERGEABLE adds mg, MADV_UNMERGEABLE takes it away, the rest stays."""
    advised_region = region()
    prepare(advised_region)
    before = flags(advised_region)
    advised_region.advise(lib.MADV_MERGEABLE)
    assert flags(advised_region) == before | {"mg"}
    advised_region.advise(lib.MADV_UNMERGEABLE)
    assert flags(advised_region) == before


@pytest.mark.needs("userfaultfd_minor_shmem")
@pytest.mark.fixed_by("mm/ksm: fix flag-dropping behavior in ksm_madvise", "6.18")
def test_unmergeable_keeps_flags_beyond_the_32nd(process: Process) -> None:
    """Flags in the upper half of the word survive; userfaultfd's minor mode is one of them."""
    pages = 4
    address = process.call(served.map_memfd_privately, pages * PAGE_SIZE)
    region = Region(process, address, pages)
    fd = process.call(userfaultfd.open_userfaultfd, lib.UFFD_FEATURE_MINOR_SHMEM)
    mode = lib.UFFDIO_REGISTER_MODE_MINOR
    process.call(userfaultfd.register, fd, address, region.length, mode)
    before = flags(region)
    assert "ui" in before
    region.advise(lib.MADV_MERGEABLE)
    region.advise(lib.MADV_UNMERGEABLE)
    assert flags(region) == before


def extents(region: Region) -> list[tuple[int, int, bool]]:
    """Each VMA of the region: first page, pages, and whether it is mergeable."""
    return [
        (
            (vma.start - region.address) // PAGE_SIZE,
            (vma.end - vma.start) // PAGE_SIZE,
            "mg" in vma.flags,
        )
        for vma in region.vmas()
    ]


@pytest.fixture
def walled(process: Process) -> Region:
    """Nine pages with no VMA on either side that they could be joined with."""
    reserved = Region(process, process.call(libc.mmap, 11 * PAGE_SIZE, lib.PROT_NONE), 11)
    inner = reserved.part(1, 9)
    inner.protect(lib.PROT_READ | lib.PROT_WRITE)
    return inner


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
@pytest.mark.parametrize(("first", "pages"), [(0, 3), (3, 3), (6, 3), (4, 1)], ids=str)
def test_advice_splits_a_vma_and_joins_it_again(
    first: int, pages: int, filled: bool, walled: Region
) -> None:
    """The VMA is split where the advice begins and ends, and one again when nothing differs."""
    if filled:
        walled.fill(unique_tokens(9))
    assert extents(walled) == [(0, 9, False)]
    part = walled.part(first, pages)
    part.advise(lib.MADV_MERGEABLE)
    split = [(0, first, False), (first, pages, True), (first + pages, 9 - first - pages, False)]
    assert extents(walled) == [extent for extent in split if extent[1]]
    walled.advise(lib.MADV_MERGEABLE)
    assert extents(walled) == [(0, 9, True)]
    part.advise(lib.MADV_UNMERGEABLE)
    assert extents(walled) == [
        (start, count, not marked) for start, count, marked in split if count
    ]
    walled.advise(lib.MADV_UNMERGEABLE)
    assert extents(walled) == [(0, 9, False)]


def test_parts_advised_one_by_one_are_one_vma(walled: Region) -> None:
    """The order of the parts does not matter."""
    for page in (0, 2, 4, 6, 8, 7, 5, 3, 1):
        walled.part(page, 1).advise(lib.MADV_MERGEABLE)
    assert extents(walled) == [(0, 9, True)]
    for page in (4, 1, 7, 0, 8, 2, 6, 3, 5):
        walled.part(page, 1).advise(lib.MADV_UNMERGEABLE)
    assert extents(walled) == [(0, 9, False)]


@pytest.mark.parametrize("advice", ["MADV_MERGEABLE", "MADV_UNMERGEABLE"])
def test_advice_over_a_gap_reaches_what_is_behind(advice: str, walled: Region) -> None:
    """ENOMEM says that something was not mapped; what is mapped is advised."""
    before = advice == "MADV_UNMERGEABLE"
    if before:
        walled.advise(lib.MADV_MERGEABLE)
    walled.part(3, 2).unmap()
    with pytest.raises(OSError) as refused:
        walled.advise(getattr(lib, advice))
    assert refused.value.errno == errno.ENOMEM
    assert extents(walled) == [(0, 3, not before), (5, 4, not before)]


@pytest.mark.needs("vma_limit")
def test_advice_that_would_need_one_vma_too_many(process: Process) -> None:
    """EAGAIN where a split would exceed vm.max_map_count; what needs none more goes on."""
    limit = max_map_count()
    address = process.call(libc.mmap, 2 * limit * PAGE_SIZE, lib.PROT_NONE)
    target = Region(process, process.call(libc.mmap, 3 * PAGE_SIZE), 3)
    left = process.call(served.split_until_refused, address, limit)
    assert left, f"{limit} VMAs were to be had beside those of the process"
    for part in (target.part(1, 1), target.part(0, 1)):
        with pytest.raises(OSError) as refused:
            part.advise(lib.MADV_MERGEABLE)
        assert refused.value.errno == errno.EAGAIN
    assert not any("mg" in marks for marks in (vma.flags for vma in target.vmas()))


@pytest.mark.prctl
@pytest.mark.needs("memory_merge_prctl")
@pytest.mark.fixed_by("mm/ksm: prevent KSM from breaking VMA merging for new VMAs", "6.17")
@pytest.mark.usefixtures("whole_process")
def test_mapping_beside_memory_marked_by_prctl_joins_it(process: Process) -> None:
    """What is mapped under PR_SET_MEMORY_MERGE becomes one VMA with what it marked before."""
    room = Region(process, process.call(libc.mmap, 4 * PAGE_SIZE, lib.PROT_NONE), 4)
    room.unmap()
    flags = lib.MAP_PRIVATE | lib.MAP_ANONYMOUS | lib.MAP_FIXED_NOREPLACE
    prot = lib.PROT_READ | lib.PROT_WRITE
    process.call(libc.mmap, PAGE_SIZE, prot, flags, room.address + PAGE_SIZE)
    process.call(libc.set_memory_merge, 1)
    process.call(libc.mmap, PAGE_SIZE, prot, flags, room.address + 2 * PAGE_SIZE)
    assert extents(room.part(1, 2)) == [(0, 2, True)]


@pytest.mark.sharing
@pytest.mark.needs("ksm_stat", "page_frames")
@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(advised(lib.MADV_DONTFORK), id="dontfork"),
        pytest.param(advised(lib.MADV_WIPEONFORK), id="wipeonfork"),
        pytest.param(advised(lib.MADV_DONTDUMP), id="dontdump"),
        pytest.param(advised(lib.MADV_SEQUENTIAL), id="sequential"),
        pytest.param(locked, id="locked"),
    ],
)
def test_merging_itself_changes_no_flag(
    prepare: Prepare, ksm: SharedKsm, region: RegionFactory
) -> None:
    """With pages really merged and unmerged, VMAs are what they were, and so is the content."""
    merged = region(6)
    content = merged.read()
    prepare(merged)
    before = flags(merged)
    ksm.merge(merged)
    assert flags(merged) == before | {"mg"}
    merged.advise(lib.MADV_UNMERGEABLE)
    assert flags(merged) == before
    assert_unmerged(merged, content)
