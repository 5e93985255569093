# SPDX-License-Identifier: GPL-2.0
"""userfaultfd(2): registration, write protection, moving pages.

Source: Documentation/admin-guide/mm/userfaultfd.rst. Runs in the process whose memory it is for.
"""

import errno
import os
import select
import struct
from typing import NamedTuple

from uapi.libc import PAGE_SIZE, failure, ffi, ioctl, lib
from uapi.syscalls import syscall_number


def features() -> int:
    """UFFD_FEATURE_* bits the kernel offers. Raises OSError without CONFIG_USERFAULTFD."""
    fd = _open()
    try:
        api = ffi.new("struct uffdio_api *", {"api": lib.UFFD_API})
        ioctl(fd, lib.UFFDIO_API, api)
        return int(api.features)
    finally:
        os.close(fd)


def _open() -> int:
    number = syscall_number("userfaultfd")
    fd = lib.syscall(number, ffi.cast("unsigned long", os.O_CLOEXEC | os.O_NONBLOCK))
    if fd < 0:
        raise failure("userfaultfd(O_CLOEXEC | O_NONBLOCK)")
    return int(fd)


def open_userfaultfd(wanted: int = 0) -> int:
    """A userfaultfd with the features `wanted`. Raises OSError (EINVAL: one is unknown)."""
    fd = _open()
    api = ffi.new("struct uffdio_api *", {"api": lib.UFFD_API, "features": wanted})
    try:
        ioctl(fd, lib.UFFDIO_API, api)
    except OSError:
        os.close(fd)
        raise
    return fd


def register(fd: int, address: int, length: int, mode: int) -> None:
    """UFFDIO_REGISTER of a range, bytes."""
    argument = ffi.new(
        "struct uffdio_register *", {"range": {"start": address, "len": length}, "mode": mode}
    )
    ioctl(fd, lib.UFFDIO_REGISTER, argument)


def write_protect(fd: int, address: int, length: int) -> None:
    """UFFDIO_WRITEPROTECT of a range, bytes."""
    _write_protect(fd, address, length, lib.UFFDIO_WRITEPROTECT_MODE_WP)


def write_unprotect(fd: int, address: int, length: int) -> None:
    """UFFDIO_WRITEPROTECT without its mode: whoever waits to write goes on."""
    _write_protect(fd, address, length, 0)


def _write_protect(fd: int, address: int, length: int, mode: int) -> None:
    argument = ffi.new(
        "struct uffdio_writeprotect *", {"range": {"start": address, "len": length}, "mode": mode}
    )
    ioctl(fd, lib.UFFDIO_WRITEPROTECT, argument)


def move(fd: int, destination: int, source: int, length: int) -> int:
    """UFFDIO_MOVE (Linux 6.8); returns the bytes moved."""
    argument = ffi.new("struct uffdio_move *", {"dst": destination, "src": source, "len": length})
    ioctl(fd, lib.UFFDIO_MOVE, argument)
    return int(argument.move)


def copy(fd: int, destination: int, source: int, length: int) -> int:
    """UFFDIO_COPY: fill missing pages from `source`; returns the bytes copied."""
    argument = ffi.new("struct uffdio_copy *", {"dst": destination, "src": source, "len": length})
    ioctl(fd, lib.UFFDIO_COPY, argument)
    return int(argument.copy)


def place_zeropage(fd: int, address: int, length: int) -> int:
    """UFFDIO_ZEROPAGE: map the zero page where pages are missing; returns the bytes."""
    argument = ffi.new("struct uffdio_zeropage *", {"range": {"start": address, "len": length}})
    ioctl(fd, lib.UFFDIO_ZEROPAGE, argument)
    return int(argument.zeropage)


class Fault(NamedTuple):
    """A page fault that waits for the monitor."""

    address: int  # without its place in the page
    flags: int  # UFFD_PAGEFAULT_FLAG_*


def wait_for_fault(fd: int, deadline: float = 30.0) -> Fault:
    """The next page fault. Raises TimeoutError when none comes within `deadline` s."""
    if not select.select([fd], [], [], deadline)[0]:
        raise TimeoutError(f"no page fault within {deadline:.0f} s")
    event, flags, address = struct.unpack_from("=B7xQQ", os.read(fd, 32))
    if event != lib.UFFD_EVENT_PAGEFAULT:
        raise ValueError(f"event {event:#x} is no page fault")
    return Fault(address & -PAGE_SIZE, flags)


def pending_events(fd: int) -> int:
    """How many events wait to be read, at most one buffer of them; reading takes them."""
    try:
        return len(os.read(fd, 32 * 64)) // 32
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
        return 0
