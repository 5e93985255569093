# SPDX-License-Identifier: GPL-2.0
"""A machine with an agent that runs programs in it, whatever connects us to it."""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from guests import bundle
from guests.channel import Channel, ChannelClosed
from guests.checkout import checkout_files
from guests.frames import Decoder, Message, ProtocolError, encode, pack, unpack
from guests.patience import scaled

SILENCE_S = 60  # the agent says at least every two seconds that it is alive
ENTROPY = 64  # bytes for a resumed guest, whose random numbers others have had, too

V = TypeVar("V")


class LostGuest(Exception):
    """The guest panicked, hangs, broke the protocol or is gone; shown with its last words."""

    def __init__(self, name: str, why: str, console: list[str]) -> None:
        self.name = name
        self.why = why
        self.console = console
        lines = "".join(f"\n  {line}" for line in console) or " nothing"
        super().__init__(f"{name}: {why}; its console ended with{lines}")


class RefusedError(Exception):
    """The agent could not start a program."""


class Carrier(Protocol):
    """What has an agent at the other end: QEMU, or a connection to a board."""

    program: str  # what it is, for messages
    channel: socket.socket

    def status(self) -> int | None:
        """The exit status of what keeps the connection; None while it runs."""

    def console_tail(self) -> list[str]:
        """The last lines of the console."""


class Guest:
    """A machine whose agent is ready. One program runs in it at a time."""

    def __init__(self, name: str, carrier: Carrier, checkout: Path) -> None:
        self.name = name
        self.release = ""  # as uname -r says it; the guest's own word
        self.ready_seconds = 0.0  # from its start until the checkout was in place
        self.resumed = False  # from a saved state; else it has booted
        self._begun = time.monotonic()
        self._carrier = carrier
        self._channel = Channel(carrier.channel)
        self._checkout = checkout
        self._messages = Decoder()

    def wait_ready(self, deadline_s: float) -> None:
        """Wait for the agent's first message. Raises LostGuest, or RefusedError with a reason."""
        message = self._receive(deadline_s)
        if message is None:
            raise self.lost(f"was not ready within {deadline_s:.0f} s")
        if message.get("event") == "refused":
            raise RefusedError(self._value(message, "reason", str))
        if message.get("event") != "ready":
            raise self.lost(f"the agent began with {str(message)[:80]}")
        self.release = self._value(message, "release", str)

    def wake(self, deadline_s: float) -> None:
        """Greet a resumed guest, which has said that it is ready long ago. Raises LostGuest."""
        self.resumed = True
        self._send(do="wake", data=pack(os.urandom(ENTROPY)))
        self.wait_ready(deadline_s)

    def bring_checkout(self) -> None:
        """Set the clock, and put the checkout at its path on this machine. Raises LostGuest."""
        self._send(do="clock", seconds=time.time())
        files = bundle.packed(checkout_files(self._checkout))
        self._send(do="files", size=len(files))
        self._expect("listening", "take the checkout")
        self._send_raw(files)
        self._expect("unpacked", "unpack the checkout")
        self.ready_seconds = time.monotonic() - self._begun

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

    def call(self, module: str, argv: Sequence[str]) -> None:
        """Call main(argv) of a module of the checkout; step() follows it."""
        self._messages = Decoder()
        self._send(do="call", module=module, argv=list(argv), cwd=str(self._checkout))

    def tell(self, **message: object) -> None:
        """Send a called module a message."""
        self.write(encode(message))

    def write(self, data: bytes) -> None:
        """Give the program input; none at all ends it."""
        self._send(do="input", data=pack(data))

    def signal(self, number: int) -> None:
        """Send the program, and what it started, a signal."""
        self._send(do="signal", number=number)

    def step(
        self,
        output: Callable[[bytes], Any],
        also: int | None = None,
        told: Callable[[Message], Any] | None = None,
    ) -> int | None:
        """Pass on what came; the exit status once the program has ended, else None.

        Returns early when the descriptor `also` can be read. `told` gets the messages of a called
        module. Raises LostGuest, or RefusedError.
        """
        silence_s = scaled(SILENCE_S)
        message = self._receive(silence_s, also)
        if message is None:
            if also is None:
                raise self.lost(f"said nothing for {silence_s:.0f} s")
            return None
        match message.get("event"):
            case "output":
                output(self._data(message))
            case "message" if told is not None:
                for each in self._decoded(self._data(message)):
                    told(each)
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
        status = self._carrier.status()
        ended = "" if status is None else f" ({self._carrier.program} ended with status {status})"
        return LostGuest(self.name, why + ended, self._carrier.console_tail())

    def console_tail(self) -> list[str]:
        """The last lines of the console."""
        return self._carrier.console_tail()

    def _expect(self, event: str, doing: str) -> None:
        answer = self._receive(scaled(SILENCE_S))
        if answer is None or answer.get("event") != event:
            raise self.lost(f"did not {doing}, but said {str(answer)[:80]}")

    def _send(self, **message: object) -> None:
        self._send_raw(encode(message))

    def _send_raw(self, data: bytes) -> None:
        try:
            self._channel.send(data)
        except ChannelClosed as error:
            raise self.lost(str(error)) from error

    def _receive(self, timeout_s: float, also: int | None = None) -> Message | None:
        try:
            return self._channel.receive(timeout_s, also)
        except (ChannelClosed, ProtocolError) as error:
            time.sleep(0.2)  # QEMU closes the channel shortly before it ends
            raise self.lost(str(error)) from error

    def _data(self, message: Message) -> bytes:
        try:
            return unpack(message.get("data"))
        except ProtocolError as error:
            raise self.lost(str(error)) from error

    def _decoded(self, data: bytes) -> list[Message]:
        try:
            return self._messages.feed(data)
        except ProtocolError as error:
            raise self.lost(str(error)) from error

    def _value(self, message: Message, key: str, kind: type[V]) -> V:
        value = message.get(key)
        if not isinstance(value, kind):
            raise self.lost(f"the agent's {key} is {str(value)[:80]}, not {kind.__name__}")
        return value
