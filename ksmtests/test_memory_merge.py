# SPDX-License-Identifier: GPL-2.0
"""PR_SET_MEMORY_MERGE and PR_GET_MEMORY_MERGE: which memory they make mergeable, and when."""

import errno

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_not_mergeable
from mm.process import Process
from mm.region import Region
from plugins.ksm import SharedKsm
from plugins.processes import RegionFactory
from uapi import libc
from uapi.libc import PAGE_SIZE, lib

pytestmark = [pytest.mark.prctl, pytest.mark.needs("memory_merge_prctl", "page_frames")]


@pytest.mark.parametrize(
    "arguments",
    [
        *[(lib.PR_SET_MEMORY_MERGE, 1, *stray) for stray in ((1, 0, 0), (0, 1, 0), (0, 0, 1))],
        *[
            (lib.PR_GET_MEMORY_MERGE, *stray)
            for stray in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
        ],
    ],
    ids=str,
)
def test_stray_arguments_are_refused(arguments: tuple[int, ...], process: Process) -> None:
    """Unused arguments must be zero; a refused call changes nothing (kernel/sys.c)."""
    with pytest.raises(OSError) as refused:
        process.call(libc.prctl, *arguments)
    assert refused.value.errno == errno.EINVAL
    assert process.call(libc.get_memory_merge) == 0


@pytest.mark.usefixtures("whole_process")
def test_present_and_future_memory_becomes_mergeable(
    process: Process, region: RegionFactory
) -> None:
    """What is mapped before and what is mapped after is marked alike."""
    before = region()
    assert_not_mergeable(before)
    process.call(libc.set_memory_merge, 1)
    after = region()
    for mapped in (before, after):
        assert all("mg" in vma.flags for vma in mapped.vmas())


def test_switching_off_without_having_switched_on_keeps_advice(
    process: Process, region: RegionFactory
) -> None:
    """0 where nothing was set leaves memory that MADV_MERGEABLE has marked."""
    advised = region()
    advised.advise(lib.MADV_MERGEABLE)
    process.call(libc.set_memory_merge, 0)
    assert "mg" in advised.vmas()[0].flags


@pytest.mark.fixed_by(
    "mm/ksm: unmerge and clear VM_MERGEABLE when setting PR_SET_MEMORY_MERGE=0", "6.4"
)
@pytest.mark.usefixtures("whole_process")
def test_switching_off_clears_advised_memory_too(process: Process, region: RegionFactory) -> None:
    """0 after 1 clears every VMA, by whatever way it was marked (mm/ksm.c)."""
    advised = region()
    advised.advise(lib.MADV_MERGEABLE)
    process.call(libc.set_memory_merge, 1)
    process.call(libc.set_memory_merge, 0)
    assert_not_mergeable(advised)


@pytest.mark.usefixtures("whole_process")
def test_switching_on_again_keeps_what_was_opted_out(
    process: Process, region: RegionFactory
) -> None:
    """1 after 1 changes nothing: memory taken out by MADV_UNMERGEABLE stays out."""
    process.call(libc.set_memory_merge, 1)
    opted_out = region()
    opted_out.advise(lib.MADV_UNMERGEABLE)
    process.call(libc.set_memory_merge, 1)
    assert_not_mergeable(opted_out)


@pytest.mark.fixed_by("mm/ksm: prevent KSM from breaking VMA merging for new VMAs", "6.17")
@pytest.mark.usefixtures("whole_process")
def test_adjacent_mappings_are_one_vma(process: Process) -> None:
    """Mappings made side by side still become one VMA, as they do without KSM."""
    process.call(libc.set_memory_merge, 1)
    room = process.call(libc.mmap, 4 * PAGE_SIZE, lib.PROT_NONE)
    process.call(libc.munmap, room, 4 * PAGE_SIZE)
    flags = lib.MAP_PRIVATE | lib.MAP_ANONYMOUS | lib.MAP_FIXED_NOREPLACE
    prot = lib.PROT_READ | lib.PROT_WRITE
    for page in (1, 2):
        process.call(libc.mmap, PAGE_SIZE, prot, flags, room + page * PAGE_SIZE)
    vmas = Region(process, room + PAGE_SIZE, 2).vmas()
    assert len(vmas) == 1, f"{len(vmas)} VMAs: {vmas}"


@pytest.mark.fixed_by("mm/ksm: fix exec/fork inheritance support for prctl", "6.19")
@pytest.mark.usefixtures("whole_process")
def test_memory_mapped_long_after_exec_merges(
    ksm: SharedKsm, process: Process, region: RegionFactory
) -> None:
    """ksmd, which passes by while exec sets the new memory up, does not forget the process."""
    process.call(libc.set_memory_merge, 1)
    for _ in range(3):
        process.execute()
        ksm.wait_for_passes()
    late = region()
    ksm.wait_until_merged(late)
    assert_merged_into_one(late)
