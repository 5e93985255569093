# SPDX-License-Identifier: GPL-2.0
"""/proc/PID/smaps: what is read from kernels with and without the lines of interest."""

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uapi import libc, smaps
from uapi.libc import PAGE_SIZE, lib
from uapi.smaps import Vma, parse_smaps, total_pages, vmas_in

EVERYWHERE = 1 << 64
KIB_PER_PAGE = PAGE_SIZE // 1024
# 6.18 on x86-64, shortened. Sizes are given in pages, to suit any page size; `$` is a line's end
# behind a space.
LINUX_6_18 = """\
55d0c3a00000-55d0c3a02000 r--p 00000000 fe:00 260131                    /opt/with spaces/a (deleted)
Size:           {2} kB
KernelPageSize: {1} kB
MMUPageSize:    {1} kB
Rss:            {2} kB
Pss_Dirty:      {0} kB
Anonymous:      {0} kB
KSM:            {0} kB
LazyFree:       {0} kB
THPeligible:           0
VmFlags: rd mr mw me sd $
7f1200000000-7f1200200000 rw-p 00000000 00:00 0 $
Size:           {512} kB
Rss:            {512} kB
Anonymous:      {512} kB
KSM:            {500} kB
THPeligible:           0
ProtectionKey:         0
VmFlags: rd wr mr mw me ac nh mg sd $
7ffd1c900000-7ffd1c921000 rw-p 00000000 00:00 0                          [stack]
Size:           {33} kB
Rss:            {3} kB
Anonymous:      {3} kB
KSM:            {1} kB
VmFlags: rd wr mr mw me gd ac $
"""
LINUX_6_1 = """\
00010000-00031000 r-xp 00000000 b3:02 1234       /usr/bin/python3.11
Size:           {33} kB
Rss:            {30} kB
Anonymous:      {0} kB
b6f00000-b6f20000 rw-p 00000000 00:00 0 $
Size:           {32} kB
Rss:            {32} kB
Anonymous:      {32} kB
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Size:           {1} kB
Rss:            {0} kB
Anonymous:      {0} kB
"""


def in_kib(text: str) -> str:
    """Replace {pages} by as many KiB, right-aligned as the kernel does."""
    return text.replace("$\n", "\n").format(*(f"{pages * KIB_PER_PAGE:8}" for pages in range(513)))


def parsed(text: str, first: int = 0, last: int = EVERYWHERE) -> list[Vma]:
    """The VMAs of a text in pages."""
    return parse_smaps(in_kib(text), first, last)


def test_every_vma_is_found_with_its_addresses() -> None:
    """Whatever its name is, or if it has none."""
    assert [(vma.start, vma.end) for vma in parsed(LINUX_6_18)] == [
        (0x55D0C3A00000, 0x55D0C3A02000),
        (0x7F1200000000, 0x7F1200200000),
        (0x7FFD1C900000, 0x7FFD1C921000),
    ]


def test_amounts_are_pages_of_their_own_vma() -> None:
    """Only lines that are amounts of memory are kept."""
    _, region, stack = parsed(LINUX_6_18)
    assert region.pages == {"Size": 512, "Rss": 512, "Anonymous": 512, "KSM": 500}
    assert stack.pages == {"Size": 33, "Rss": 3, "Anonymous": 3, "KSM": 1}
    assert total_pages([region, stack], "KSM") == 501


def test_flags_belong_to_their_own_vma() -> None:
    """`mg` says which VMA is mergeable."""
    assert [vma.flags for vma in parsed(LINUX_6_18)] == [
        frozenset(("rd", "mr", "mw", "me", "sd")),
        frozenset(("rd", "wr", "mr", "mw", "me", "ac", "nh", "mg", "sd")),
        frozenset(("rd", "wr", "mr", "mw", "me", "gd", "ac")),
    ]


def test_a_kernel_without_ksm_and_flag_lines() -> None:
    """No flags are an empty set; a missing amount is an error where it is asked for."""
    vmas = parsed(LINUX_6_1)
    assert [vma.flags for vma in vmas] == [frozenset()] * 3
    assert total_pages(vmas, "Rss") == 62
    assert vmas[-1].end == 0xFFFFFFFFFF601000
    with pytest.raises(KeyError, match="KSM"):
        total_pages(vmas, "KSM")


@pytest.mark.parametrize(
    ("first", "last", "starts"),
    [
        (0x7F1200000000, 0x7F1200001000, [0x7F1200000000]),
        (0x7F12001FF000, 0x7F1200200000, [0x7F1200000000]),
        (0x7F11FFFFF000, 0x7F1200000000, []),
        (0x7F1200200000, 0x7F1200300000, []),
        (0x7F11FFFFF000, 0x7FFD1C900001, [0x7F1200000000, 0x7FFD1C900000]),
    ],
)
def test_a_range_selects_the_vmas_that_touch_it(first: int, last: int, starts: list[int]) -> None:
    """A VMA that only ends or begins at the range's edge is not in it."""
    assert [vma.start for vma in parsed(LINUX_6_18, first, last)] == starts


def test_a_process_without_memory_has_no_vmas() -> None:
    """A zombie's file is empty."""
    assert parse_smaps("", 0, EVERYWHERE) == []


@pytest.mark.parametrize(
    "text",
    [
        "Rss: 4 kB\n",
        "\n",
        " 55d0c3a00000-55d0c3a02000 r--p 00000000 fe:00 260131\n",
        "Rss: 4 kB\n55d0c3a00000-55d0c3a02000 r--p 00000000 fe:00 260131\n",
        "55d0c3a00000 r--p\n",
    ],
)
def test_another_beginning_is_refused(text: str) -> None:
    """Something that is not smaps is not read as a process without memory."""
    with pytest.raises(ValueError, match="smaps begins with"):
        parse_smaps(text, 0, EVERYWHERE)


LINES = st.one_of(
    st.just("7f1200000000-7f1200200000 rw-p 00000000 00:00 0 "),
    st.just("KSM:                 4 kB"),
    st.just("VmFlags: rd wr mg "),
    st.text(),
    st.from_regex(r"[0-9a-f]+-[0-9a-f]+ .*"),
    st.from_regex(r"\w+:\s+\d+ kB"),
)


@given(st.lists(LINES).map("\n".join), st.integers(min_value=0), st.integers(min_value=0))
def test_no_text_raises_anything_but_value_error(text: str, first: int, last: int) -> None:
    """Nor does it make up a VMA outside the range."""
    with contextlib.suppress(ValueError):
        assert all(vma.start < last and vma.end > first for vma in parse_smaps(text, first, last))


def test_own_memory_is_found_in_the_real_file() -> None:
    """Pages written to are resident and anonymous, in the VMA that was mapped."""
    pages = 16
    address = libc.mmap(pages * PAGE_SIZE)
    libc.madvise(address, pages * PAGE_SIZE, lib.MADV_DONTDUMP)  # a VMA of its own
    libc.ffi.memmove(libc.pointer(address), b"x" * (3 * PAGE_SIZE), 3 * PAGE_SIZE)
    (vma,) = vmas_in(os.getpid(), address, pages * PAGE_SIZE)
    assert (vma.start, vma.end) == (address, address + pages * PAGE_SIZE)
    assert vma.pages["Size"] == pages
    assert vma.pages["Anonymous"] >= 3
    libc.munmap(address, pages * PAGE_SIZE)


def test_anonymous_pages_of_a_process_are_counted() -> None:
    """RssAnon of status is at least what was just written."""
    assert smaps.rss_anon(os.getpid()) > 100
