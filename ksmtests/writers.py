# SPDX-License-Identifier: GPL-2.0
"""Ways into a process's memory that go through get_user_pages, or the kernel's own stores.

Each takes a region, the token for each of its pages and a file to read them from, and returns
what the region must hold afterwards. The process's own page faults are not among them.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from ksmtests.expectations import overwritten
from mm import served
from mm.process import Process
from mm.region import Region
from uapi import io_uring, libc
from uapi.libc import LONG_BYTES, lib

Writer = Callable[[Region, list[bytes], Path], bytes]


def proc_mem(region: Region, tokens: list[bytes], _: Path) -> bytes:
    """write(2) to /proc/PID/mem."""
    content = overwritten(region.read(), tokens)
    fd = os.open(f"/proc/{region.process.pid}/mem", os.O_RDWR)
    try:
        for address, token in zip(region.addresses(), tokens, strict=True):
            os.pwrite(fd, token, address)
    finally:
        os.close(fd)
    return content


@contextlib.contextmanager
def stopped(process: Process) -> Iterator[int]:
    """Hold a process by ptrace; its number."""
    pid = process.pid
    libc.ptrace(lib.PTRACE_SEIZE, pid)
    libc.ptrace(lib.PTRACE_INTERRUPT, pid)
    os.waitpid(pid, 0)
    try:
        yield pid
    finally:
        libc.ptrace(lib.PTRACE_DETACH, pid)


def poke_words(region: Region, words: list[bytes]) -> None:
    """PTRACE_POKEDATA of one word to each page; memory protection does not stop it."""
    with stopped(region.process) as pid:
        for address, word in zip(region.addresses(), words, strict=True):
            libc.ptrace(lib.PTRACE_POKEDATA, pid, address, int.from_bytes(word, sys.byteorder))


def ptrace_poke(region: Region, tokens: list[bytes], _: Path) -> bytes:
    """PTRACE_POKEDATA, word by word."""
    words = [token[:LONG_BYTES] for token in tokens]
    content = overwritten(region.read(), words)
    poke_words(region, words)
    return content


def process_vm(region: Region, tokens: list[bytes], _: Path) -> bytes:
    """process_vm_writev(2)."""
    content = overwritten(region.read(), tokens)
    for address, token in zip(region.addresses(), tokens, strict=True):
        libc.process_vm_writev(region.process.pid, address, token)
    return content


def _read_file(region: Region, content: bytes, file: Path, flags: int) -> bytes:
    file.write_bytes(content)
    got = region.process.call(
        served.read_file_into, str(file), flags, region.address, region.length
    )
    if got != region.length:
        raise OSError(f"read {got} of {region.length} bytes from {file}")
    return content


def read_buffered(region: Region, tokens: list[bytes], file: Path) -> bytes:
    """read(2) from the page cache: copied by the kernel, which takes the fault."""
    return _read_file(region, overwritten(region.read(), tokens), file, 0)


def read_direct(region: Region, tokens: list[bytes], file: Path) -> bytes:
    """read(2) with O_DIRECT: the device writes to the pages."""
    return _read_file(region, overwritten(region.read(), tokens), file, os.O_DIRECT)


def pinned_buffer(region: Region, _: list[bytes], __: Path) -> bytes:
    """A fixed buffer of io_uring: the pages are pinned for writing, nothing is written yet."""
    content = region.read()
    region.process.call(io_uring.pin_pages, region.address, region.length)
    return content


def populate_write(region: Region, _: list[bytes], __: Path) -> bytes:
    """MADV_POPULATE_WRITE: pages become writable, their content stays."""
    content = region.read()
    region.advise(lib.MADV_POPULATE_WRITE)
    return content


def mlock(region: Region, _: list[bytes], __: Path) -> bytes:
    """mlock(2) faults private writable memory in for writing."""
    content = region.read()
    region.process.call(libc.mlock, region.address, region.length)
    return content
