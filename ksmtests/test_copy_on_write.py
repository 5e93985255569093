# SPDX-License-Identifier: GPL-2.0
"""Who writes to a KSM page gets a copy of it, and nobody else sees a difference."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ksmtests import writers
from ksmtests.copies import Step, assert_copies_of_each, writes
from ksmtests.expectations import assert_merged_into_one, assert_unmerged, status_of
from mm import served
from mm.process import Process
from mm.region import Region, unique_pattern, unique_tokens
from plugins.ksm import KsmAlone, ReadBooks
from plugins.processes import Fork, RegionFactory
from uapi import libc
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import KPF_ANON, KPF_DIRTY, PageKind, frame_counts, frame_flags

pytestmark = [pytest.mark.sharing, pytest.mark.needs("ksm_stat", "page_frames")]


@pytest.fixture
def merged(ksm_alone: KsmAlone, region: RegionFactory) -> Region:
    """Pages that are one KSM page; ksmd is stopped."""
    pages = ksm_alone.merge(region(16))
    ksm_alone.stop()
    return pages


def merge_anew(ksm_alone: KsmAlone, pages: Region) -> None:
    """Have the pages be one KSM page once more; ksmd is stopped."""
    pages.fill(unique_pattern())
    ksm_alone.start()
    ksm_alone.merge(pages)
    ksm_alone.stop()


@pytest.mark.parametrize("offset", [0, PAGE_SIZE // 2, PAGE_SIZE - 1], ids=["first", "mid", "last"])
def test_write_copies_one_page_and_leaves_the_others(offset: int, merged: Region) -> None:
    """The page written is a copy with one byte changed; all others still share what they shared."""
    (frame,) = set(merged.frames())
    content = merged.read()
    byte = content[5 * PAGE_SIZE + offset] ^ 0xFF
    merged.write(5, bytes([byte]), offset)

    place = 5 * PAGE_SIZE + offset
    changed = content[:place] + bytes([byte]) + content[place + 1 :]
    assert_unmerged(merged.part(5, 1), changed[5 * PAGE_SIZE : 6 * PAGE_SIZE])
    assert merged.read() == changed
    frames = merged.frames()
    assert frames[:5] + frames[6:] == [frame] * 15
    assert frame_counts([frame]) == {frame: 15}


def test_whichever_page_is_written_the_others_stay(merged: Region) -> None:
    """One of the pages has become the KSM page; it is shared as well as those it replaced."""
    (frame,) = set(merged.frames())
    expected = bytearray(merged.read())
    for page in range(merged.pages - 1):
        token = unique_pattern()
        merged.write(page, token)
        expected[page * PAGE_SIZE : page * PAGE_SIZE + len(token)] = token
        assert merged.read() == expected
        rest = merged.pages - page - 1
        assert merged.frames()[page + 1 :] == [frame] * rest
        assert frame_counts([frame]) == {frame: rest}


def test_pages_that_were_replaced_are_free(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """What merging is for: all but one of the page frames belong to nobody any more."""
    pages = region(128)
    before = set(pages.frames())
    ksm_alone.merge(pages)
    replaced = before - set(pages.frames())
    assert len(replaced) == 127

    def held() -> int:
        """How many are anonymous memory that no page table maps; in use again, they are mapped."""
        flags, counts = frame_flags(replaced), frame_counts(replaced)
        return sum(bool(flags[one] & KPF_ANON) and not counts[one] for one in replaced)

    assert ksm_alone.wait_until(lambda: held() == 0), f"{held()} of 127 page frames are not free"


@pytest.mark.needs("vmstat_cow_ksm")
def test_each_copy_is_counted_once(ksm_alone: KsmAlone, merged: Region) -> None:
    """cow_ksm of vmstat grows by one for each KSM page written to, and for no other write."""

    def write_twice() -> list[Step]:
        merge_anew(ksm_alone, merged)
        return writes(merged) + writes(merged)

    assert_copies_of_each(write_twice, [1] * merged.pages + [0] * merged.pages)


@pytest.mark.needs("vmstat_cow_ksm")
def test_unmerging_is_counted_as_copies(ksm_alone: KsmAlone, merged: Region) -> None:
    """So are the copies that MADV_UNMERGEABLE makes."""
    first, second = merged.halves()
    parts = [*(first.part(page, 1) for page in range(first.pages)), second]

    def unmerge() -> list[Step]:
        merge_anew(ksm_alone, merged)
        return [partial(part.advise, lib.MADV_UNMERGEABLE) for part in parts]

    assert_copies_of_each(unmerge, [part.pages for part in parts])


@pytest.mark.needs("vmstat_cow_ksm")
def test_copies_of_ordinary_pages_are_not_counted(
    ksm_alone: KsmAlone, region: RegionFactory, fork: Fork
) -> None:
    """What parent and child share since fork is copied without a word in cow_ksm."""
    ksm_alone.stop()
    pages, children = region(16), []

    def write_shared() -> list[Step]:
        children.append(pages.seen_from(fork(pages.process)))
        assert children[-1].frames() == pages.frames()
        return writes(pages)

    assert_copies_of_each(write_shared, [0] * pages.pages)
    assert not set(children[-1].frames()) & set(pages.frames())


def test_last_sharer_gets_a_copy_too(
    ksm_alone: KsmAlone, merged: Region, region: RegionFactory
) -> None:
    """A KSM page mapped once is not written to in place: its content is what others look for."""
    kept, rest = merged.part(0, 1), merged.part(1, 15)
    pattern = kept.read()[:16]
    (frame,) = kept.frames()
    rest.unmap()
    assert frame_counts([frame]) == {frame: 1}
    kept.write(0, b"changed!")
    assert_unmerged(kept, b"changed!" + pattern[8:] + pattern * (PAGE_SIZE // 16 - 1))
    assert kept.frames() != [frame]

    ksm_alone.start()
    again = ksm_alone.merge(region(2, pattern))
    assert again.read() == pattern * (2 * PAGE_SIZE // 16)


def test_copies_merge_again_when_they_are_alike(ksm_alone: KsmAlone, merged: Region) -> None:
    """Pages that were copied and changed are merged with each other, with ksmd back at work."""
    pattern = unique_pattern()
    merged.part(3, 4).fill(pattern)
    ksm_alone.start()
    ksm_alone.wait_until_merged(merged)
    frames = merged.frames()
    assert len(set(frames[3:7])) == len(set(frames[:3] + frames[7:])) == 1
    assert frames[0] != frames[3]
    assert merged.part(3, 4).read() == pattern * (4 * PAGE_SIZE // 16)


@pytest.mark.parametrize(
    ("first", "pages"), [(0, 5), (5, 6), (11, 5)], ids=["head", "middle", "tail"]
)
def test_part_that_is_unmerged_leaves_the_rest(first: int, pages: int, merged: Region) -> None:
    """MADV_UNMERGEABLE ends where it was told to, on both sides."""
    (frame,) = set(merged.frames())
    content = merged.read()
    merged.part(first, pages).advise(lib.MADV_UNMERGEABLE)
    assert_unmerged(merged.part(first, pages), content[: pages * PAGE_SIZE])
    frames = merged.frames()
    assert frames[:first] + frames[first + pages :] == [frame] * (16 - pages)
    marked = [page for page in range(16) if "mg" in merged.part(page, 1).vmas()[0].flags]
    assert marked == [page for page in range(16) if not first <= page < first + pages]
    assert merged.read() == content


def test_unmerged_pages_leave_the_books_at_the_next_pass(
    ksm_alone: KsmAlone, books: ReadBooks, region: RegionFactory
) -> None:
    """Of a process whose pages are all unmerged, ksmd keeps nothing."""
    other = ksm_alone.merge(region(2))
    pages = ksm_alone.merge(region(10))
    ksm_alone.stop()
    pages.part(0, 4).advise(lib.MADV_UNMERGEABLE)
    for _ in range(2):
        ksm_alone.pass_once()
    books().assert_has(shared=2, sharing=6)
    assert pages.process.merging_pages == pages.process.ksm_stat().rmap_items == 8
    pages.part(4, 6).advise(lib.MADV_UNMERGEABLE)
    for _ in range(2):
        ksm_alone.pass_once()
    books().assert_has(shared=1, sharing=1)
    assert_merged_into_one(other)


@pytest.mark.fixed_by("mm/ksm: fix incorrect KSM counter handling in mm_struct during fork", "6.18")
def test_child_shares_its_parents_pages_and_is_counted_at_the_next_pass(
    ksm_alone: KsmAlone, books: ReadBooks, region: RegionFactory, fork: Fork
) -> None:
    """A fork maps KSM pages once more; ksmd finds the child's and counts them as its own."""
    pages = ksm_alone.merge(region(6))
    books().assert_has(shared=1, sharing=5)
    (frame,) = set(pages.frames())
    copied = pages.seen_from(fork(pages.process))
    assert set(copied.frames()) == {frame}
    assert frame_counts([frame]) == {frame: 12}
    for _ in range(2):
        ksm_alone.pass_once()
    books().assert_has(shared=1, sharing=11)
    assert copied.process.merging_pages == copied.process.ksm_stat().rmap_items == 6
    assert pages.process.merging_pages == 6
    content = copied.read()

    copied.write(2, b"child")
    assert_unmerged(copied.part(2, 1), b"child" + content[5:PAGE_SIZE])
    assert pages.read() == content
    for _ in range(2):
        ksm_alone.pass_once()
    books().assert_has(shared=1, sharing=10, unshared=1)

    copied.process.kill()
    for _ in range(2):
        ksm_alone.pass_once()
    books().assert_has(shared=1, sharing=5)
    assert set(pages.frames()) == {frame}
    assert frame_counts([frame]) == {frame: 6}


