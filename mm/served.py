# SPDX-License-Identifier: GPL-2.0
"""The far side of `mm.process`: a process that does what the test asks, call by call.

It is single-threaded and holds nothing but the interpreter and `uapi`, so that a fork is cheap and
its counters start at zero. It ends with its test: on the end of the connection, or of its parent.
"""

import errno
import importlib
import os
import pickle
import random
import signal
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import NoReturn

from uapi import ksm, libc
from uapi.libc import PAGE_SIZE, ffi, lib, pointer

NAP = 0.001  # s
FLIP_S = 20

_connection: Connection


def serve(connection: Connection) -> NoReturn:
    """Answer calls until the other side goes away."""
    global _connection  # noqa: PLW0603 the fork changes which connection is this process's
    _connection = connection
    libc.prctl(lib.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test, which may be in pdb
    try:
        connection.send((True, os.getpid()))
        while True:
            reply(connection, _outcome(connection.recv_bytes()))
    except (EOFError, ConnectionError):
        os._exit(0)


def reply(connection: Connection, outcome: bytes) -> None:
    """Send; where a limit of memory forbids even that, as soon as it no longer does."""
    while True:
        try:
            connection.send_bytes(outcome)
        except OSError as error:
            if error.errno not in {errno.ENOMEM, errno.ENOBUFS}:
                raise
            time.sleep(NAP)
        else:
            return


def _outcome(call: bytes) -> bytes:
    """Do a call. What cannot be unpickled or pickled is an error of the call's, too."""
    try:
        function, arguments = pickle.loads(call)  # noqa: S301 from our own test
        return pickle.dumps((True, function(*arguments)))
    except Exception as error:  # noqa: BLE001 the test's side raises it again
        return pickle.dumps((False, error))


def fork() -> int:
    """Fork; the child serves a connection whose descriptor comes next over this one."""
    handle = recv_handle(_connection)
    try:
        pid = os.fork()
    except OSError:
        os.close(handle)
        raise
    if pid:
        os.close(handle)
        return pid
    _connection.close()
    serve(Connection(handle))


def execute(argv: list[str], environment: dict[str, str]) -> NoReturn:
    """Replace the program by a fresh one that serves the same connection."""
    os.set_inheritable(_connection.fileno(), True)
    os.execve(argv[0], [*argv, str(_connection.fileno())], environment)


def exit_status(pid: int) -> int | None:
    """Reap a child: its exit code, negative for a signal; None while it runs."""
    reaped, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if reaped else None


def fill(address: int, patterns: list[bytes]) -> None:
    """Fill one page with each pattern, repeated; a pattern's length divides the page's."""
    buffer = ffi.buffer(pointer(address), len(patterns) * PAGE_SIZE)
    for page, pattern in enumerate(patterns):
        start = page * PAGE_SIZE
        buffer[start : start + PAGE_SIZE] = pattern * (PAGE_SIZE // len(pattern))


def store(address: int, data: bytes) -> None:
    """Write to memory with this process's own page faults."""
    ffi.memmove(pointer(address), data, len(data))


def load(address: int, length: int) -> bytes:
    """Read memory with this process's own page faults."""
    return bytes(ffi.buffer(pointer(address), length))


def store_each(address: int, tokens: list[bytes]) -> None:
    """Write one token to the start of each page."""
    for page, token in enumerate(tokens):
        store(address + page * PAGE_SIZE, token)


def read_file_into(path: str, flags: int, address: int, length: int) -> int:
    """read(2) from a file into memory; returns the bytes read."""
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        return libc.read_into(fd, address, length)
    finally:
        os.close(fd)


def write_file_from(path: str, flags: int, address: int, length: int) -> int:
    """write(2) to a new file from memory; returns the bytes written."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
    try:
        return libc.write_from(fd, address, length)
    finally:
        os.close(fd)


def churn(address: int, pages: int, rounds: int) -> None:
    """Turn pages into zeros and back, page by page, again and again."""
    for number in range(rounds):
        for page in range(pages):
            content = bytes(8) if (number + page) % 2 else number.to_bytes(8, "little")
            store(address + page * PAGE_SIZE, content)


def map_over(address: int, length: int) -> int:
    """Map fresh anonymous memory over what is there."""
    flags = lib.MAP_PRIVATE | lib.MAP_ANONYMOUS | lib.MAP_FIXED
    return libc.mmap(length, flags=flags, address=address)


def map_memfd_privately(length: int) -> int:
    """Map a new file of tmpfs privately, bytes; the file lives as long as the mapping."""
    fd = os.memfd_create("private")
    try:
        os.ftruncate(fd, length)
        return map_private_file(fd, length)
    finally:
        os.close(fd)


def map_private_file(fd: int, length: int) -> int:
    """Map a file privately, bytes."""
    return libc.mmap(length, flags=lib.MAP_PRIVATE, fd=fd)


def map_memfd_shared(length: int, prot: int) -> int:
    """Map a new file of tmpfs shared, bytes; a mapping that is not writable has no way to be."""
    fd = os.memfd_create("shared")
    try:
        os.ftruncate(fd, length)
        flags = os.O_RDWR if prot & lib.PROT_WRITE else os.O_RDONLY
        opened = os.open(f"/proc/self/fd/{fd}", flags)
        try:
            return libc.mmap(length, prot, lib.MAP_SHARED, fd=opened)
        finally:
            os.close(opened)
    finally:
        os.close(fd)


def memfd_of(content: bytes) -> int:
    """A new file of tmpfs with that content; returns its descriptor."""
    fd = os.memfd_create("file")
    os.write(fd, content)
    return fd


def content_of(fd: int, length: int) -> bytes:
    """The first bytes of a file."""
    return os.pread(fd, length, 0)


def map_file_privately(path: str, length: int) -> int:
    """Map a file or a device privately, bytes."""
    fd = os.open(path, os.O_RDWR)
    try:
        return map_private_file(fd, length)
    finally:
        os.close(fd)


def grow_heap(length: int) -> int:
    """Put so many bytes, whole pages, at the end of the heap; returns the address."""
    end = libc.sbrk(0)
    libc.sbrk(-end % PAGE_SIZE + length)
    return end + -end % PAGE_SIZE


def clear_soft_dirty() -> None:
    """Clear the soft-dirty bit in all of this process's PTEs."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("4")


def map_more_than_memory(memory: int) -> int:
    """Map a VMA no fork can copy under heuristic overcommit: 1.2 times `memory` bytes.

    Each step asks for less than there is; fork asks for the whole VMA at once.
    """
    step = memory * 6 // 10 // PAGE_SIZE * PAGE_SIZE
    return libc.mremap(libc.mmap(step), step, 2 * step, lib.MREMAP_MAYMOVE)


def flip(address: int, pages: int, times: int) -> int:
    """Change the first byte of each of so many equal pages, and change it back.

    ksmd, which merges what it has seen twice, comes to meet the changes, which are made from the
    last page to the first. Where its passes take long, it is less often, so as to end within
    FLIP_S. Returns how many changes were lost.
    """
    memory = ffi.buffer(ffi.cast("char *", address), pages * PAGE_SIZE)
    places = range(0, pages * PAGE_SIZE, PAGE_SIZE)
    equal = memory[0]
    other = bytes([equal[0] ^ 1])
    settings, dwell = ksm.Ksm(), random.Random(0)  # noqa: S311 - repeatable, not secret
    lost, first, began = 0, settings.full_scans, time.monotonic()
    for _ in range(times):
        if time.monotonic() > began + FLIP_S:
            break
        passes = max(settings.full_scans - first, 1)
        longest = 3 * (time.monotonic() - began) / passes
        time.sleep(dwell.uniform(0, longest))
        for place in reversed(places):
            memory[place] = other
        time.sleep(longest / 6)
        lost += sum(memory[place] != other for place in places)
        for place in places:
            memory[place] = equal
    return lost


def split_until_refused(address: int, parts: int) -> int:
    """Make VMAs of reserved memory, by another protection for every second page, to the limit.

    Returns how many of the `parts` pages to be made VMAs were left when the kernel refused.
    """
    for part in range(parts):
        try:
            libc.mprotect(address + 2 * part * PAGE_SIZE, PAGE_SIZE, lib.PROT_READ)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            return parts - part
    return 0


def advice_time(address: int, length: int, advice: int) -> int:
    """The processor time that madvise(2) takes, ns."""
    before = time.process_time_ns()
    libc.madvise(address, length, advice)
    return time.process_time_ns() - before


def fork_errno() -> int:
    """errno of a fork that is to fail; one that succeeds is undone and gives 0."""
    try:
        pid = os.fork()
    except OSError as error:
        return error.errno or 0
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return 0


def fork_while_refilling(address: int, pages: int, forks: int) -> None:
    """Fork children that exit at once, each while ksmd places pages just filled with zeros."""
    zeros = [bytes(8)] * pages
    for _ in range(forks):
        fill(address, zeros)
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)


def fork_faulting_merger(forks: int) -> int:
    """Fork children that mark a page for KSM and die of a fault beyond it; how many died of it."""
    died = 0
    for _ in range(forks):
        pid = os.fork()
        if not pid:
            address = libc.mmap(2 * PAGE_SIZE)
            libc.munmap(address + PAGE_SIZE, PAGE_SIZE)
            store(address, b"x")
            libc.madvise(address, PAGE_SIZE, lib.MADV_MERGEABLE)
            store(address + PAGE_SIZE, b"x")
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        died += os.waitstatus_to_exitcode(status) == -signal.SIGSEGV
    return died


if __name__ == "__main__":
    # Calls name this module by its own name, not as __main__.
    importlib.import_module("mm.served").serve(Connection(int(sys.argv[1])))
