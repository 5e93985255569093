# SPDX-License-Identifier: GPL-2.0
"""Programs an agent runs: with pipes or a terminal, or in a fork that has everything imported."""

import contextlib
import importlib
import os
import pty
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from guests.frames import Message

OWN_TERMINAL = ["/bin/busybox", "setsid", "-c"]  # a session whose Ctrl-C is this terminal's
MESSAGES = 3  # the descriptor on which a called module sends messages of its own


class Fork:
    """A child that does something and exits with what that returns; in a session of its own."""

    def __init__(self, do: Callable[[], int]) -> None:
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.setsid()
                status = do()
            except BaseException:  # noqa: BLE001 - nothing may return into the agent
                traceback.print_exc()
            finally:
                with contextlib.suppress(OSError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(status)

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        """The exit status, once it has ended."""
        status = self._wait(0)
        return 0 if status is None else status

    def _wait(self, options: int) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status


class Program:
    """A running program, with what it is read from and written to."""

    def __init__(self, process: "Fork | subprocess.Popen[bytes]", stdin: int, output: int) -> None:
        self.process = process
        self.events = {output: "output"}  # descriptor -> event that tells what is read from it
        self._stdin: int | None = stdin

    def write(self, data: bytes) -> None:
        """Pass input on, blocking; none is the end of it. A program may have closed its end."""
        if self._stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._stdin, data) :]
            return
        self.close_input()

    def close_input(self) -> None:
        """End the program's input."""
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    def close(self) -> int:
        """Forget it, and give its exit status as a shell would."""
        status = self.process.wait()
        self.close_input()
        for descriptor in self.events:
            os.close(descriptor)
        return status if status >= 0 else 128 - status


def run(message: Message, cwd: Path) -> Program:
    """Start a program, with pipes or a terminal."""
    environment = {**os.environ, **message["env"]}
    argv = message["argv"]
    if message.get("terminal"):
        output, inner = pty.openpty()
        stdin = os.dup(output)
        theirs = inner
    else:
        output, inner = os.pipe()
        theirs, stdin = os.pipe()
    try:
        process = subprocess.Popen(
            OWN_TERMINAL + argv if message.get("terminal") else argv,
            cwd=cwd,
            env=environment,
            stdin=theirs,
            stdout=inner,
            stderr=inner,
            start_new_session=not message.get("terminal"),
        )
    except BaseException:
        os.close(output)
        os.close(stdin)
        raise
    finally:
        for descriptor in {theirs, inner}:
            os.close(descriptor)
    return Program(process, stdin, output)


def call(message: Message, cwd: Path) -> Program:
    """Call a module in a fork, which has everything imported already."""
    output, stdout = os.pipe()
    messages, told = os.pipe()
    theirs, stdin = os.pipe()

    def main() -> int:
        ours = [os.dup(each) for each in (theirs, stdout, stdout, told)]  # out of 0 to 3
        for number, descriptor in enumerate(ours):
            os.dup2(descriptor, number)
        os.closerange(MESSAGES + 1, 1 << 10)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.chdir(cwd)
        for name in [name for name in sys.modules if name.partition(".")[0] == __package__]:
            del sys.modules[name]  # the checkout has its own
        sys.path.insert(0, str(cwd))
        status: int = importlib.import_module(message["module"]).main(message["argv"])
        return status

    program = Program(Fork(main), stdin, output)
    program.events[messages] = "message"
    for descriptor in (theirs, stdout, told):
        os.close(descriptor)
    return program
