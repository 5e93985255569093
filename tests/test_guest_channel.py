# SPDX-License-Identifier: GPL-2.0
"""The channel to a guest, which is not trusted, and the agent at its other end."""

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from guests import frames
from guests.agent import Agent
from guests.channel import Channel, ChannelClosed
from guests.frames import MAX_FRAME, Decoder, ProtocolError
from guests.guest import ENTROPY, Guest, LostGuest, RefusedError

DEADLINE_S = 20


class DeadQemu:
    """In QEMU's place: a channel whose other end the test holds, and a console."""

    program = "QEMU"

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel

    def status(self) -> int | None:
        """QEMU has ended."""
        return 0

    def console_tail(self) -> list[str]:
        """The last words."""
        return ["Kernel panic - not syncing: Fatal exception"]


@pytest.fixture
def ends() -> Iterator[tuple[Guest, socket.socket]]:
    """A guest, and the end of its channel the agent would have."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Guest("tested", cast("Any", DeadQemu(ours)), Path("/suite")), theirs


def test_messages_arrive_in_any_pieces() -> None:
    """A byte at a time, or two at once."""
    sent = frames.encode({"do": "run", "argv": ["ü"]}) + frames.encode({"do": "end"})
    decoder = Decoder()
    pieces = [message for byte in sent for message in decoder.feed(bytes([byte]))]
    assert pieces == Decoder().feed(sent) == [{"do": "run", "argv": ["ü"]}, {"do": "end"}]


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (struct.pack(">I", MAX_FRAME + 1), "a message of 1048577 bytes"),
        (struct.pack(">I", 0xFFFFFFFF) + b"x" * 100, "a message of 4294967295 bytes"),
        (struct.pack(">I", 4) + b"nope", "not JSON"),
        (struct.pack(">I", 0), "not JSON"),
        (struct.pack(">I", 2) + b"\xff\xfe", "not JSON"),
        (struct.pack(">I", 3) + b"[1]", "JSON, but no object"),
        (struct.pack(">I", 200_000) + b"[" * 200_000, "not JSON"),
        (struct.pack(">I", 10_000) + b"1" * 10_000, "not JSON"),
        (struct.pack(">I", 206) + b'{"x":' + b"[" * 100 + b"]" * 100 + b"}", "nested .* 51 times"),
    ],
)
def test_hostile_bytes_are_no_message(sent: bytes, complaint: str) -> None:
    """Length, encoding, syntax, depth and kind are bounded."""
    with pytest.raises(ProtocolError, match=complaint):
        Decoder().feed(sent)


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        (rb'"\u001b[2J\b\r\n\t"', r"\x1b[2J\x08\r" + "\n\t"),
        (rb'"\ud800 \ud83d\ude00"', "\\ud800 \U0001f600"),
        ('"\x9b2J\x7f ü"'.encode(), r"\x9b2J\x7f" + " ü"),
    ],
)
def test_texts_are_harmless(sent: bytes, taken: str) -> None:
    """They can be shown and written; what is no control character arrives as it is."""
    body = b'{"text":' + sent + b"}"
    (message,) = Decoder().feed(struct.pack(">I", len(body)) + body)
    assert message == {"text": taken}


def test_nothing_too_long_is_sent() -> None:
    """The other end would take it for an attack."""
    with pytest.raises(ProtocolError, match="are the limit"):
        frames.encode({"data": "x" * MAX_FRAME})


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"event": "output", "data": 7}, "int where base64 text is expected"),
        ({"event": "output", "data": "*"}, "not base64"),
        ({"event": "output"}, "NoneType where base64 text is expected"),
        ({"event": "exit", "status": "0"}, "the agent's status is 0, not int"),
        ({"event": "exit"}, "the agent's status is None, not int"),
        ({"event": "explode" * 100}, "unknown event explodeexplode"),
        ({}, "unknown event None"),
    ],
)
def test_hostile_messages_lose_the_guest(
    ends: tuple[Guest, socket.socket], message: dict[str, object], complaint: str
) -> None:
    """With what was wrong, and the console."""
    guest, agent = ends
    agent.sendall(frames.encode(message))
    with pytest.raises(LostGuest, match=complaint) as lost:
        guest.step(print)
    assert len(lost.value.why) < 200
    assert "Kernel panic - not syncing" in str(lost.value)


def test_a_guest_that_goes_is_lost(ends: tuple[Guest, socket.socket]) -> None:
    """The error names the kernel, how QEMU ended, and the console's end."""
    guest, agent = ends
    agent.close()
    with pytest.raises(LostGuest) as lost:
        guest.step(print)
    assert str(lost.value) == (
        "tested: the connection was closed (QEMU ended with status 0); its console ended with\n"
        "  Kernel panic - not syncing: Fatal exception"
    )


