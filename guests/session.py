# SPDX-License-Identifier: GPL-2.0
"""A booted guest, and programs run in it:

with boot(kernel, checkout) as guest:
    status = guest.run(["python3", "-m", "pytest"], sys.stdout.buffer.write)
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from guests.catalogue import Kernel
from guests.channel import Channel, ChannelClosed
from guests.frames import Message, ProtocolError, pack, unpack
from guests.image import base_image, write_image
from guests.kernel import fetch_kernel
from guests.patience import scaled
from guests.qemu import Qemu, find_emulator, private_directory

BOOT_S = 60
SILENCE_S = 60  # the agent says at least every two seconds that it is alive
ATTEMPTS = 2

V = TypeVar("V")

log = logging.getLogger(__name__)


class LostGuest(Exception):
    """The guest panicked, hangs, broke the protocol or is gone; shown with its last words."""

    def __init__(self, kernel: Kernel, why: str, console: list[str]) -> None:
        self.kernel = kernel
        self.why = why
        self.console = console
        lines = "".join(f"\n  {line}" for line in console) or " nothing"
        super().__init__(f"{kernel.name}: {why}; its console ended with{lines}")


class RefusedError(Exception):
    """The agent could not start a program."""


class Guest:
    """A guest whose agent is ready. One program runs in it at a time."""

    def __init__(self, kernel: Kernel, qemu: Qemu, checkout: Path) -> None:
        self.kernel = kernel
        self.release = ""  # as uname -r says it; the guest's own word
        self._qemu = qemu
        self._channel = Channel(qemu.channel)
        self._checkout = checkout

    def wait_ready(self, deadline_s: float) -> None:
        """Wait for the agent's first message. Raises LostGuest."""
        message = self._receive(deadline_s)
        if message is None:
            raise self.lost(f"did not boot within {deadline_s:.0f} s")
        if message.get("event") != "ready":
            raise self.lost(f"the agent began with {str(message)[:80]}")
        self.release = self._value(message, "release", str)

    def run(
        self,
        argv: Sequence[str],
        output: Callable[[bytes], Any],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Run a program in the checkout and pass on what it prints; returns its exit status.

        Its standard input is empty. Raises LostGuest, or RefusedError where it cannot be started.
        """
        self.start(argv, cwd=cwd, env=env)
        self.write(b"")
        while True:
            status = self.step(output)
            if status is not None:
                return status

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        terminal: bool = False,
    ) -> None:
        """Start a program, with a terminal of its own or with pipes; step() follows it."""
        self._send(
            do="run",
            argv=list(argv),
            cwd=cwd or str(self._checkout),
            env=dict(env or {}),
            terminal=terminal,
        )

    def write(self, data: bytes) -> None:
        """Give the program input; none at all ends it."""
        self._send(do="input", data=pack(data))

    def signal(self, number: int) -> None:
        """Send the program, and what it started, a signal."""
        self._send(do="signal", number=number)

    def step(self, output: Callable[[bytes], Any], also: int | None = None) -> int | None:
        """Pass on what came; the exit status once the program has ended, else None.

        Returns early when the descriptor `also` can be read.
        """
        silence_s = scaled(SILENCE_S)
        message = self._receive(silence_s, also)
        if message is None:
            if also is None:
                raise self.lost(f"said nothing for {silence_s:.0f} s")
            return None
        match message.get("event"):
            case "output":
                output(self._output(message))
            case "exit":
                return self._value(message, "status", int)
            case "refused":
                raise RefusedError(self._value(message, "reason", str))
            case "alive":
                pass
            case event:
                raise self.lost(f"the agent sent an unknown event {str(event)[:80]}")
        return None

    def lost(self, why: str) -> LostGuest:
        """The error that says how this guest was lost."""
        status = self._qemu.status()
        ended = "" if status is None else f" (QEMU ended with status {status})"
        return LostGuest(self.kernel, why + ended, self._qemu.console_tail())

    def console_tail(self) -> list[str]:
        """The last lines of the console."""
        return self._qemu.console_tail()

    def _send(self, **message: object) -> None:
        try:
            self._channel.send(**message)
        except ChannelClosed as error:
            raise self.lost(str(error)) from error

    def _receive(self, timeout_s: float, also: int | None = None) -> Message | None:
        try:
            return self._channel.receive(timeout_s, also)
        except (ChannelClosed, ProtocolError) as error:
            time.sleep(0.2)  # QEMU closes the channel shortly before it ends
            raise self.lost(str(error)) from error

    def _output(self, message: Message) -> bytes:
        try:
            return unpack(message.get("data"))
        except ProtocolError as error:
            raise self.lost(str(error)) from error

    def _value(self, message: Message, key: str, kind: type[V]) -> V:
        value = message.get(key)
        if not isinstance(value, kind):
            raise self.lost(f"the agent's {key} is {str(value)[:80]}, not {kind.__name__}")
        return value


@contextmanager
def boot(kernel: Kernel, checkout: Path) -> Iterator[Guest]:
    """Boot a kernel with the checkout in it, fetching and making what is missing; end it after.

    A boot that fails is tried once more, with a warning: emulation fails now and then, and a kernel
    that cannot boot fails twice. Raises LostGuest, and what fetching and making raise.
    """
    checkout = checkout.resolve()
    guest, qemu = _boot(kernel, checkout)
    try:
        yield guest
    finally:
        qemu.close()


def _boot(kernel: Kernel, checkout: Path) -> tuple[Guest, Qemu]:
    for attempt in range(1, ATTEMPTS):
        try:
            return _attempt(kernel, checkout)
        except LostGuest as error:
            log.warning("boot %d of %d failed, trying again: %s", attempt, ATTEMPTS, error)
    return _attempt(kernel, checkout)


def _attempt(kernel: Kernel, checkout: Path) -> tuple[Guest, Qemu]:
    emulator = find_emulator(kernel.arch)
    files = fetch_kernel(kernel)
    base = base_image(kernel.arch)
    directory = private_directory()
    try:
        with (directory / "initramfs").open("wb") as stream:
            write_image(stream, base, files, checkout)
        qemu = Qemu(kernel, emulator, files.image, directory)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    try:
        guest = Guest(kernel, qemu, checkout)
        guest.wait_ready(scaled(BOOT_S))
    except BaseException:
        qemu.close()
        raise
    (directory / "initramfs").unlink()  # QEMU has loaded it
    return guest, qemu
