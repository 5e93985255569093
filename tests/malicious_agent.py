# SPDX-License-Identifier: GPL-2.0
"""In place of ssh: at the other end is an agent that answers each test as its host's name says.

A host that is called good is this machine, with the agent that was sent.
"""

import base64
import json
import os
import pickle
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.test_guest_reports import GOOD

GOOD_HOST = "good"
ESCAPES = "\x1b[2J\x9b2J\ud800 over"


def read(size: int) -> bytes:
    """So many bytes of what was sent."""
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data)) or sys.exit()
    return data


def framed(message: object) -> bytes:
    """A message as frames.encode() would not make it: with anything in it."""
    body = json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body


def tell(**message: object) -> None:
    """Send a message of the agent's."""
    sys.stdout.buffer.write(framed(message))
    sys.stdout.buffer.flush()


def tell_inner(**message: object) -> None:
    """Send a message of pytest's."""
    tell(event="message", data=base64.b64encode(framed(message)).decode())


def report(nodeid: str, when: str, **changes: object) -> None:
    """Send a report."""
    tell_inner(event="report", data={**GOOD, "nodeid": nodeid, "when": when, **changes})


def end(nodeid: str, **changes: object) -> None:
    """Send reports of all phases, with changes in one."""
    report(nodeid, "setup")
    report(nodeid, "call", **changes)
    report(nodeid, "teardown")
    tell_inner(event="done")


def no_reports(_: str) -> None:
    """The test would be none."""
    tell_inner(event="done")


def a_part_of_the_reports(nodeid: str) -> None:
    """It would not be seen that it never began."""
    report(nodeid, "call")
    tell_inner(event="done")


def one_phase_twice(nodeid: str) -> None:
    """Tests would be counted that there are not."""
    report(nodeid, "setup")
    report(nodeid, "call")
    end(nodeid)


def crash_elsewhere(nodeid: str) -> None:
    """Of types that only the summary looks at."""
    trace: dict[str, object] = {"reprentries": [], "extraline": None, "style": None}
    crash = {"path": ["../canary"], "lineno": 0, "message": 7}
    longrepr: object = {"reprcrash": crash, "reprtraceback": trace, "sections": [], "chain": None}
    end(nodeid, outcome="failed", longrepr=longrepr)


def escapes(nodeid: str) -> None:
    """What a terminal would obey, and what pytest-xdist cannot pass on."""
    end(
        nodeid,
        outcome="failed",
        longrepr=ESCAPES,
        sections=[["\x1b]0;title\x07", "\rhidden\ud800"]],
        user_properties=[["\x1b", {"\ud800": "\x1b"}], ["fingerprint", ["\x1b"]]],
    )


def no_protocol(_: str) -> None:
    """A length of a gigabyte, and on."""
    sys.stdout.buffer.write(b"A" * 100_000)
    sys.stdout.buffer.flush()


ATTACKS: dict[str, Callable[[str], None]] = {
    "no-reports": no_reports,
    "a-part": a_part_of_the_reports,
    "one-phase-twice": one_phase_twice,
    "another-file": lambda _: end("../../etc/passwd::x"),
    "another-test": lambda nodeid: end(f"{nodeid}x"),
    "skip-of-nothing": lambda nodeid: end(nodeid, outcome="skipped"),
    "endless-number": lambda nodeid: end(nodeid, duration=10**400),
    "for-ever": lambda nodeid: end(nodeid, duration=float("inf")),
    "crash-elsewhere": crash_elsewhere,
    "escapes": escapes,
    "deep": lambda nodeid: end(nodeid, longrepr=json.loads("[" * 400 + "]" * 400)),
    "no-protocol": no_protocol,
    "early-end": lambda _: tell(event="exit", status=0),
    "refusal": lambda _: tell(event="refused", reason="x" * 100_000),
    "gone": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "pickled": lambda _: tell(event="output", data=[pickle.dumps(print).hex()]),
    "a-file": lambda _: tell(event="files", path="/canary", data="eA=="),
}


def told() -> Iterator[dict[str, Any]]:
    """What it is told."""
    while True:
        yield json.loads(read(struct.unpack(">I", read(4))[0]))


def attack(how: Callable[[str], None]) -> None:
    """Be ready, and attack with each test."""
    read(int.from_bytes(read(8), "big"))
    tell(event="ready", release="6.1\x1b[31m\ud800", python="3.11")
    for message in told():
        match message:
            case {"do": "files", "size": size}:
                tell(event="listening")
                read(size)
                tell(event="unpacked")
            case {"do": "call"}:
                tell_inner(event="collected", errors=[])
            case {"do": "input", "data": data} if data:
                how(json.loads(base64.b64decode(data)[4:])["nodeid"])


if __name__ == "__main__":
    host, command = sys.argv[-2:]
    if host == GOOD_HOST:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        os.execvpe("sh", ["sh", "-c", command], {**os.environ, "PATH": path})
    attack(ATTACKS[host])
