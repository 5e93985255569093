# SPDX-License-Identifier: GPL-2.0
"""Advice on merging sets and clears one flag of a VMA, and no other."""

from collections.abc import Callable

import pytest

from mm import served
from mm.process import Process
from mm.region import Region
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
