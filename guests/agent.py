# SPDX-License-Identifier: GPL-2.0
"""The agent where tests run: serves whoever holds the other end of its port, one program at a time.

| told | does |
|---|---|
| {"do": "clock", "seconds"} | sets the clock: a machine that was resumed thinks of the past |
| {"do": "wake", "data"} | takes the data for randomness; says "ready" again, as a resumed machine |
| {"do": "files", "size"} | says "listening", takes a bundle of that size as it is, and unpacks it |
| {"do": "run", "argv", "cwd", "env", "terminal"} | starts a program |
| {"do": "call", "module", "argv", "cwd"} | calls main(argv) of a module below cwd, in a fork |
| {"do": "input", "data"} | writes to the program's standard input; no data is its end |
| {"do": "signal", "number"} | sends the program, and what it started, a signal |
| {"do": "end"} | leaves |

It tells {"event": "ready", "release", "python"}, {"event": "listening"}, {"event": "unpacked"},
{"event": "output", "data"}, {"event": "message", "data"} of what a called module writes to
MESSAGES, {"event": "exit", "status"}, {"event": "refused", "reason"}, and {"event": "alive"} while
a program is silent.
"""

import contextlib
import fcntl
import importlib
import os
import platform
import random
import selectors
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

from guests import bundle
from guests.frames import MAX_CHUNK, Decoder, Message, encode, pack, unpack
from guests.programs import MESSAGES, Program, call, run

__all__ = ["MESSAGES", "PORT", "SOURCES", "Agent", "preload"]

SOURCES = ("__init__", "agent", "bundle", "frames", "programs")  # the agent's, of this package
PORT = "ksmtests"
PORT_DEADLINE_S = 30  # for the port to appear, once the modules are loaded
ALIVE_S = 2.0
PORTS = Path("/sys/class/virtio-ports")
PRELOADED = (
    *("pytest", "_pytest.assertion.rewrite", "_pytest.junitxml", "_pytest.skipping"),
    *("_pytest.tmpdir", "_pytest.fixtures", "_pytest.python", "_pytest.unittest"),
    *("_pytest.terminal", "_pytest.logging", "_pytest.monkeypatch", "_pytest.faulthandler"),
    *("_pytest.helpconfig", "_pytest.pastebin", "_pytest.setuponly", "_pytest.setupplan"),
    *("_pytest.threadexception", "_pytest.tracemalloc", "_pytest.unraisableexception"),
    *("_pytest.warnings", "_pytest._argcomplete", "pdb", "faulthandler"),
    *("pytest_timeout", "_cffi_backend", "cffi", "pyroute2", "pyroute2.netlink.taskstats"),
    *("multiprocessing.connection", "multiprocessing.util", "mmap", "tarfile", "tomllib"),
    *("packaging.requirements", "packaging.tags", "packaging.utils"),
)


def preload() -> None:
    """Import what tests import, once for all that are called."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def open_port() -> int:
    """Open our port; there is no udev here to link its name."""
    deadline = time.monotonic() + PORT_DEADLINE_S
    while time.monotonic() < deadline:
        for port in PORTS.glob("*"):
            if (port / "name").read_text().strip() == PORT:
                return os.open(f"/dev/{port.name}", os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.05)
    sys.exit(f"no virtio port named {PORT} in {PORTS} after {PORT_DEADLINE_S} s")


def stir(data: bytes) -> None:
    """Give the kernel, and Python, randomness that nobody else has. Only a guest's agent may."""
    none, write = (1 << 29, 4 << 29) if platform.machine().startswith("ppc") else (0, 1 << 30)
    add_entropy = write | 8 << 16 | ord("R") << 8 | 3  # RNDADDENTROPY of <linux/random.h>
    reseed = none | ord("R") << 8 | 7  # RNDRESEEDCRNG
    with open("/dev/urandom", "wb", buffering=0) as device:
        fcntl.ioctl(device, add_entropy, struct.pack("ii", len(data) * 8, len(data)) + data)
        with contextlib.suppress(OSError):  # ENODATA: it has not had enough to begin with
            fcntl.ioctl(device, reseed)
    random.seed()


