# SPDX-License-Identifier: GPL-2.0
"""Page tables as user space sees them: kinds of pages, their description, the cost of reading."""

import os
import select
import signal
import tempfile
from array import array
from collections.abc import Iterator, Sequence

import pytest

from mm import served
from mm.process import Process, Zygote
from uapi import libc, pagemap
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import (
    ENTRY_BYTES,
    EXCLUSIVE,
    KPF_ANON,
    KPF_KSM,
    KPF_THP,
    KPF_ZERO_PAGE,
    NEARBY_FRAMES,
    PRESENT,
    SOFT_DIRTY,
    SWAPPED,
    UFFD_WP,
    PageKind,
    PageState,
    frame_counts,
    frame_flags,
    page_states,
    run_lengths,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="page frame numbers are root's alone")
ADDRESS = 0x7F0000000000
PFN = 0x12345


def state(
    kind: PageKind, pfn: int = 1, *, exclusive: bool = False, uffd_wp: bool = False
) -> PageState:
    """A page that is not soft-dirty."""
    return PageState(kind, pfn, exclusive, uffd_wp, soft_dirty=False)


class PreadLog:
    """pread(2) from files of our own in place of the kernel's; every call is noted."""

    def __init__(self, values: dict[str, dict[int, int]]) -> None:
        self.values = values
        self.paths: dict[int, str] = {}
        self.calls: list[tuple[str, int, int]] = []  # path, first entry, entries

    def open(self, path: str, flags: int) -> int:
        """os.open of a file to read."""
        assert flags == os.O_RDONLY
        fd = os.open("/dev/null", flags)
        self.paths[fd] = path
        return fd

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        """os.pread of entries that are zero unless given."""
        path, first, entries = self.paths[fd], offset // ENTRY_BYTES, count // ENTRY_BYTES
        self.calls.append((path, first, entries))
        values = self.values.get(path, {})
        return array("Q", [values.get(first + i, 0) for i in range(entries)]).tobytes()


class FakeOs:
    """What `uapi.pagemap` uses of os."""

    O_RDONLY = os.O_RDONLY
    close = staticmethod(os.close)

    def __init__(self, log: PreadLog) -> None:
        self.open = log.open
        self.pread = log.pread


def fake_kernel(
    monkeypatch: pytest.MonkeyPatch,
    entries: Sequence[int],
    flags: dict[int, int] | None = None,
    *,
    exact: bool = True,
) -> PreadLog:
    """Process 1 has these pagemap entries from ADDRESS on; kpageflags are by page frame."""
    first = ADDRESS // PAGE_SIZE
    log = PreadLog(
        {
            "/proc/1/pagemap": {first + index: entry for index, entry in enumerate(entries)},
            "/proc/kpageflags": flags or {},
        }
    )
    monkeypatch.setattr(pagemap, "os", FakeOs(log))
    monkeypatch.setattr(pagemap, "ksm_flag_is_exact", lambda: exact)
    return log


@pytest.mark.parametrize(
    ("states", "text"),
    [
        ([], ""),
        ([state(PageKind.ZERO)], "0 zero page"),
        ([state(PageKind.ZERO)] * 3, "0-2 zero page"),
        (
            [state(PageKind.ZERO)] * 7
            + [state(PageKind.ANON, exclusive=True)]
            + [state(PageKind.ZERO)] * 504,
            "0-6 zero page | 7 anon, exclusive | 8-511 zero page",
        ),
        (
            [state(PageKind.ANON, exclusive=True, uffd_wp=True), state(PageKind.ANON)],
            "0 anon, exclusive, uffd-wp | 1 anon",
        ),
        ([state(PageKind.KSM, pfn=1), state(PageKind.KSM, pfn=2)], "0-1 KSM page"),
        (
            [state(PageKind.NONE), state(PageKind.SWAP), state(PageKind.THP)],
            "0 none | 1 swap | 2 huge anon",
        ),
    ],
)
def test_pages_of_one_kind_are_described_together(states: list[PageState], text: str) -> None:
    """Runs are described by their first and last page."""
    assert run_lengths(states) == text


