# SPDX-License-Identifier: GPL-2.0
"""The agent in a guest: runs programs for the other side of a virtio-serial port.

Told {"do": "run", "argv", "cwd", "env", "terminal"}, {"do": "input", "data"} (none: end of file),
{"do": "signal", "number"} and {"do": "end"}; tells {"event": "ready", ...}, {"event": "output",
"data"}, {"event": "exit", "status"}, {"event": "refused", "reason"}, and {"event": "alive"} while
a program is silent. One program runs at a time.
"""

import contextlib
import os
import platform
import pty
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

from guests.frames import MAX_CHUNK, Decoder, Message, encode, pack, unpack

PORT = "ksmtests"
PORT_DEADLINE_S = 30  # for the port to appear, once the modules are loaded
ALIVE_S = 2.0
OWN_TERMINAL = ["/bin/busybox", "setsid", "-c"]  # a session whose Ctrl-C is this terminal's
PORTS = Path("/sys/class/virtio-ports")


def open_port() -> int:
    """Open our port; there is no udev here to link its name."""
    deadline = time.monotonic() + PORT_DEADLINE_S
    while time.monotonic() < deadline:
        for port in PORTS.glob("*"):
            if (port / "name").read_text().strip() == PORT:
                return os.open(f"/dev/{port.name}", os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.05)
    sys.exit(f"no virtio port named {PORT} in {PORTS} after {PORT_DEADLINE_S} s")


class Program:
    """A running program, with what it is read from and written to."""

    def __init__(self, message: Message) -> None:
        self.stdin: int | None
        if message.get("terminal"):
            self.output, inner = pty.openpty()
            self.stdin = os.dup(self.output)
        else:
            self.output, inner = os.pipe()
        on_terminal = OWN_TERMINAL if message.get("terminal") else []
        self.process = subprocess.Popen(
            on_terminal + message["argv"],
            cwd=message["cwd"],
            env={**os.environ, **message["env"]},
            stdin=inner if on_terminal else subprocess.PIPE,
            stdout=inner,
            stderr=inner,
            start_new_session=not on_terminal,
        )
        os.close(inner)
        if self.process.stdin:
            self.stdin = os.dup(self.process.stdin.fileno())
            self.process.stdin.close()

    def write(self, data: bytes) -> None:
        """Pass input on, blocking; none is the end of it. A program may have closed its end."""
        if self.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self.stdin, data) :]
            return
        self.close_input()

    def close_input(self) -> None:
        """End the program's input."""
        if self.stdin is not None:
            os.close(self.stdin)
            self.stdin = None

    def read(self) -> bytes:
        """What it has written; nothing once all its processes have closed it."""
        try:
            return os.read(self.output, MAX_CHUNK)
        except OSError:  # EIO, a terminal's way to say so
            return b""

    def close(self) -> int:
        """Forget it, and give its exit status as a shell would."""
        status = self.process.wait()
        self.close_input()
        os.close(self.output)
        return status if status >= 0 else 128 - status


class Agent:
    """Serves one port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._decoder = Decoder()
        self._selector = selectors.DefaultSelector()
        self._selector.register(port, selectors.EVENT_READ)
        self._program: Program | None = None
        self._serving = True

    def serve(self) -> None:
        """Do what we are told until the other side has gone or says so."""
        self.tell(
            event="ready",
            release=platform.release(),
            python=platform.python_version(),
            pid=os.getpid(),
        )
        while self._serving:
            ready = self._selector.select(ALIVE_S if self._program else None)
            for key, _ in ready:
                if key.fd == self._port:
                    self._listen()
                else:
                    self._relay()
            if self._program and not ready:
                self._look_after(self._program)

    def tell(self, **message: object) -> None:
        """Send a message."""
        data = encode(message)
        while data:
            data = data[os.write(self._port, data) :]

    def _listen(self) -> None:
        data = os.read(self._port, MAX_CHUNK)
        if not data:
            self._serving = False
        for message in self._decoder.feed(data):
            self._obey(message)

    def _obey(self, message: Message) -> None:
        match message["do"], self._program:
            case "run", None:
                self._start(message)
            case "run", _:
                self.tell(event="refused", reason="a program is running")
            case "input", Program() as program:
                if message["data"]:
                    program.write(unpack(message["data"]))
                else:
                    program.close_input()
            case "signal", Program() as program:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(program.process.pid, message["number"])
            case "end", _:
                self._serving = False

    def _start(self, message: Message) -> None:
        try:
            self._program = Program(message)
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            self.tell(event="refused", reason=f"{type(error).__name__}: {error}")
            return
        self._selector.register(self._program.output, selectors.EVENT_READ)

    def _relay(self) -> None:
        if self._program is None:
            return
        if data := self._program.read():
            self.tell(event="output", data=pack(data))
        else:
            self._finish(self._program)

    def _look_after(self, program: Program) -> None:
        """A program may have left something behind that holds its output open: do not wait."""
        if program.process.poll() is None:
            self.tell(event="alive")
        else:
            self._finish(program)

    def _finish(self, program: Program) -> None:
        self._selector.unregister(program.output)
        self._program = None
        self.tell(event="exit", status=program.close())


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    Agent(open_port()).serve()
