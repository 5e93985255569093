# SPDX-License-Identifier: GPL-2.0
"""/proc/PID/ksm_stat and /proc/PID/ksm_merging_pages: their form, and who can read them of whom.

Documentation/filesystems/proc.rst, fs/proc/base.c. That the numbers are right is for test_books,
test_profit and the tests of zero pages.
"""

import errno
import os
import re
import stat
from functools import partial
from pathlib import Path

import pytest

from ksmtests import in_process
from mm.process import Process
from mm.region import ZEROS
from plugins.ksm import KsmAlone, SharedKsm
from plugins.processes import RegionFactory
from uapi import ksm, libc, pagemap_scan
from uapi.libc import lib
from uapi.pagemap_scan import Run

pytestmark = [pytest.mark.proc, pytest.mark.needs("ksm_stat")]

FORMS = {
    "ksm_rmap_items": r"ksm_rmap_items \d+",
    "ksm_zero_pages": r"ksm_zero_pages -?\d+",
    "ksm_merging_pages": r"ksm_merging_pages \d+",
    "ksm_process_profit": r"ksm_process_profit -?\d+",
    "ksm_merge_any": r"ksm_merge_any: (yes|no)",
    "ksm_mergeable": r"ksm_mergeable: (yes|no)",
}  # in the order of fs/proc/base.c
FILES = pytest.mark.parametrize("name", ["ksm_stat", "ksm_merging_pages"])


def text(pid: int, name: str = "ksm_stat") -> str:
    """A file's text."""
    return Path(f"/proc/{pid}/{name}").read_text()


def lines(process: Process) -> list[str]:
    """The lines of ksm_stat."""
    return text(process.pid).splitlines()


def word(process: Process, name: str) -> str:
    """yes or no, behind a line's name."""
    values = re.findall(rf"^{name}: (yes|no)$", text(process.pid), re.MULTILINE)
    assert len(values) == 1, f"{name}: {values}"
    return str(values[0])


@pytest.mark.parametrize(
    "name",
    [
        "ksm_rmap_items",
        pytest.param("ksm_zero_pages", marks=pytest.mark.needs("ksm_zero_pages")),
        pytest.param("ksm_merging_pages", marks=pytest.mark.needs("ksm_profit")),
        pytest.param("ksm_process_profit", marks=pytest.mark.needs("ksm_profit")),
        pytest.param("ksm_merge_any", marks=pytest.mark.needs("ksm_involvement")),
        pytest.param("ksm_mergeable", marks=pytest.mark.needs("ksm_involvement")),
    ],
)
def test_line_is_there_once(name: str, process: Process) -> None:
    """In the form that programs parse, even before KSM knows the process."""
    found = [line for line in lines(process) if re.match(rf"{name}\b", line)]
    assert len(found) == 1, found
    line = found[0]
    assert re.fullmatch(FORMS[name], line)
    assert line.split()[1] in {"0", "no"}


def test_lines_keep_their_order(process: Process) -> None:
    """Programs may count lines: new ones come behind."""
    names = [re.split(r"[: ]", line)[0] for line in lines(process)]
    known = [name for name in FORMS if name in names]
    assert names[: len(known)] == known
    assert text(process.pid).endswith("\n")


@pytest.mark.needs("page_frames")
def test_merging_pages_are_told_twice_alike(ksm: SharedKsm, region: RegionFactory) -> None:
    """By the file of its own, one number, and by the line of ksm_stat, where there is one."""
    merged = ksm.merge(region(7))
    pid = merged.process.pid
    assert text(pid, "ksm_merging_pages") == "7\n"
    assert merged.process.ksm_stat().merging_pages in {7, None}


@FILES
def test_file_is_its_owners_to_read(name: str, process: Process) -> None:
    """Mode 0400: no other user may open it, and nobody may write."""
    path = f"/proc/{process.pid}/{name}"
    status = Path(path).stat()
    assert stat.filemode(status.st_mode) == "-r--------"
    assert status.st_uid == os.geteuid()
    own = f"/proc/self/{name}"
    process.call(in_process.become_nobody)
    process.call(libc.prctl, lib.PR_SET_DUMPABLE, 1)  # else it is root's still
    assert process.call(in_process.opening_errno, own, os.O_RDONLY) == 0
    root = f"/proc/{os.getpid()}/{name}"
    assert process.call(in_process.opening_errno, root, os.O_RDONLY) == errno.EACCES
    assert process.call(in_process.opening_errno, own, os.O_WRONLY) == errno.EACCES


