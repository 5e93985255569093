# SPDX-License-Identifier: GPL-2.0
"""A program whose output is watched for the moment when it says something."""

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

END_S = 15.0  # for a program that is interrupted, to clear up behind itself
READ = 1 << 16  # bytes
TAIL = 30  # lines


@dataclass(frozen=True)
class Watched:
    """When a program said what it was watched for, and how it ended."""

    first_s: float | None  # from its start; None where it never said so
    end_s: float  # from its start
    exit_code: int  # negative: the signal that ended it
    timed_out: bool
    output: str  # stdout and stderr, as they came

    @property
    def tail(self) -> str:
        """The last lines of its output, to go with an error."""
        return "\n".join(self.output.splitlines()[-TAIL:])


def watch(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    wanted: re.Pattern[bytes],
) -> Watched:
    """Run `command` in `directory`, and note when its output first has `wanted`.

    Whatever it leaves running is killed at its end. It is interrupted, and what is left is killed,
    after `timeout_s` seconds and with any exception. Raises OSError where it cannot be started.
    """
    begin = time.perf_counter()
    child = subprocess.Popen(
        command,
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )
    assert child.stdout is not None
    output = _Output(child.stdout, wanted)
    ended = os.pidfd_open(child.pid)
    in_time = False
    try:
        in_time = output.follow(ended, begin, timeout_s)
    finally:
        end = time.perf_counter()
        _finish(child, ended)
        os.close(ended)
    output.drain()
    child.stdout.close()
    text = output.data.decode("utf-8", errors="replace")
    return Watched(output.first_s, end - begin, child.returncode, not in_time, text)


class _Output:
    def __init__(self, stream: IO[bytes], wanted: re.Pattern[bytes]) -> None:
        self.data = bytearray()
        self.first_s: float | None = None
        self._wanted = wanted
        self._descriptor = stream.fileno()
        os.set_blocking(self._descriptor, False)

    def follow(self, ended: int, begin: float, timeout_s: float) -> bool:
        """Read until the program has ended; whether that was in time."""
        sources = [ended, self._descriptor]
        while True:
            left_s = max(0.0, begin + timeout_s - time.perf_counter())
            ready, _, _ = select.select(sources, [], [], left_s)
            if self._descriptor in ready and not self._read(begin):
                sources.remove(self._descriptor)
            if ended in ready or not ready:
                return ended in ready

    def _read(self, begin: float) -> bool:
        data = os.read(self._descriptor, READ)
        self.data += data
        if self.first_s is None and self._wanted.search(self.data):
            self.first_s = time.perf_counter() - begin
        return bool(data)

    def drain(self) -> None:
        """Read what is left of the output of a program that has ended."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._descriptor, READ):
                self.data += data


def _finish(child: subprocess.Popen[bytes], ended: int) -> None:
    """End the program and its children. Until it is waited for, its group's id is its own."""
    try:
        if not select.select([ended], [], [], 0)[0]:
            os.killpg(child.pid, signal.SIGINT)
            select.select([ended], [], [], END_S)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
