# SPDX-License-Identifier: GPL-2.0
"""One run of a program, with the time it took."""

import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Run:
    """How a program ended and what it used."""

    wall_s: float
    cpu_s: float  # user and system time, its own and that of the children it waited for
    exit_code: int  # negative: the signal that ended it
    timed_out: bool
    output: str  # stdout and stderr, as they came

    @property
    def tail(self) -> str:
        """The last lines of its output, to go with an error."""
        return "\n".join(self.output.splitlines()[-30:])


def measure(command: Sequence[str], directory: Path, timeout_s: float) -> Run:
    """Run `command` in `directory`; after `timeout_s` seconds it is killed with its children.

    Raises OSError when it cannot be started.
    """
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        child = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        ended = False
        try:
            ended = _ends_within(child.pid, timeout_s)
        finally:
            if not ended:
                os.killpg(child.pid, signal.SIGKILL)
            _, status, usage = os.wait4(child.pid, 0)
            wall_s = time.perf_counter() - start
            child.returncode = os.waitstatus_to_exitcode(status)
        cpu_s = usage.ru_utime + usage.ru_stime
        return Run(wall_s, cpu_s, child.returncode, not ended, _text(output))


def _ends_within(pid: int, timeout_s: float) -> bool:
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(descriptor)


def _text(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode("utf-8", errors="replace")
