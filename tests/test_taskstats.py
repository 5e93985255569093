# SPDX-License-Identifier: GPL-2.0
"""Delay accounting: every layout of struct taskstats there has been, and the kernel's own answer.

Layouts are written down from include/uapi/linux/taskstats.h as C types, and laid out here as a C
compiler would; the code under test has no part in it.
"""

import os
import struct
from collections.abc import Callable

import pytest

from mm.process import Process
from mm.region import Region, unique_pattern
from plugins.taskstats import CopyCount
from uapi.taskstats import DelayMessage, copies_in

NLA_F_NESTED = 0x8000
TYPE_PID, TYPE_STATS, TYPE_AGGR_PID, TYPE_NULL = 1, 3, 4, 6
FAMILY, COMMAND_NEW = 27, 2  # the family's number is given at boot
COPIES = 0x1122334455667788

HEAD = """
    u16 version; u32 ac_exitcode; u8 ac_flag; u8 ac_nice;
    aligned u64 cpu_count; u64 cpu_delay_total; extremes cpu;
    u64 blkio_count; u64 blkio_delay_total; extremes blkio;
    u64 swapin_count; u64 swapin_delay_total; extremes swapin;
    u64 cpu_run_real_total; u64 cpu_run_virtual_total;
    char32 ac_comm; aligned u8 ac_sched; u8 pad0; u8 pad1; u8 pad2;
    aligned u32 ac_uid; u32 ac_gid; u32 ac_pid; u32 ac_ppid; u32 ac_btime;
    aligned u64 ac_etime; u64 ac_utime; u64 ac_stime; u64 ac_minflt; u64 ac_majflt;
    u64 coremem; u64 virtmem; u64 hiwater_rss; u64 hiwater_vm;
    u64 read_char; u64 write_char; u64 read_syscalls; u64 write_syscalls;
    u64 read_bytes; u64 write_bytes; u64 cancelled_write_bytes; u64 nvcsw; u64 nivcsw;
    u64 ac_utimescaled; u64 ac_stimescaled; u64 cpu_scaled_run_real_total;
    u64 freepages_count; u64 freepages_delay_total; extremes freepages;
    u64 thrashing_count; u64 thrashing_delay_total; extremes thrashing;
    u64 ac_btime64;
    u64 compact_count; u64 compact_delay_total; extremes compact;
    u32 ac_tgid; aligned u64 ac_tgetime; u64 ac_exe_dev; u64 ac_exe_inode;
"""
WPCOPY = "u64 wpcopy_count; u64 wpcopy_delay_total; extremes wpcopy;"
IRQ = "u64 irq_count; u64 irq_delay_total; extremes irq;"
KINDS = ("cpu", "blkio", "swapin", "freepages", "thrashing", "compact", "wpcopy", "irq")
EXTREMES_AT_END = "".join(f"u64 {kind}_delay_max; u64 {kind}_delay_min;" for kind in KINDS)
TIMES = "".join(f"u64 {kind}_max_sec; u64 {kind}_max_nsec;" for kind in KINDS)
LAYOUTS = {
    12: HEAD,
    13: HEAD + WPCOPY,
    14: HEAD + WPCOPY + IRQ,
    15: HEAD + WPCOPY + IRQ,
    16: HEAD + WPCOPY + IRQ + EXTREMES_AT_END,
    17: HEAD + WPCOPY + IRQ + EXTREMES_AT_END + TIMES,
}
SIZES = {13: 416, 14: 432, 15: 560, 16: 560, 17: 688}  # bytes
C_TYPES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "char32": "32s"}
MOST_CHILDREN = 20  # until a clock that may stand still saw all copies
INTERLEAVED = 15  # the only version with minima and maxima beside the totals


def fields(version: int) -> list[tuple[str, str, bool]]:
    """(C type, name, whether aligned to 8 bytes) of each field."""
    found = []
    for declaration in LAYOUTS[version].split(";")[:-1]:
        *attributes, kind, name = declaration.split()
        if kind != "extremes":
            found.append((kind, name, "aligned" in attributes or kind == "u64"))
        elif version == INTERLEAVED:
            found += [("u64", f"{name}_delay_{end}", True) for end in ("max", "min")]
    return found