class Agent:
    """Serves one port; what it is sent lies below `root`."""

    def __init__(
        self, port: int, root: Path = Path("/"), *, output: int | None = None, clock: bool = False
    ) -> None:
        self._port = port
        self._output = port if output is None else output
        self._root = root
        self._sets_clock = clock
        self._decoder = Decoder()
        self._selector = selectors.DefaultSelector()
        self._selector.register(port, selectors.EVENT_READ)
        self._program: Program | None = None
        self._serving = True

    def serve(self) -> None:
        """Do what we are told until the other side has gone or says so."""
        self._introduce()
        while self._serving:
            ready = self._selector.select(ALIVE_S if self._program else None)
            for key, _ in ready:
                if key.fd == self._port:
                    self._listen()
                else:
                    self._relay(key.fd)
            if self._program and not ready:
                self._look_after(self._program)
        if self._program:
            self._signal(self._program, signal.SIGKILL)

    def _introduce(self) -> None:
        self.tell(event="ready", release=platform.release(), python=platform.python_version())

    def tell(self, **message: object) -> None:
        """Send a message."""
        data = encode(message)
        while data:
            data = data[os.write(self._output, data) :]

    def _listen(self) -> None:
        data = os.read(self._port, MAX_CHUNK)
        if not data:
            self._serving = False
        for message in self._decoder.feed(data):
            self._obey(message)

    def _obey(self, message: Message) -> None:
        match message["do"], self._program:
            case "clock", _:
                if self._sets_clock:
                    time.clock_settime(time.CLOCK_REALTIME, message["seconds"])
            case "wake", _:
                stir(unpack(message["data"]))
                self._introduce()
            case "files", _:
                self._take_files(message["size"])
            case "run" | "call", Program():
                self.tell(event="refused", reason="a program is running")
            case "run" | "call", _:
                self._start(message)
            case "input" | "signal", Program() as program:
                self._pass_on(message, program)
            case "end", _:
                self._serving = False

    def _pass_on(self, message: Message, program: Program) -> None:
        if message["do"] == "signal":
            self._signal(program, message["number"])
        elif message["data"]:
            program.write(unpack(message["data"]))
        else:
            program.close_input()

    @staticmethod
    def _signal(program: Program, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.process.pid, number)

    def _take_files(self, size: int) -> None:
        """Take the bytes past the decoder: base64 and JSON double the time on a slow processor."""
        self.tell(event="listening")
        data = memoryview(bytearray(size))
        at = 0
        while at < size:
            read = os.readv(self._port, [data[at:]])
            if not read:
                self._serving = False
                return
            at += read
        bundle.unpack(data, self._root)
        self.tell(event="unpacked")

    def _start(self, message: Message) -> None:
        try:
            cwd = self._root / message["cwd"].lstrip("/")
            program = (run if message["do"] == "run" else call)(message, cwd)
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            self.tell(event="refused", reason=f"{type(error).__name__}: {error}")
            return
        self._program = program
        for descriptor in program.events:
            self._selector.register(descriptor, selectors.EVENT_READ)

    def _relay(self, descriptor: int) -> None:
        """Tell what a descriptor has; a program has ended when it has closed them all."""
        program = self._program
        if program is None or descriptor not in program.events:
            return
        try:
            data = os.read(descriptor, MAX_CHUNK)
        except OSError:  # EIO, a terminal's way to say so
            data = b""
        if data:
            self.tell(event=program.events[descriptor], data=pack(data))
            return
        self._selector.unregister(descriptor)
        os.close(descriptor)
        del program.events[descriptor]
        if not program.events:
            self._finish(program)

    def _look_after(self, program: Program) -> None:
        """A program may have left something behind that holds its output open: do not wait."""
        if program.process.poll() is None:
            self.tell(event="alive")
        else:
            self._finish(program)

    def _finish(self, program: Program) -> None:
        for descriptor in program.events:
            self._selector.unregister(descriptor)
        self._program = None
        self.tell(event="exit", status=program.close())


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    preload()
    Agent(open_port(), clock=True).serve()