def test_a_silent_guest_is_lost(
    ends: tuple[Guest, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent says that it is alive, so silence means that it is not."""
    monkeypatch.setattr("guests.guest.scaled", lambda _: 0.05)
    with pytest.raises(LostGuest, match="said nothing for 0 s"):
        ends[0].step(print)


def test_a_guest_that_begins_with_anything_else_has_not_booted(
    ends: tuple[Guest, socket.socket],
) -> None:
    """`ready` comes first."""
    guest, agent = ends
    agent.sendall(frames.encode({"event": "exit", "status": 0}))
    with pytest.raises(LostGuest, match="the agent began with"):
        guest.wait_ready(1)


def test_a_channel_that_takes_nothing_is_closed() -> None:
    """Sending has a deadline."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours)
        ours.settimeout(0.05)
        with pytest.raises(ChannelClosed, match="could not be sent to"):
            channel.send(b"x" * MAX_FRAME)


# The agent, on this kernel


@pytest.fixture
def served(ends: tuple[Guest, socket.socket]) -> Iterator[Guest]:
    """A guest whose agent serves the channel's other end in a thread."""
    guest, agent = ends
    thread = threading.Thread(target=Agent(agent.fileno()).serve)
    thread.start()
    guest.wait_ready(DEADLINE_S)
    yield guest
    guest._send(do="end")  # noqa: SLF001
    thread.join(DEADLINE_S)


def test_agent_runs_programs_one_after_another(served: Guest) -> None:
    """Output arrives in order, with the status a shell would give."""
    output = bytearray()
    script = 'printf "%s in %s: " "$WHO" "$PWD"; cat; echo bad >&2; exit 3'
    command = ["sh", "-c", script]
    assert served.run(command, output.extend, cwd="/", env={"WHO": "me"}) == 3
    assert output == b"me in /: bad\n"
    assert served.run(["sh", "-c", "kill -9 $$"], output.extend, cwd="/") == 128 + 9


def test_agent_passes_any_bytes_both_ways(served: Guest) -> None:
    """Input of many messages, none of them text."""
    output = bytearray()
    data = bytes(range(256)) * 4096
    served.start(["cat"], cwd="/")
    for begin in range(0, len(data), 65536):
        served.write(data[begin : begin + 65536])
        while len(output) < begin:
            served.step(output.extend)
    served.write(b"")
    while served.step(output.extend) is None:
        pass
    assert output == data


def test_agent_signals_the_whole_program(served: Guest) -> None:
    """What it started dies, too."""
    served.start(["sh", "-c", "sleep 600 & wait"], cwd="/")
    served.signal(signal.SIGTERM)
    statuses = iter(lambda: served.step(lambda _: None), 128 + signal.SIGTERM)
    assert all(status is None for status in statuses)


def test_agent_waits_for_no_descendant(served: Guest) -> None:
    """A program that leaves a daemon behind has ended all the same."""
    began = time.monotonic()
    assert served.run(["sh", "-c", "setsid sleep 30 & exit 0"], lambda _: None, cwd="/") == 0
    assert time.monotonic() - began < 20


def test_agent_refuses_what_cannot_be_started(served: Guest) -> None:
    """And serves on."""
    with pytest.raises(RefusedError, match="no-such-program"):
        served.run(["no-such-program"], lambda _: None, cwd="/")
    assert served.run(["true"], lambda _: None, cwd="/") == 0


def test_agent_unpacks_a_checkout(ends: tuple[Guest, socket.socket], tmp_path: Path) -> None:
    """Below its root, with contents and times, by which compiled modules are judged."""
    checkout = tmp_path / "checkout"
    module = checkout / "uapi/deep/data"
    module.parent.mkdir(parents=True)
    (checkout / "uapi/__init__.py").touch()
    module.write_bytes(bytes(range(256)) * 8192)
    os.utime(module, ns=(1, 1234567890123456789))
    carrier, agent = ends
    guest = Guest("tested", cast("Any", carrier._carrier), checkout)  # noqa: SLF001
    thread = threading.Thread(target=Agent(agent.fileno(), tmp_path / "root").serve)
    thread.start()
    guest.wait_ready(DEADLINE_S)
    guest.bring_checkout()
    guest._send(do="end")  # noqa: SLF001
    thread.join(DEADLINE_S)
    arrived = tmp_path / "root" / module.relative_to("/")
    assert arrived.read_bytes() == module.read_bytes()
    assert arrived.stat().st_mtime_ns == 1234567890123456789


def test_agent_says_again_that_it_is_ready(served: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed guest is greeted with randomness of its own."""
    given: list[bytes] = []
    monkeypatch.setattr("guests.agent.stir", given.append)
    served.wake(DEADLINE_S)
    served.wake(DEADLINE_S)
    assert served.resumed
    assert served.release == os.uname().release
    assert len(given[0]) == len(given[1]) == ENTROPY
    assert given[0] != given[1]
