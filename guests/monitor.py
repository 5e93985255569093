# SPDX-License-Identifier: GPL-2.0
"""QEMU's monitor: the few commands of its protocol (QMP) that save and resume a guest."""

import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ANSWER_S = 30  # for a command; none of them waits for the guest
SAVE_S = 60  # for a guest's devices to be written
POLL_S = 0.005
FILE_URI = (8, 2)  # first version that migrates to a file by its path

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
        self._by_path = version >= FILE_URI
        self._greeted = False

    def save_devices(self, target: Path) -> None:
        """Stop the guest and write all but its memory to a new file. Raises MonitorError."""
        self._execute("migrate-set-capabilities", capabilities=[IGNORE_SHARED])
        self._execute("migrate", uri=self._uri(target, "xb"))
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
        self._execute("migrate-incoming", uri=self._uri(source, "rb"))

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()

    def _uri(self, path: Path, mode: str) -> str:
        """How QEMU is told of a file; older ones are handed it open."""
        if self._by_path:
            return f"file:{path}"
        with path.open(mode) as stream:
            self._execute("getfd", handed=(stream.fileno(),), fdname="state")
        return "fd:state"

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