def test_parent_that_ends_leaves_its_childs_pages(
    ksm_alone: KsmAlone, books: ReadBooks, region: RegionFactory, fork: Fork
) -> None:
    """What a child inherited stays merged, and what it holds, when the parent has let go."""
    pages = ksm_alone.merge(region(6))
    content = pages.read()
    copied = pages.seen_from(fork(pages.process))
    ksm_alone.stop()
    pages.unmap()
    for _ in range(2):
        ksm_alone.pass_once()
    books().assert_has(shared=1, sharing=5)
    assert_merged_into_one(copied)
    assert copied.read() == content
    copied.advise(lib.MADV_UNMERGEABLE)
    assert_unmerged(copied, content)


@pytest.mark.parametrize("end", [Process.kill, Process.exit], ids=["killed", "exits"])
def test_end_of_a_process_takes_it_out_of_the_books(
    end: Callable[[Process], int],
    ksm_alone: KsmAlone,
    books: ReadBooks,
    region: RegionFactory,
    start_process: Callable[[], Process],
) -> None:
    """Its pages stay in the books until ksmd next passes by, and not for longer."""
    pattern = unique_pattern()
    kept = ksm_alone.merge(region(3, pattern))
    leaving = region(5, pattern, process=start_process())
    alone = region(4, process=leaving.process)
    alone.fill(unique_tokens(4))
    alone.advise(lib.MADV_MERGEABLE)
    ksm_alone.merge(leaving)
    ksm_alone.wait_for_passes(3)
    books().assert_has(shared=1, sharing=7, unshared=4)
    end(leaving.process)
    books().assert_has(shared=1, sharing=7, unshared=4)
    for _ in range(2):
        ksm_alone.pass_once()
    books().assert_has(shared=1, sharing=2)
    assert_merged_into_one(kept)


