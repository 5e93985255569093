# SPDX-License-Identifier: GPL-2.0
"""The pretended device of CONFIG_TEST_HMM, which reaches a process's memory as a GPU would.

Source: lib/test_hmm_uapi.h; no header of user space has it. Runs in the process whose memory it is.
"""

import errno
import os
from collections.abc import Iterator

from uapi.libc import PAGE_SIZE, ffi, ioctl

DEVICE = "/dev/hmm_dmirror0"
WRITE = 0xC0284801
MIGRATE = 0xC0284802
EXCLUSIVE = 0xC0284805
CHECK_EXCLUSIVE = 0xC0284806


def open_mirror() -> int:
    """Let the device at this process's memory; it is rid of it when the descriptor is closed."""
    return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)


def hold(mirror: int, address: int, pages: int) -> bytes:
    """Give pages to the device until the process touches them; what the device reads in them.

    Raises OSError: ENOENT where they were taken from it before it could read.
    """
    content = bytearray(pages * PAGE_SIZE)
    _command(mirror, EXCLUSIVE, address, pages, content)
    return bytes(content)


def write(mirror: int, address: int, content: bytes) -> None:
    """Have the device write whole pages."""
    _command(mirror, WRITE, address, len(content) // PAGE_SIZE, bytearray(content))


def migrate(mirror: int, address: int, pages: int) -> bytes:
    """Move pages to the device's own memory; what the device reads in them.

    They come back when the process touches them. Raises OSError: EBUSY, EFAULT where some stayed.
    """
    content = bytearray(pages * PAGE_SIZE)
    _command(mirror, MIGRATE, address, pages, content)
    return bytes(content)


def held(mirror: int, address: int, pages: int) -> int:
    """How many of the pages the device holds."""
    return sum(_are_held(mirror, address, pages))


def _are_held(mirror: int, address: int, pages: int) -> Iterator[bool]:
    for page in range(pages):
        try:
            _command(mirror, CHECK_EXCLUSIVE, address + page * PAGE_SIZE, 1, bytearray())
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            yield True
        else:
            yield False


def _command(mirror: int, request: int, address: int, pages: int, content: bytearray) -> None:
    buffer = ffi.from_buffer(content)
    # struct hmm_dmirror_cmd: addr, ptr, npages, and two that the device sets
    command = ffi.new("uint64_t[5]", [address, int(ffi.cast("uintptr_t", buffer)), pages, 0, 0])
    ioctl(mirror, request, command)
