# SPDX-License-Identifier: GPL-2.0
"""A process that exists for a test: what it is told to do, it does in its own address space."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import _cffi_backend

from mm import served
from uapi import ksm

P = ParamSpec("P")
R = TypeVar("R")

ROOT = Path(__file__).parent.parent
# Without `site` the interpreter starts twice as fast; cffi's backend is all it needs beside stdlib.
INTERPRETER = [sys.executable, "-S", "-m", "mm.served"]
ENVIRONMENT = {"PYTHONPATH": str(Path(_cffi_backend.__file__).parent)}
CALL_DEADLINE = 120  # s; a call this late is stuck in the kernel


class ProcessLost(Exception):
    """The process ended, or did not answer in time."""


def _connection_pair() -> tuple[Connection, int]:
    ours, theirs = socket.socketpair()
    return Connection(ours.detach()), theirs.detach()


class Process:
    """One address space; `call` runs a module-level function in it."""

    def __init__(self, connection: Connection, parent: "Process | None") -> None:
        self.connection = connection
        self.parent = parent
        self.pid = int(self._answer("start"))

    def call(self, function: Callable[P, R], *arguments: P.args, **_: P.kwargs) -> R:
        """The function's result, or the exception it raised, from inside the process.

        Raises ProcessLost if the process ends or does not answer within CALL_DEADLINE.
        """
        self.send(function, *arguments)
        result: R = self._answer(function.__name__)
        return result

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Start a call without waiting for its end; `answer` collects it."""
        try:
            self.connection.send((function, arguments))
        except ConnectionError as error:
            raise ProcessLost(f"process {self.pid} is gone: {error}") from error

    def answer(self) -> Any:
        """The outcome of the call that `send` started."""
        return self._answer("call")

    def _answer(self, name: str) -> Any:
        if not self.connection.poll(CALL_DEADLINE):
            raise ProcessLost(f"no answer to {name} within {CALL_DEADLINE} s")
        try:
            succeeded, result = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise ProcessLost(f"the process ended during {name}") from error
        if not succeeded:
            raise result
        return result

    def fork(self) -> "Process":
        """A child of this process, with a copy of its address space."""
        ours, theirs = _connection_pair()
        try:
            return self._fork(ours, theirs)
        except BaseException:
            ours.close()
            raise

    def _fork(self, ours: Connection, theirs: int) -> "Process":
        try:
            self.send(served.fork)
            send_handle(self.connection, theirs, self.pid)
        except ConnectionError as error:
            raise ProcessLost(f"process {self.pid} is gone: {error}") from error
        finally:
            os.close(theirs)
        pid = self._answer("fork")
        child = Process(ours, self)
        if child.pid != pid:
            raise ProcessLost(f"fork in {self.pid} gave {pid}, but {child.pid} answered")
        return child

    def execute(self) -> None:
        """exec(2) a fresh interpreter in this process."""
        self.send(served.execute, INTERPRETER, ENVIRONMENT)
        self._answer("exec")

    def ksm_stat(self) -> ksm.ProcessStat:
        """KSM's account of this address space."""
        return ksm.process_stat(self.pid)

    @property
    def zero_pages(self) -> int:
        """KSM-placed zero pages of this mm. Raises LookupError before 6.6."""
        count = self.ksm_stat().zero_pages
        if count is None:
            raise LookupError(f"/proc/{self.pid}/ksm_stat has no ksm_zero_pages (Linux 6.6)")
        return count

    @property
    def merging_pages(self) -> int:
        """Pages of this mm that share a KSM page."""
        return ksm.merging_pages(self.pid)

    def exit(self) -> int:
        """End in an orderly way; returns the exit status."""
        self.connection.close()
        return self._reap()

    def kill(self) -> int:
        """SIGKILL; returns the exit status, -SIGKILL unless it ended before."""
        os.kill(self.pid, signal.SIGKILL)
        status = self._reap()
        self.connection.close()
        return status

    def end(self) -> None:
        """Make sure that it is gone, whether its parent still lives or not."""
        if not self.alive:
            return
        if self.parent and self.parent.alive:
            self.kill()
            return
        # The parent's death has sent SIGKILL, and init reaps.
        self._wait()
        self.connection.close()

    def _reap(self) -> int:
        """Wait for the end of the process, then have its parent reap it."""
        if self.parent is None:
            raise ProcessLost(f"process {self.pid} has no parent to reap it")
        self._wait()
        status = self.parent.call(served.exit_status, self.pid)
        if status is None:
            raise ProcessLost(f"process {self.pid} ended, but its parent cannot reap it")
        return status

    def _wait(self) -> None:
        """Wait until it has ended. Raises ProcessLost after CALL_DEADLINE."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not select.select([pidfd], [], [], CALL_DEADLINE)[0]:
                raise ProcessLost(f"process {self.pid} did not end within {CALL_DEADLINE} s")
        finally:
            os.close(pidfd)

    @property
    def alive(self) -> bool:
        """Whether it still answers calls."""
        return not self.connection.closed


class Zygote:
    """The process that all others are forked from: started once, it saves their start-up."""

    def __init__(self) -> None:
        ours, theirs = _connection_pair()
        self._popen = subprocess.Popen(
            [*INTERPRETER, str(theirs)],
            cwd=ROOT,
            env=ENVIRONMENT,
            pass_fds=[theirs],
            stdin=subprocess.DEVNULL,
        )
        os.close(theirs)
        self._connection = ours

    @cached_property
    def process(self) -> Process:
        """The zygote itself, once it has started up."""
        return Process(self._connection, None)

    def close(self) -> None:
        """End it, and with it whatever it started."""
        self._connection.close()
        self._popen.wait(CALL_DEADLINE)