@FILES
@pytest.mark.needs("page_frames")
def test_threads_tell_of_their_mm(name: str, ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """task/TID has the files, too, and every thread says the same."""
    merged = ksm_alone.merge(region(5))
    process = merged.process
    tid = process.call(in_process.start_thread)
    ksm_alone.stop()
    for task in (process.pid, tid):
        path = Path(f"/proc/{process.pid}/task/{task}/{name}")
        assert stat.filemode(path.stat().st_mode) == "-r--------"
        assert path.read_text() == text(process.pid, name)
    assert "5" in text(tid, name)


@FILES
@pytest.mark.needs("ksmd_time")
def test_kernel_threads_have_nothing_to_tell(name: str) -> None:
    """They have no mm: the file is empty."""
    assert text(ksm.ksmd_pid(), name) == ""


@FILES
def test_zombies_have_nothing_to_tell(name: str, process: Process) -> None:
    """Their mm is gone already."""
    assert text(process.call(in_process.leave_zombie), name) == ""


@pytest.mark.needs("ksm_involvement")
def test_mergeable_memory_is_told(process: Process, region: RegionFactory) -> None:
    """ksm_mergeable is about any mergeable VMA there is, and ksm_merge_any is not."""
    assert word(process, "ksm_mergeable") == "no"
    first, second = region(2), region(2)
    for mapped in (first, second):
        mapped.advise(lib.MADV_MERGEABLE)
        assert word(process, "ksm_mergeable") == "yes"
    first.advise(lib.MADV_UNMERGEABLE)
    for protection in (lib.PROT_READ, lib.PROT_NONE):
        second.protect(protection)
        assert word(process, "ksm_mergeable") == "yes"
    second.unmap()
    assert word(process, "ksm_mergeable") == "no"
    assert word(process, "ksm_merge_any") == "no"


@pytest.mark.needs("ksm_involvement", "memory_merge_prctl")
@pytest.mark.usefixtures("whole_process")
def test_memory_merge_is_told(process: Process) -> None:
    """ksm_merge_any is what PR_SET_MEMORY_MERGE has set, for the mm and its heirs."""
    process.call(libc.set_memory_merge, 1)
    assert (word(process, "ksm_merge_any"), word(process, "ksm_mergeable")) == ("yes", "yes")
    process.execute()
    assert (word(process, "ksm_merge_any"), word(process, "ksm_mergeable")) == ("yes", "yes")
    process.call(libc.set_memory_merge, 0)
    assert (word(process, "ksm_merge_any"), word(process, "ksm_mergeable")) == ("no", "no")


@pytest.mark.needs("page_frames")
def test_exec_begins_anew(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """The new mm has merged nothing."""
    merged = ksm_alone.merge(region(6))
    ksm_alone.stop()
    merged.process.execute()
    stat = merged.process.ksm_stat()
    assert (stat.rmap_items, stat.merging_pages or 0, stat.zero_pages or 0) == (0, 0, 0)
    assert merged.process.merging_pages == 0


@pytest.mark.needs("smaps_ksm", "ksm_zero_pages", "page_frames")
def test_smaps_count_ksm_pages(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """KSM of smaps and of smaps_rollup: pages of one's own that are KSM pages, no zero pages."""
    merged = ksm_alone.merge(region(11))
    zeros = ksm_alone.merge(region(4, ZEROS))
    ksm_alone.stop()
    assert merged.smaps_pages("KSM") == 11
    assert zeros.smaps_pages("KSM") == 0
    assert rolled_up(merged.process) == 11
    merged.write(3)
    assert merged.smaps_pages("KSM") == 10
    assert rolled_up(merged.process) == 10


def rolled_up(process: Process) -> int:
    """KSM of smaps_rollup, in pages."""
    rollup = text(process.pid, "smaps_rollup")
    sizes = re.findall(r"^KSM: +(\d+) kB$", rollup, re.MULTILINE)
    assert len(sizes) == 1, rollup
    return int(sizes[0]) * 1024 // libc.PAGE_SIZE


@pytest.mark.needs("pagemap_scan", "ksm_zero_pages", "page_frames")
def test_pagemap_scan_finds_placed_zero_pages(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """PAGE_IS_PFNZERO is set for zero pages, KSM's and others, and for nothing else."""
    mapped = region(12)
    mapped.part(2, 3).fill(ZEROS)
    mapped.part(8, 1).fill(ZEROS)
    ksm_alone.merge(mapped)
    ksm_alone.stop()
    pid, kind = mapped.process.pid, pagemap_scan.PAGE_IS_PFNZERO
    scan = partial(pagemap_scan.runs_of, pid, mapped.address, mapped.pages)
    assert scan(kind) == [Run(2, 3), Run(8, 1)]
    assert scan(pagemap_scan.PAGE_IS_PRESENT) == [Run(0, 12)]
    mapped.write(3)
    assert scan(kind) == [Run(2, 1), Run(4, 1), Run(8, 1)]