@pytest.mark.parametrize(
    ("entry", "flags", "kind"),
    [
        (0, 0, PageKind.NONE),
        (SWAPPED | 5, KPF_ANON, PageKind.SWAP),
        (PRESENT | PFN, 0, PageKind.FILE),
        (PRESENT | PFN, KPF_ANON, PageKind.ANON),
        (PRESENT | PFN, KPF_ANON | KPF_THP, PageKind.THP),
        (PRESENT | PFN, KPF_THP, PageKind.FILE),
        (PRESENT | PFN, KPF_ANON | KPF_KSM, PageKind.KSM),
        (PRESENT | PFN, KPF_ZERO_PAGE, PageKind.ZERO),
        (PRESENT | PFN, KPF_ZERO_PAGE | KPF_THP, PageKind.ZERO),  # the huge zero page
    ],
)
def test_kind_follows_from_entry_and_flags(
    monkeypatch: pytest.MonkeyPatch, entry: int, flags: int, kind: PageKind
) -> None:
    """Each page is of the kind its entry and its page frame's flags tell."""
    fake_kernel(monkeypatch, [entry], {PFN: flags})
    (page,) = page_states(1, ADDRESS, 1)
    assert page.kind is kind
    assert page.pfn == (PFN if entry & PRESENT else 0)


@pytest.mark.parametrize(
    ("entry", "flags", "kind"),
    [
        (PRESENT | PFN, KPF_ANON | KPF_KSM, PageKind.KSM),
        (PRESENT | EXCLUSIVE | PFN, KPF_ANON | KPF_KSM, PageKind.ANON),
        (PRESENT | PFN, KPF_ANON | KPF_KSM | KPF_THP, PageKind.THP),
        (PRESENT | PFN, KPF_ANON, PageKind.ANON),
    ],
)
def test_ksm_pages_are_told_apart_where_all_anonymous_pages_say_so(
    monkeypatch: pytest.MonkeyPatch, entry: int, flags: int, kind: PageKind
) -> None:
    """6.10 to 6.17: a page of one process alone, or a huge one, is no KSM page."""
    fake_kernel(monkeypatch, [entry], {PFN: flags}, exact=False)
    assert page_states(1, ADDRESS, 1)[0].kind is kind


def test_marks_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bit of an entry has a field of its own."""
    fake_kernel(monkeypatch, [PRESENT | PFN | bit for bit in (EXCLUSIVE, UFFD_WP, SOFT_DIRTY)])
    pages = page_states(1, ADDRESS, 3)
    assert [page.exclusive for page in pages] == [True, False, False]
    assert [page.uffd_wp for page in pages] == [False, True, False]
    assert [page.soft_dirty for page in pages] == [False, False, True]


def test_hidden_page_frames_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without privilege every page frame number reads as zero: page 0's flags would be a lie."""
    fake_kernel(monkeypatch, [PRESENT, PRESENT])
    with pytest.raises(PermissionError, match="CAP_SYS_ADMIN"):
        page_states(1, ADDRESS, 2)


