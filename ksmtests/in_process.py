# SPDX-License-Identifier: GPL-2.0
"""What a process under test is told to do with itself: called through `Process.call`."""

import ctypes
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from uapi import libc
from uapi.libc import PAGE_SIZE, lib
from uapi.settings import write_value

NOBODY = 65534  # a user and a group that own nothing
ASK = f"import ctypes; print(ctypes.CDLL(None).prctl({lib.PR_GET_MEMORY_MERGE}, 0, 0, 0, 0))"


def become_nobody() -> None:
    """Give up every privilege, for good."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def opening_errno(path: str, flags: int) -> int:
    """errno of an open(2); 0 where it succeeds."""
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return error.errno or 0
    return 0


def write_in_turn(path: str, values: str, rounds: int) -> None:
    """Write one value of one letter after the other to a file."""
    for _ in range(rounds):
        for value in values:
            write_value(Path(path), value)


def madvise_errno(address: int, length: int, advice: int) -> int:
    """errno of madvise(2); 0 where it succeeds."""
    try:
        libc.madvise(address, length, advice)
    except OSError as error:
        return error.errno or 0
    return 0


def leave_zombie() -> int:
    """A child that has ended, and is not reaped."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def start_thread() -> int:
    """A thread that does nothing, until the process ends; its TID."""
    threads: list[int] = []
    ready = threading.Event()

    def rest() -> None:
        threads.append(threading.get_native_id())
        ready.set()
        threading.Event().wait()

    threading.Thread(target=rest, daemon=True).start()
    ready.wait()
    return threads[0]


def set_memory_merge_in_thread(enable: int) -> None:
    """PR_SET_MEMORY_MERGE, in another thread than the one that serves."""
    thread = threading.Thread(target=libc.set_memory_merge, args=(enable,))
    thread.start()
    thread.join()


def grow_heap(pages: int) -> int:
    """Move the program break (brk(2)); the address from which on the heap is new."""
    sbrk = ctypes.CDLL(None).sbrk
    sbrk.restype, sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    end = int(sbrk(0) or 0)
    sbrk(-end % PAGE_SIZE)
    return int(sbrk(pages * PAGE_SIZE) or 0)


def ask_program() -> int:
    """What PR_GET_MEMORY_MERGE says in a program started by vfork(2) and exec."""
    command = [sys.executable, "-S", "-c", ASK]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


def has_mergeable_memory(cat: str, user: int) -> bool:
    """Whether the program `cat`, started as a user, has memory that is marked for KSM."""
    command = [cat, "/proc/self/smaps"]
    smaps = subprocess.run(command, capture_output=True, check=True, user=user, group=user).stdout
    return re.search(rb"^VmFlags:.* mg\b", smaps, re.MULTILINE) is not None
