# SPDX-License-Identifier: GPL-2.0
"""QEMU as a process: its memory, its monitor, the guest's channel and console."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from guests import launcher
from guests.handover import Handover, Places
from guests.kernel import Kernel
from guests.machines import MACHINES
from guests.monitor import Monitor
from guests.qemu import CONSOLE, Emulator, Ram, accelerator, command
from guests.user import in_place_of_root

CONSOLE_TAIL = 40  # lines
CONSOLE_READ = 1 << 16  # bytes at the end of the console that are looked at
END_S = 10  # for QEMU to end once it is killed


@contextmanager
def memory(kernel: Kernel) -> Iterator[tuple[int, ...]]:
    """Descriptors of memory for a guest to boot in, one for each NUMA node.

    Whoever holds a copy of one keeps it.
    """
    with ExitStack() as stack:
        yield tuple(stack.enter_context(_allotted(kernel.node_mib)) for _ in range(kernel.nodes))


@contextmanager
def _allotted(mib: int) -> Iterator[int]:
    descriptor = os.memfd_create("ksmtests-guest")
    try:
        os.ftruncate(descriptor, mib << 20)
        yield descriptor
    finally:
        os.close(descriptor)


class Qemu:
    """A running QEMU. It ends with close(), and at the latest with this process."""

    program = "QEMU"

    def __init__(
        self,
        kernel: Kernel,
        emulator: Emulator,
        image: Path,
        directory: Path,
        ram: Ram,
        handed: tuple[int, ...] = (),
    ) -> None:
        """Start it; the directory becomes its own, `handed` are descriptors that `ram` names."""
        self.directory = directory
        self.channel, channel = socket.socketpair()
        ours, monitor = socket.socketpair()
        self.monitor = Monitor(ours, emulator.version)
        user = in_place_of_root(accelerator(MACHINES[kernel.arch]))
        places: Places = (emulator, image, directory, ram)
        with channel, monitor, Handover() as handover:
            if user:
                places = handover.places(user, places)
            log = handover.enter_context((directory / "qemu.log").open("wb"))
            ends = (channel.fileno(), monitor.fileno())
            told = command(kernel, *places, channel=ends[0], monitor=ends[1])
            self._process = subprocess.Popen(
                launcher.command(str(directory), told, user.ids if user else ()),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(*ends, *handed, *handover.descriptors),
                start_new_session=True,  # a Ctrl-C is ours to act on
            )
        self._log = (directory / "qemu.log").open("rb")
        self._console_path = directory / CONSOLE
        self._last_words: list[str] = []

    @property
    def pid(self) -> int:
        """Of the launcher, whose only child QEMU is."""
        return self._process.pid

    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def console_tail(self, lines: int = CONSOLE_TAIL) -> list[str]:
        """The last lines of the console, and what QEMU itself complained of before them."""
        if self._console_path.is_file():
            self._last_words = self._read()
        return self._last_words[-lines:]

    def _read(self) -> list[str]:
        with self._console_path.open("rb") as stream:
            stream.seek(max(0, self._console_path.stat().st_size - CONSOLE_READ))
            console = stream.read()
        self._log.seek(0)
        complaints = self._log.read(CONSOLE_READ)
        text = (complaints + console).decode("utf-8", errors="replace").replace("\r", "")
        return ["".join(c if c.isprintable() else "?" for c in line) for line in text.splitlines()]

    def close(self) -> None:
        """End it, remember the console's end, and remove the directory."""
        self.channel.close()
        self.monitor.close()
        self.console_tail()
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # QEMU goes with it
            self._process.wait()
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)
