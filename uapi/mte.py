# SPDX-License-Identifier: GPL-2.0
"""Memory tags of 64-bit ARM: Documentation/arch/arm64/memory-tagging-extension.rst.

Tags are set and read through ptrace(2), so that no process has to run instructions of its own. The
numbers are those of the architecture's asm/mman.h and asm/ptrace.h.
"""

from uapi import libc
from uapi.libc import ffi, pointer

PROT_MTE = 0x20  # mapped memory has tags
PTRACE_PEEKMTETAGS = 33
PTRACE_POKEMTETAGS = 34
GRANULE = 16  # bytes to a tag


def set_tags(pid: int, address: int, tags: bytes) -> None:
    """Tag as many granules from `address` on, in a process that is stopped by ptrace."""
    _transfer(PTRACE_POKEMTETAGS, pid, address, bytearray(tags))


def get_tags(pid: int, address: int, granules: int) -> bytes:
    """The tags of granules from `address` on, in a process that is stopped by ptrace."""
    tags = bytearray(granules)
    _transfer(PTRACE_PEEKMTETAGS, pid, address, tags)
    return bytes(tags)


def _transfer(request: int, pid: int, address: int, tags: bytearray) -> None:
    """Raises OSError where no granule, or not every one, was to be reached."""
    buffer = ffi.from_buffer(tags)
    vector = ffi.new("struct iovec *", (pointer(int(ffi.cast("uintptr_t", buffer))), len(tags)))
    libc.ptrace(request, pid, address, int(ffi.cast("uintptr_t", vector)))
    if vector.iov_len != len(tags):
        raise OSError(f"{vector.iov_len} of {len(tags)} tags from {address:#x} on")
