# SPDX-License-Identifier: GPL-2.0
"""io_uring(7) with fixed buffers: memory whose pages the kernel pins, and devices read into.

Source: include/uapi/linux/io_uring.h. One request at a time, and the rings are mapped for it alone.
"""

import os
import struct
from typing import NamedTuple

from uapi.libc import PAGE_SIZE, failure, ffi, lib, mmap, munmap, pointer

READ_FIXED, WRITE_FIXED = 4, 5  # enum io_uring_op
SQE = struct.Struct("=BBHiQQIIQHHiQQ")  # struct io_uring_sqe, 64 bytes
CQE = struct.Struct("=QiI")  # struct io_uring_cqe
SHARED_RING = lib.MAP_SHARED
_sizes: dict[int, "_Sizes"] = {}  # by descriptor of a ring


class _Sizes(NamedTuple):
    """Where things are in the rings."""

    submission_tail: int
    submission_array: int
    completion_head: int
    completions: int
    entries: int


def _long(value: int) -> object:
    return ffi.cast("unsigned long", value)


def pin_pages(address: int, length: int) -> int:
    """Pin pages as a fixed buffer (IORING_REGISTER_BUFFERS); the ring's descriptor."""
    parameters = ffi.new("struct io_uring_params *")
    ring = int(lib.syscall(lib.SYS_io_uring_setup, _long(1), parameters))
    if ring < 0:
        raise failure("io_uring_setup(1)")
    vector = ffi.new("struct iovec[1]", [(pointer(address), length)])
    if lib.syscall(
        lib.SYS_io_uring_register, _long(ring), _long(lib.IORING_REGISTER_BUFFERS), vector, _long(1)
    ):
        error = failure(f"io_uring_register({ring}, BUFFERS, [{address:#x}+{length}])")
        os.close(ring)
        raise error
    _sizes[ring] = _Sizes(
        parameters.sq_off.tail,
        parameters.sq_off.array,
        parameters.cq_off.head,
        parameters.cq_off.cqes,
        parameters.cq_entries,
    )
    return ring


def unpin_pages(ring: int) -> None:
    """Let go of the pages, at once: closing the ring would do so some time later."""
    if lib.syscall(
        lib.SYS_io_uring_register,
        _long(ring),
        _long(lib.IORING_UNREGISTER_BUFFERS),
        ffi.NULL,
        _long(0),
    ):
        raise failure(f"io_uring_register({ring}, UNREGISTER_BUFFERS)")


def read_fixed(ring: int, fd: int, address: int, length: int) -> int:
    """Have the start of a file read into the pinned pages; returns the bytes read."""
    return _transfer(ring, READ_FIXED, fd, address, length)


def write_fixed(ring: int, fd: int, address: int, length: int) -> int:
    """Have the pinned pages written to the start of a file; returns the bytes written."""
    return _transfer(ring, WRITE_FIXED, fd, address, length)


def _transfer(ring: int, operation: int, fd: int, address: int, length: int) -> int:
    at = _sizes[ring]
    prot = lib.PROT_READ | lib.PROT_WRITE
    maps = [
        mmap(PAGE_SIZE, prot, SHARED_RING, fd=ring, offset=offset)
        for offset in (lib.IORING_OFF_SQ_RING, lib.IORING_OFF_CQ_RING, lib.IORING_OFF_SQES)
    ]
    try:
        submissions, completions, entries = (ffi.buffer(pointer(each), PAGE_SIZE) for each in maps)
        entries[0 : SQE.size] = SQE.pack(
            operation, 0, 0, fd, 0, address, length, 0, 0, 0, 0, 0, 0, 0
        )
        array = at.submission_array
        submissions[array : array + 4] = struct.pack("=I", 0)
        (tail,) = struct.unpack_from("=I", submissions, at.submission_tail)
        submissions[at.submission_tail : at.submission_tail + 4] = struct.pack("=I", tail + 1)
        if (
            lib.syscall(
                lib.SYS_io_uring_enter,
                _long(ring),
                _long(1),
                _long(1),
                _long(lib.IORING_ENTER_GETEVENTS),
                ffi.NULL,
                _long(0),
            )
            != 1
        ):
            raise failure(f"io_uring_enter({ring})")
        (head,) = struct.unpack_from("=I", completions, at.completion_head)
        place = at.completions + CQE.size * (head % at.entries)
        _, result, _ = CQE.unpack_from(completions, place)
        completions[at.completion_head : at.completion_head + 4] = struct.pack("=I", head + 1)
    finally:
        for each in maps:
            munmap(each, PAGE_SIZE)
    if result < 0:
        raise OSError(-result, f"{os.strerror(-result)}: io_uring operation {operation} of {ring}")
    return int(result)
