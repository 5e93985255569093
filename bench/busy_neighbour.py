# SPDX-License-Identifier: GPL-2.0
"""A program beside the measured one that keeps KSM busy: mergeable memory that never rests.

    python -m bench.busy_neighbour --mib 64 [--seconds N]

Every pass writes each page anew: zeros, content equal to other pages' or content of its own, in
turn. It ends after N seconds, on a signal, or, when its stdin is a pipe, with whoever holds the
other end of that: it cannot outlive the bench.
"""

import argparse
import mmap
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

READY = b"ready\n"
READY_TIMEOUT_S = 60  # for the first pass, on an emulated machine
KINDS = 3  # of content: zero, equal, unique
MIB = 1 << 20


class NeighbourError(Exception):
    """The busy neighbour did not start."""


def mergeable(size: int) -> mmap.mmap:
    """Return `size` bytes of private memory that KSM may merge. Raises OSError without KSM."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # EINVAL: a kernel without huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory.madvise(mmap.MADV_MERGEABLE)
    return memory


def content(page: int, turn: int) -> bytes:
    """Return what `page` holds in pass `turn`: another kind than in the pass before."""
    kind = (page + turn) % KINDS
    if kind == 0:
        return bytes(mmap.PAGESIZE)
    seed = turn if kind == 1 else (turn << 32) + page + 1
    return seed.to_bytes(8, "little") * (mmap.PAGESIZE // 8)


def write_pass(memory: mmap.mmap, turn: int) -> None:
    """Change every page of `memory`."""
    for page in range(len(memory) // mmap.PAGESIZE):
        start = page * mmap.PAGESIZE
        memory[start : start + mmap.PAGESIZE] = content(page, turn)


def keep_busy(size: int, goes_on: Callable[[], bool]) -> None:
    """Change `size` bytes of mergeable memory, pass by pass, while `goes_on()`."""
    memory = mergeable(size)
    turn = 0
    while goes_on():
        write_pass(memory, turn)
        if turn == 0:
            sys.stdout.buffer.write(READY)
            sys.stdout.flush()
        turn += 1


def pipe_is_open(descriptor: int) -> bool:
    """Whether `descriptor` is anything but a pipe whose other end is gone."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return True
    poll = select.poll()
    poll.register(descriptor, 0)  # POLLHUP is always reported
    return not poll.poll(0)


@contextmanager
def running(mib: int = 64) -> Iterator[None]:
    """Have a busy neighbour for the length of a with block. Raises NeighbourError."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.busy_neighbour", "--mib", str(mib)],
        cwd=Path(__file__).resolve().parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        _await_ready(child)
        yield
        if child.poll() is not None:
            raise NeighbourError(f"the busy neighbour ended early, with {child.returncode}")
    finally:
        child.kill()
        child.communicate()


def _await_ready(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout is not None
    readable, _, _ = select.select([child.stdout], [], [], READY_TIMEOUT_S)
    said = os.read(child.stdout.fileno(), len(READY)) if readable else b""
    if said != READY:
        raise NeighbourError(
            f"the busy neighbour was not ready within {READY_TIMEOUT_S} s (it said {said!r}): "
            "see what `python -m bench.busy_neighbour --seconds 1` says"
        )


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m bench.busy_neighbour", description=__doc__)
    parser.add_argument("--mib", type=int, default=64, help="size of the memory (default: 64)")
    parser.add_argument("--seconds", type=float, help="when to end (default: never)")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end = time.monotonic() + options.seconds if options.seconds is not None else float("inf")
    keep_busy(options.mib * MIB, lambda: time.monotonic() < end and pipe_is_open(0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
