# SPDX-License-Identifier: GPL-2.0
"""Who has PR_SET_MEMORY_MERGE from whom, and which memory it reaches.

"mm/ksm: support fork/exec for prctl" brought the inheritance by exec with 6.7.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksmtests import in_process
from ksmtests.expectations import assert_merged_into_one, assert_not_mergeable
from mm.process import Process
from mm.region import Region, unique_pattern
from plugins.ksm import SharedKsm
from plugins.processes import Fork, RegionFactory
from uapi import libc
from uapi.libc import PAGE_SIZE

pytestmark = [
    pytest.mark.prctl,
    pytest.mark.needs("memory_merge_prctl"),
    pytest.mark.usefixtures("whole_process"),
]

FOR_EXEC = pytest.mark.fixed_by("mm/ksm: support fork/exec for prctl", "6.7")


@pytest.fixture
def cat() -> Iterator[Path]:
    """A copy of cat(1), root's, where every user may run it."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(shutil.copy(shutil.which("cat") or "", directory))


@pytest.mark.parametrize("value", [1, 2, 1 << 31])
def test_any_value_but_0_is_on(value: int, process: Process) -> None:
    """And is read back as 1 (kernel/sys.c)."""
    process.call(libc.set_memory_merge, value)
    assert process.call(libc.get_memory_merge) == 1
    process.call(libc.set_memory_merge, 0)
    assert process.call(libc.get_memory_merge) == 0


def test_no_privilege_is_needed(process: Process) -> None:
    """Any user may ask for its memory to be merged."""
    process.call(in_process.become_nobody)
    process.call(libc.set_memory_merge, 1)
    assert process.call(libc.get_memory_merge) == 1


def test_threads_share_the_setting(process: Process, region: RegionFactory) -> None:
    """It is the mm's: what one thread sets, another reads, and its memory is mergeable."""
    process.call(in_process.set_memory_merge_in_thread, 1)
    assert process.call(libc.get_memory_merge) == 1
    mapped = region(2)
    assert "mg" in mapped.vmas()[0].flags
    process.call(in_process.set_memory_merge_in_thread, 0)
    assert process.call(libc.get_memory_merge) == 0
    assert_not_mergeable(mapped)


@pytest.mark.parametrize("value", [0, 1])
def test_children_begin_with_it_and_go_their_own_way(
    value: int, process: Process, fork: Fork
) -> None:
    """A child has its parent's setting; what either sets later is its own."""
    process.call(libc.set_memory_merge, 1)
    process.call(libc.set_memory_merge, value)
    child = fork(process)
    assert child.call(libc.get_memory_merge) == value
    child.call(libc.set_memory_merge, 1 - value)
    assert (process.call(libc.get_memory_merge), child.call(libc.get_memory_merge)) == (
        value,
        1 - value,
    )
    grandchild = fork(child)
    assert grandchild.call(libc.get_memory_merge) == 1 - value


@FOR_EXEC
@pytest.mark.parametrize("value", [0, 1])
def test_programs_begin_with_it(value: int, process: Process) -> None:
    """A program started by vfork has the setting; the process that waited for it keeps its own."""
    process.call(libc.set_memory_merge, value)
    assert process.call(in_process.ask_program) == value
    assert process.call(libc.get_memory_merge) == value


@FOR_EXEC
@pytest.mark.needs("page_frames")
@pytest.mark.parametrize("mode", [0o755, 0o4755], ids=["another user's", "setuid"])
@pytest.mark.parametrize("value", [0, 1])
def test_change_of_user_changes_nothing(value: int, mode: int, process: Process, cat: Path) -> None:
    """Nor does it matter to exec that the program is another user's, or becomes root's."""
    cat.chmod(mode)
    process.call(libc.set_memory_merge, value)
    found = process.call(in_process.has_mergeable_memory, str(cat), in_process.NOBODY)
    assert found == bool(value)


@FOR_EXEC
def test_programs_memory_is_mergeable(process: Process, region: RegionFactory) -> None:
    """After exec the new program's memory is marked as it is mapped, and as long as it is on."""
    process.call(libc.set_memory_merge, 1)
    process.execute()
    assert process.call(libc.get_memory_merge) == 1
    assert "mg" in region(2).vmas()[0].flags
    process.call(libc.set_memory_merge, 0)
    assert_not_mergeable(region(2))
    process.execute()
    assert process.call(libc.get_memory_merge) == 0
    assert_not_mergeable(region(2))


def test_childs_memory_is_mergeable_later_on(
    process: Process, fork: Fork, region: RegionFactory
) -> None:
    """What a child maps is marked, and what it inherited is, too."""
    inherited = region(2)
    process.call(libc.set_memory_merge, 1)
    child = fork(process)
    assert "mg" in inherited.seen_from(child).vmas()[0].flags
    assert "mg" in region(2, process=child).vmas()[0].flags
    child.call(libc.set_memory_merge, 0)
    assert_not_mergeable(inherited.seen_from(child))
    assert "mg" in inherited.vmas()[0].flags


@pytest.mark.needs("ksm_stat", "page_frames")
def test_heap_is_mergeable(ksm: SharedKsm, process: Process) -> None:
    """brk(2) grows mergeable memory while it is on, and no mergeable memory after it is off."""
    process.call(libc.set_memory_merge, 1)
    heap = Region(process, process.call(in_process.grow_heap, 8), 8)
    heap.keep_from_huge_pages()
    assert all("mg" in vma.flags for vma in heap.vmas())
    heap.fill(unique_pattern())
    ksm.wait_until_merged(heap)
    assert_merged_into_one(heap)
    process.call(libc.set_memory_merge, 0)
    later = Region(process, process.call(in_process.grow_heap, 4), 4)
    assert later.address == heap.address + 8 * PAGE_SIZE
    assert_not_mergeable(later)
