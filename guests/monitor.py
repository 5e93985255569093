# SPDX-License-Identifier: GPL-2.0
"""QEMU's monitor: the few commands of its protocol (QMP) that save and resume a guest."""

import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ANSWER_S = 30  # for a command; none of them waits for the guest
SAVE_S = 60  # for a guest's devices to be written
POLL_S = 0.005
FILE_URI = (8, 2)  # first version that tells a file from a stream, by its name

# Memory that is a shared mapping is not written with the devices: it is copied from outside, and
# mapped privately by those who resume, who then read what they touch and no more.
IGNORE_SHARED = {"capability": "x-ignore-shared", "state": True}


class MonitorError(Exception):
    """QEMU could not do what it was told, or says nothing any more."""


class Monitor:
    """A connection to the monitor of a QEMU of some version."""

    def __init__(self, connection: socket.socket, version: tuple[int, ...]) -> None:
        self._socket = connection
        self._socket.settimeout(ANSWER_S)
        self._lines = connection.makefile("rb")
        self._by_name = version >= FILE_URI
        self._greeted = False

    def save_devices(self, target: Path) -> None:
        """Stop the guest and write all but its memory to a new file. Raises MonitorError."""
        self._execute("migrate-set-capabilities", capabilities=[IGNORE_SHARED])
        with self._handed(target, "xb") as uri:
            self._execute("migrate", uri=uri)
            self._wait_until_saved()

    def _wait_until_saved(self) -> None:
        deadline = time.monotonic() + SAVE_S
        while (status := self._execute("query-migrate").get("status")) != "completed":
            if status == "failed" or time.monotonic() > deadline:
                raise MonitorError(f"QEMU did not save the guest's devices (migration: {status})")
            time.sleep(POLL_S)

    def go_on(self) -> None:
        """Let the guest run on. Raises MonitorError."""
        self._execute("cont")

    def resume_devices(self, source: Path) -> None:
        """Read what save_devices() wrote, and let the guest run. Raises MonitorError."""
        self._execute("migrate-set-capabilities", capabilities=[IGNORE_SHARED])
        with self._handed(source, "rb") as uri:
            self._execute("migrate-incoming", uri=uri)

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()

    @contextmanager
    def _handed(self, path: Path, mode: str) -> Iterator[str]:
        """Hand QEMU a file open, as it may not be let into the cache; how it is told of it."""
        with path.open(mode) as stream:
            handed = (stream.fileno(),)
            if not self._by_name:
                self._execute("getfd", handed, fdname="state")
                yield "fd:state"
                return
            added = self._execute("add-fd", handed).get("fdset-id")
            yield f"file:/dev/fdset/{added}"
            self._execute("remove-fd", **{"fdset-id": added})  # or it could write to it for ever

    def _execute(self, command: str, handed: Sequence[int] = (), **arguments: object) -> Any:
        if not self._greeted:
            self._greeted = True
            self._read()
            self._execute("qmp_capabilities")
        message = json.dumps({"execute": command, "arguments": arguments}).encode()
        try:
            socket.send_fds(self._socket, [message], handed)
        except OSError as error:
            raise MonitorError(f"QEMU takes no commands: {error}") from error
        while True:
            answer = self._read()
            if "error" in answer:
                raise MonitorError(f"QEMU refused {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise MonitorError(f"QEMU does not answer: {error}") from error
        if not line:
            raise MonitorError("QEMU has closed its monitor")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise MonitorError(f"QEMU's monitor said {line[:80].decode(errors='replace').strip()}")
        return answer