def test_a_range_costs_one_read_of_pagemap(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pages it has; frames that lie together cost one read more."""
    log = fake_kernel(monkeypatch, [PRESENT | PFN + page for page in range(1000)])
    assert len(page_states(1, ADDRESS, 1000)) == 1000
    assert log.calls == [
        ("/proc/1/pagemap", ADDRESS // PAGE_SIZE, 1000),
        ("/proc/kpageflags", PFN, 1000),
    ]


def test_pages_that_are_not_there_cost_no_look_at_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a swap entry, whose number is not that of a frame."""
    log = fake_kernel(monkeypatch, [0, SWAPPED | PFN])
    page_states(1, ADDRESS, 2)
    assert len(log.calls) == 1


def test_near_frames_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap is read over if it is small; the order and number of mappings do not matter."""
    log = fake_kernel(monkeypatch, [])
    far = 2 * NEARBY_FRAMES + 1
    assert set(frame_flags([far, NEARBY_FRAMES, 0, 0])) == {0, NEARBY_FRAMES, far}
    assert log.calls == [
        ("/proc/kpageflags", 0, NEARBY_FRAMES + 1),
        ("/proc/kpageflags", far, 1),
    ]


def test_values_belong_to_their_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a run with gaps, and in every run."""
    flags = {10: 0xA, 11: 0xB, 20: 0xC, 5000: 0xD}
    fake_kernel(monkeypatch, [], flags)
    assert frame_flags(flags) == flags


def test_short_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An mm that is gone has no entries; that is no page of kind none."""
    log = fake_kernel(monkeypatch, [])
    monkeypatch.setattr(log, "pread", lambda *_: b"")
    monkeypatch.setattr(pagemap, "os", FakeOs(log))
    with pytest.raises(OSError, match=r"/proc/1/pagemap: 0 bytes for 4 entries"):
        page_states(1, ADDRESS, 4)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """What processes are forked from."""
    started = Zygote()
    yield started
    started.close()


@pytest.fixture
def process(zygote: Zygote) -> Iterator[Process]:
    """A process whose pages are looked at."""
    child = zygote.process.fork()
    yield child
    child.kill()


@as_root
def test_kinds_of_real_pages(process: Process) -> None:
    """A written page, one only read, one untouched and one of a file, as the kernel tells them."""
    start = process.call(libc.mmap, 3 * PAGE_SIZE)
    process.call(libc.madvise, start, 3 * PAGE_SIZE, lib.MADV_NOHUGEPAGE)
    process.call(served.store, start, b"x")
    assert process.call(served.load, start + PAGE_SIZE, 1) == b"\0"
    written, read, untouched = page_states(process.pid, start, 3)
    assert (written.kind, written.exclusive) == (PageKind.ANON, True)
    assert (read.kind, read.exclusive) == (PageKind.ZERO, False)
    assert untouched == state(PageKind.NONE, pfn=0)
    assert frame_counts([written.pfn]) == {written.pfn: 1}


@as_root
def test_real_page_of_a_file(process: Process) -> None:
    """A page of the page cache, until a private mapping is written to."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(PAGE_SIZE))
        file.flush()
        fd = process.call(os.open, file.name, os.O_RDONLY)
        address = process.call(served.map_private_file, fd, PAGE_SIZE)
        process.call(served.load, address, 1)
        assert page_states(process.pid, address, 1)[0].kind is PageKind.FILE
        process.call(served.store, address, b"x")
        assert page_states(process.pid, address, 1)[0].kind is PageKind.ANON


@as_root
def test_page_shared_after_fork_is_not_exclusive(process: Process) -> None:
    """Parent and child map one frame, until one of them writes."""
    address = process.call(libc.mmap, PAGE_SIZE)
    process.call(served.store, address, b"x")
    child = process.fork()
    (ours,), (theirs,) = (page_states(each.pid, address, 1) for each in (process, child))
    assert ours.pfn == theirs.pfn
    assert not ours.exclusive
    child.call(served.store, address, b"y")
    assert page_states(child.pid, address, 1)[0].exclusive
    child.kill()


@as_root
def test_unprivileged_process_sees_no_frames(process: Process) -> None:
    """The kernel hides page frame numbers from whoever lacks CAP_SYS_ADMIN."""
    address = process.call(libc.mmap, PAGE_SIZE)
    process.call(served.store, address, b"x")
    assert process.call(page_states, process.pid, address, 1)[0].pfn
    process.call(os.setuid, 65534)
    process.call(libc.prctl, lib.PR_SET_DUMPABLE, 1)  # or its own /proc files are root's
    with pytest.raises(PermissionError, match="hides page frame numbers"):
        process.call(page_states, process.pid, address, 1)


@as_root
def test_ended_process_is_an_error(process: Process) -> None:
    """Its page tables are gone while it is a zombie, and its files later."""
    address = process.call(libc.mmap, PAGE_SIZE)
    child = process.fork()
    pidfd = os.pidfd_open(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    assert select.select([pidfd], [], [], 60)[0]
    os.close(pidfd)
    with pytest.raises(OSError):
        page_states(child.pid, address, 1)
    child.kill()
    with pytest.raises(FileNotFoundError):
        page_states(child.pid, address, 1)
