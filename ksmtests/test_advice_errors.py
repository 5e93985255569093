# SPDX-License-Identifier: GPL-2.0
"""What madvise(2), process_madvise(2) and prctl(2) refuse, and what a refused call leaves.

madvise(2), Documentation/admin-guide/mm/ksm.rst, mm/madvise.c. Gaps and the limit of VMAs are for
test_vma_flags; at the limit ksm.rst says ENOMEM, and the kernel EAGAIN.
"""

import errno
import os

import pytest

from ksmtests import in_process
from mm.process import Process
from mm.region import Region
from plugins.processes import Fork, RegionFactory
from uapi import libc
from uapi.libc import LONG_BYTES, PAGE_SIZE, lib

pytestmark = pytest.mark.vma

ADVICE = pytest.mark.parametrize("advice", ["MADV_MERGEABLE", "MADV_UNMERGEABLE"])
ALL = 2 ** (8 * LONG_BYTES)


def marks(region: Region) -> list[bool]:
    """For each page whether its VMA is marked for KSM; pages that are not mapped are left out."""
    vmas = region.vmas()
    return [
        "mg" in vma.flags
        for address in region.addresses()
        for vma in vmas
        if vma.start <= address < vma.end
    ]


def errno_of(region: Region, address: int, length: int, advice: int) -> int:
    """errno of madvise(2) in the region's process."""
    return region.process.call(in_process.madvise_errno, address, length, advice)


@pytest.fixture
def half_marked(region: RegionFactory) -> Region:
    """Four pages, the latter two of them mergeable."""
    mapped = region(4)
    mapped.part(2, 2).advise(lib.MADV_MERGEABLE)
    return mapped


@ADVICE
def test_bounds_that_are_none_are_refused(advice: str, half_marked: Region) -> None:
    """EINVAL: an address within a page, a length that wraps, or that wraps when rounded up."""
    start = half_marked.address
    spans = [
        *((start + 1, PAGE_SIZE), (start + PAGE_SIZE - 1, 1)),
        *((start, ALL - PAGE_SIZE), (start, ALL - 1), (start, ALL - start)),
    ]
    value = getattr(lib, advice)
    errors = [errno_of(half_marked, *span, value) for span in spans]
    assert errors[:-1] == [errno.EINVAL] * (len(spans) - 1)
    # This one ends with the address space: a wrap to 0 is an end of 0, below the start.
    assert errors[-1] == errno.EINVAL
    assert marks(half_marked) == [False, False, True, True]


@ADVICE
def test_no_bytes_are_no_error(advice: str, half_marked: Region) -> None:
    """A length of 0 is 0, mapped or not, and marks nothing; an address within a page is not."""
    value = getattr(lib, advice)
    for address in (half_marked.address, half_marked.address + 2 * PAGE_SIZE, PAGE_SIZE):
        assert errno_of(half_marked, address, 0, value) == 0
    assert errno_of(half_marked, half_marked.address + 1, 0, value) == errno.EINVAL
    assert marks(half_marked) == [False, False, True, True]


@pytest.mark.parametrize(
    ("advice", "expected"),
    [
        ("MADV_MERGEABLE", [False, True, True, True]),
        ("MADV_UNMERGEABLE", [False, False, False, True]),
    ],
)
def test_length_is_rounded_up(advice: str, expected: list[bool], half_marked: Region) -> None:
    """A byte of a page is the page."""
    start = half_marked.address + PAGE_SIZE
    assert errno_of(half_marked, start, PAGE_SIZE + 1, getattr(lib, advice)) == 0
    assert marks(half_marked) == expected


@ADVICE
def test_advice_again_is_no_error(advice: str, half_marked: Region) -> None:
    """Neither marking what is marked, nor unmarking what is not."""
    value = getattr(lib, advice)
    for _ in range(2):
        assert errno_of(half_marked, half_marked.address, half_marked.length, value) == 0
        assert marks(half_marked) == [advice == "MADV_MERGEABLE"] * 4
    assert len(half_marked.vmas()) == 1


@ADVICE
def test_remote_advice_is_refused(advice: str, half_marked: Region, fork: Fork) -> None:
    """EINVAL by process_madvise(2) for any other process, a child for instance."""
    child = fork(half_marked.process)
    theirs = half_marked.seen_from(child)
    parent = half_marked.process
    pidfd = parent.call(os.pidfd_open, child.pid)
    with pytest.raises(OSError) as refused:
        parent.call(
            libc.process_madvise, pidfd, theirs.address, theirs.length, getattr(lib, advice)
        )
    assert refused.value.errno == errno.EINVAL
    assert marks(theirs) == marks(half_marked) == [False, False, True, True]


@ADVICE
@pytest.mark.needs("own_process_madvise")
def test_own_advice_is_taken(advice: str, half_marked: Region, process: Process) -> None:
    """process_madvise(2) on oneself is as good as madvise(2), and says how far it got."""
    pidfd = process.call(os.pidfd_open, process.pid)
    value = getattr(lib, advice)
    advised = process.call(
        libc.process_madvise, pidfd, half_marked.address, half_marked.length, value
    )
    assert advised == half_marked.length
    assert marks(half_marked) == [advice == "MADV_MERGEABLE"] * 4