def test_read_only_memory_merges_and_stays_read_only(
    ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """Its pages merge; a write is refused as ever, and made to a copy once it is allowed."""
    pages = region(4)
    content = pages.read()
    pages.protect(lib.PROT_READ)
    ksm_alone.merge(pages)
    ksm_alone.stop()
    assert_merged_into_one(pages)
    write = (served.store, pages.address, b"x")
    assert status_of(pages.process, *write) == -signal.SIGSEGV
    assert pages.read() == content

    pages.protect(lib.PROT_READ | lib.PROT_WRITE)
    assert_merged_into_one(pages)
    pages.write(0, b"x")
    assert_unmerged(pages.part(0, 1), b"x" + content[1:PAGE_SIZE])
    assert_merged_into_one(pages.part(1, 3))
    assert pages.part(1, 3).read() == content[PAGE_SIZE:]


def test_executable_memory_merges_and_stays_executable(
    ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """Merging changes nothing of what VmFlags say may be done with memory."""
    prot = lib.PROT_READ | lib.PROT_EXEC
    pages = region(4)
    pages.protect(prot)
    before = pages.vmas()[0].flags
    ksm_alone.merge(pages)
    assert pages.vmas()[0].flags == before | {"mg"}
    pages.advise(lib.MADV_UNMERGEABLE)
    assert pages.vmas()[0].flags == before


def test_ksm_page_is_nobodys_alone_and_dirty(merged: Region) -> None:
    """pagemap calls it shared; kpageflags calls it dirty, so that reclaim does not drop it."""
    assert not any(state.exclusive for state in merged.states())
    (flags,) = frame_flags(merged.frames()).values()
    assert flags & KPF_DIRTY
    merged.advise(lib.MADV_UNMERGEABLE)
    assert all(state.exclusive for state in merged.states())


def read_from_outside(region: Region, _: Path) -> bytes:
    """read(2) of /proc/PID/mem."""
    with Path(f"/proc/{region.process.pid}/mem").open("rb") as memory:
        memory.seek(region.address)
        return memory.read(region.length)


def read_by_process_vm(region: Region, _: Path) -> bytes:
    """process_vm_readv(2)."""
    return libc.process_vm_readv(region.process.pid, region.address, region.length)


def written_to_a_file(region: Region, file: Path) -> bytes:
    """write(2) into the page cache."""
    written = region.process.call(
        served.write_file_from, str(file), 0, region.address, region.length
    )
    assert written == region.length
    return file.read_bytes()


def written_directly(region: Region, file: Path) -> bytes:
    """write(2) with O_DIRECT: the device reads the pages."""
    written = region.process.call(
        served.write_file_from, str(file), os.O_DIRECT, region.address, region.length
    )
    assert written == region.length
    return file.read_bytes()


@pytest.mark.parametrize(
    "reader",
    [
        read_from_outside,
        pytest.param(read_by_process_vm, marks=pytest.mark.needs("cross_memory_attach")),
        written_to_a_file,
        pytest.param(written_directly, marks=pytest.mark.needs("direct_io")),
    ],
    ids=lambda reader: reader.__name__,
)
def test_readers_of_every_kind_see_the_content(
    reader: Callable[[Region, Path], bytes], merged: Region, tmp_path: Path
) -> None:
    """Whoever reads merged pages sees what the process sees, and changes nothing of it."""
    content = merged.read()
    target = merged.part(4, 8)
    assert reader(target, tmp_path / "data") == content[: target.length]
    assert merged.read() == content
    rest = (merged.part(0, 4), merged.part(12, 4))
    assert all(part.count(PageKind.KSM) == 4 for part in rest)


@pytest.mark.parametrize(
    "writer",
    [
        writers.proc_mem,
        writers.ptrace_poke,
        pytest.param(writers.process_vm, marks=pytest.mark.needs("cross_memory_attach")),
        writers.read_buffered,
        pytest.param(writers.read_direct, marks=pytest.mark.needs("direct_io")),
    ],
    ids=lambda writer: writer.__name__,
)
def test_writers_of_every_kind_leave_the_other_sharers(
    writer: writers.Writer, merged: Region, tmp_path: Path
) -> None:
    """What is written by way of the kernel or a device reaches its own pages alone."""
    (frame,) = set(merged.frames())
    content = merged.read()
    target = merged.part(4, 8)
    expected = writer(target, unique_tokens(8), tmp_path / "data")
    assert_unmerged(target, expected)
    for rest in (merged.part(0, 4), merged.part(12, 4)):
        assert set(rest.frames()) == {frame}
        assert rest.read() == content[: rest.length]
