# SPDX-License-Identifier: GPL-2.0
"""Which memory may be merged: private pages of the process's own, and nothing else.

The kernel says so in two ways: by the mark `mg` of a VMA, and by what it really merges. One table
(ksm_compatible() in mm/ksm.c) decides for MADV_MERGEABLE, for PR_SET_MEMORY_MERGE over what is
mapped, and for it over what will be. Not in it: memory that only drivers or certain processors
have (VM_MIXEDMAP, DAX, SAO, ADI), and memfd_secret(2), which can only be mapped shared.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ksmtests.expectations import assert_merged_into_one
from mm import served
from mm.process import Process
from mm.region import Region, unique_pattern
from plugins.evidence import Evidence
from plugins.ksm import KsmAlone, ReadBooks
from plugins.processes import Fork, RegionFactory
from uapi import libc
from uapi.libc import PAGE_SIZE, lib
from uapi.meminfo import read_meminfo
from uapi.pagemap import PageKind

pytestmark = [pytest.mark.vma, pytest.mark.needs("page_frames")]

PAGES = 4
LENGTH = PAGES * PAGE_SIZE
ANONYMOUS = lib.MAP_PRIVATE | lib.MAP_ANONYMOUS
WRITABLE = lib.PROT_READ | lib.PROT_WRITE


class Kind(NamedTuple):
    """A kind of memory, and whether KSM may have it."""

    name: str
    map: Callable[[Process], Region]
    eligible: bool


def mapped(function: Callable[..., int], *arguments: Any) -> Callable[[Process], Region]:
    """What a call in the process maps."""
    return lambda process: Region(process, process.call(function, *arguments), PAGES)


def anonymous(prot: int, flags: int = ANONYMOUS) -> Callable[[Process], Region]:
    """Anonymous memory."""
    return mapped(libc.mmap, LENGTH, prot, flags)


def huge_pages(process: Process) -> Region:
    """Memory of the hugetlb kind, with no pages yet: it needs none set aside.

    Where it lies is not left to the kernel, as 7.2 with LPAE does not align it, and munmap(2) then
    is a BUG in __unmap_hugepage_range().
    """
    pages = read_meminfo()["Hugepagesize"] // PAGE_SIZE
    place = Region.map_aligned(process, pages, lib.PROT_NONE)  # counts against no limit on memory
    flags = ANONYMOUS | lib.MAP_HUGETLB | libc.MAP_NORESERVE | lib.MAP_FIXED
    process.call(libc.mmap, place.length, WRITABLE, flags, place.address)
    return place


def named(name: str) -> Callable[[Process], Region]:
    """What the kernel itself has mapped under this name."""

    def find(process: Process) -> Region:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            if line.endswith(name):
                first, last = (int(address, 16) for address in line.split()[0].split("-"))
                return Region(process, first, (last - first) // PAGE_SIZE)
        raise LookupError(f"process {process.pid} has no {name}")

    return find


WITH_PAGES = (
    Kind("private", anonymous(WRITABLE), eligible=True),
    Kind("private file", mapped(served.map_memfd_privately, LENGTH), eligible=True),
    Kind("/dev/zero", mapped(served.map_file_privately, "/dev/zero", LENGTH), eligible=True),
    Kind("heap", mapped(served.grow_heap, LENGTH), eligible=True),
    Kind("shared", anonymous(WRITABLE, lib.MAP_SHARED | lib.MAP_ANONYMOUS), eligible=False),
    Kind("shared file", mapped(served.map_memfd_shared, LENGTH, WRITABLE), eligible=False),
    pytest.param(
        Kind(
            "droppable",
            anonymous(WRITABLE, lib.MAP_DROPPABLE | lib.MAP_ANONYMOUS),
            eligible=False,
        ),
        marks=pytest.mark.needs("droppable_memory"),
    ),
)
WITHOUT_PAGES = (
    Kind("private, read-only", anonymous(lib.PROT_READ), eligible=True),
    Kind("private, inaccessible", anonymous(lib.PROT_NONE), eligible=True),
    # Not VM_SHARED, as nobody can write to it: VM_MAYSHARE alone tells that it is no private one.
    Kind(
        "shared file, read-only",
        mapped(served.map_memfd_shared, LENGTH, lib.PROT_READ),
        eligible=False,
    ),
    pytest.param(Kind("hugetlb", huge_pages, eligible=False), marks=pytest.mark.needs("hugetlb")),
)
THERE_FROM_THE_START = (
    Kind("stack", named("[stack]"), eligible=True),
    # VM_DONTEXPAND, and the data beside it VM_PFNMAP and VM_IO.
    pytest.param(Kind("vDSO", named("[vdso]"), eligible=False), marks=pytest.mark.needs("vdso")),
    pytest.param(
        Kind("data of the vDSO", named("[vvar]"), eligible=False), marks=pytest.mark.needs("vdso")
    ),
)


def kind_name(kind: Kind) -> str:
    """For the id of a test."""
    return kind.name


each_kind = pytest.mark.parametrize(
    "kind", [*WITH_PAGES, *WITHOUT_PAGES, *THERE_FROM_THE_START], ids=kind_name
)
each_mapped_kind = pytest.mark.parametrize("kind", [*WITH_PAGES, *WITHOUT_PAGES], ids=kind_name)
each_kind_with_pages = pytest.mark.parametrize("kind", WITH_PAGES, ids=kind_name)


def flags_of(region: Region) -> list[frozenset[str]]:
    """VmFlags of each VMA."""
    flags = [vma.flags for vma in region.vmas()]
    assert flags, f"nothing is mapped at {region.address:#x}"
    return flags


def with_mark(flags: list[frozenset[str]]) -> list[frozenset[str]]:
    """The same with the mark of mergeable memory."""
    return [marks | {"mg"} for marks in flags]


@each_kind
def test_advice_marks_what_may_be_merged(kind: Kind, process: Process) -> None:
    """MADV_MERGEABLE succeeds for all memory, and means nothing for what may not be merged."""
    region = kind.map(process)
    before = flags_of(region)
    assert before == [marks - {"mg"} for marks in before]
    region.advise(lib.MADV_MERGEABLE)
    assert flags_of(region) == (with_mark(before) if kind.eligible else before)
    region.advise(lib.MADV_UNMERGEABLE)
    assert flags_of(region) == before


@pytest.mark.prctl
@pytest.mark.needs("memory_merge_prctl")
@pytest.mark.usefixtures("whole_process")
@each_kind
def test_prctl_marks_what_is_mapped(kind: Kind, process: Process) -> None:
    """PR_SET_MEMORY_MERGE marks by the same table, and unmarks what it has marked."""
    region = kind.map(process)
    before = flags_of(region)
    process.call(libc.set_memory_merge, 1)
    assert flags_of(region) == (with_mark(before) if kind.eligible else before)
    process.call(libc.set_memory_merge, 0)
    assert flags_of(region) == before


@pytest.mark.prctl
@pytest.mark.needs("memory_merge_prctl")
@pytest.mark.usefixtures("whole_process")
@each_mapped_kind
def test_prctl_marks_what_is_mapped_later(kind: Kind, process: Process) -> None:
    """Memory mapped under PR_SET_MEMORY_MERGE is marked by the same table."""
    process.call(libc.set_memory_merge, 1)
    region = kind.map(process)
    assert all(("mg" in marks) == kind.eligible for marks in flags_of(region)), region.vmas()


@each_kind_with_pages
def test_only_memory_that_may_be_merged_is_merged(
    kind: Kind, ksm_alone: KsmAlone, process: Process, region: RegionFactory, evidence: Evidence
) -> None:
    """Equal pages are merged with private ones, or not even with each other."""
    pattern = unique_pattern()
    tried = evidence.watch(kind.map(process))
    tried.fill(pattern)
    content = tried.read()
    control = region(2, pattern)
    tried.advise(lib.MADV_MERGEABLE)
    ksm_alone.merge(control)
    if kind.eligible:
        ksm_alone.wait_until_merged(tried)
        assert set(tried.frames()) == set(control.frames())
    else:
        ksm_alone.wait_for_passes(3)
        assert tried.count(PageKind.KSM) == 0, tried.describe()
        assert process.merging_pages == control.pages
        assert not set(tried.frames()) & set(control.frames())
    assert tried.read() == content


@pytest.mark.sharing
def test_pages_of_a_private_file_merge_once_they_are_written(
    ksm_alone: KsmAlone, books: ReadBooks, process: Process, region: RegionFactory
) -> None:
    """Untouched pages are the file's; written, they are the process's own. The file stays."""
    pattern = unique_pattern()
    content = pattern * (8 * PAGE_SIZE // 16)
    fd = process.call(served.memfd_of, content)
    private = Region(process, process.call(served.map_private_file, fd, len(content)), 8)
    written, untouched = private.halves()
    assert private.read() == content
    written.fill(pattern)
    private.advise(lib.MADV_MERGEABLE)
    control = ksm_alone.merge(region(2, pattern))
    ksm_alone.wait_until_merged(written)
    ksm_alone.wait_for_passes(3)
    books().assert_has(shared=1, sharing=5)
    assert_merged_into_one(written)
    assert set(written.frames()) == set(control.frames())
    assert untouched.count(PageKind.FILE) == untouched.pages, private.describe()

    written.write(0, b"private")
    assert process.call(served.content_of, fd, len(content)) == content
    assert untouched.read() == content[: untouched.length]
    assert written.part(1, 3).read() == content[: 3 * PAGE_SIZE]


@pytest.mark.fork
@each_kind_with_pages
def test_mergeable_memory_is_forked_and_unmapped(
    kind: Kind, process: Process, fork: Fork, ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """LTP's mmap10: three children unmap what they inherited; the parent's is as it was."""
    mine = kind.map(process)
    mine.fill(unique_pattern())
    mine.advise(lib.MADV_MERGEABLE)
    content = mine.read()
    before = flags_of(mine)
    for _ in range(3):
        theirs = mine.seen_from(fork(process))
        assert flags_of(theirs) == before
        if kind.name != "droppable":  # a child begins without such pages
            assert theirs.read() == content
        ksm_alone.merge(region(2))
        theirs.unmap()
        assert theirs.process.exit() == 0
    assert mine.read() == content
    assert flags_of(mine) == before