def statistics(version: int) -> bytes:
    """A struct taskstats in which every number but the version and the copies is a decoy."""
    data = b""
    for number, (kind, name, aligned) in enumerate(fields(version)):
        form = C_TYPES[kind]
        alignment = 8 if aligned else struct.calcsize(form) if kind != "char32" else 1
        data += bytes(-len(data) % alignment)
        if kind == "char32":
            data += b"ksmtests".ljust(32, b"\0")
        else:
            value = {"version": version, "wpcopy_count": COPIES}.get(name, 100 + number)
            data += struct.pack(f"={form}", value)
    return data + bytes(-len(data) % 8)


def attribute(kind: int, payload: bytes) -> bytes:
    """A netlink attribute, padded."""
    data = struct.pack("=HH", 4 + len(payload), kind) + payload
    return data + bytes(-len(data) % 4)


def reply(version: int, padding: bytes = b"") -> bytes:
    """What the kernel answers to TASKSTATS_CMD_ATTR_PID."""
    inner = attribute(TYPE_PID, struct.pack("=I", 4321))
    inner += padding + attribute(TYPE_STATS, statistics(version))
    body = struct.pack("=BBH", COMMAND_NEW, 1, 0) + attribute(TYPE_AGGR_PID | NLA_F_NESTED, inner)
    return struct.pack("=IHHII", 16 + len(body), FAMILY, 0, 1, 4321) + body


def copies(message: bytes) -> int:
    """wpcopy_count as `uapi.taskstats` decodes it."""
    decoded = DelayMessage(message)
    decoded.decode()
    return copies_in(decoded)


@pytest.mark.parametrize(("version", "size"), SIZES.items())
def test_layouts_have_the_sizes_of_the_c_structs(version: int, size: int) -> None:
    """The test's own tables are right."""
    assert len(statistics(version)) == size


@pytest.mark.parametrize("version", SIZES)
def test_copies_are_found_in_every_version(version: int) -> None:
    """Whatever lies before and behind them."""
    assert copies(reply(version)) == COPIES


@pytest.mark.parametrize("version", SIZES)
def test_padding_attribute_is_passed_over(version: int) -> None:
    """Kernels without unaligned access put an empty TASKSTATS_TYPE_NULL before the struct."""
    assert copies(reply(version, attribute(TYPE_NULL, b""))) == COPIES


def test_older_version_is_refused() -> None:
    """Version 12 has no such count, and zero would be a lie."""
    with pytest.raises(ValueError, match="is version 12; wpcopy_count came with 13"):
        copies(reply(12))


@pytest.mark.skipif(os.geteuid() != 0, reason="taskstats and KSM's settings are root's alone")
def test_each_copy_on_write_fault_is_counted(
    start_process: Callable[[], Process], copy_count: CopyCount
) -> None:
    """A child that writes to pages it shares with its parent copies every one of them.

    Some child does: where the scheduler's clock stands still for a moment, a copy is not counted.
    """
    parent = start_process()
    pages = 64
    region = Region.map(parent, pages)
    region.fill(unique_pattern())
    copies = []
    for _ in range(MOST_CHILDREN):
        child = parent.fork()
        before = copy_count(child)
        region.seen_from(child).write_each([b"mine"] * pages)
        copies.append(copy_count(child) - before)
        child.kill()
        if copies[-1] >= pages:
            break
    assert copies[-1] >= pages, copies


@pytest.mark.skipif(os.geteuid() != 0, reason="taskstats and KSM's settings are root's alone")
def test_reading_counts_no_copy(
    start_process: Callable[[], Process], copy_count: CopyCount
) -> None:
    """The count stands still while pages are only read."""
    child = start_process()
    region = Region.map(child, 256)
    region.fill(unique_pattern())
    region.read()
    before = copy_count(child)
    region.read()
    assert copy_count(child) - before < region.pages
