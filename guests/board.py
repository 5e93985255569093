# SPDX-License-Identifier: GPL-2.0
"""Machines reached over ssh, on which the suite leaves nothing.

What the suite needs is sent over the connection into a directory of its own there, which is removed
when the connection ends, however it ends. The machine needs a Python of 3.11 or later with
python3-cffi-backend, and a login as root. It is trusted with what is sent to it, and with nothing
else: what it answers is looked at like a guest's.
"""

import contextlib
import io
import logging
import shlex
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guests import boarding, wheels
from guests.agent import SOURCES
from guests.guest import Guest
from guests.patience import scaled

SCHEME = "ssh:"
CONNECT_S = 60
END_S = 10  # for the other side to tidy up
TAIL = 40  # lines of what ssh complained of
OPTIONS = (
    *("-o", "BatchMode=yes", "-o", "ConnectTimeout=20"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6"),
)


log = logging.getLogger(__name__)


class BoardError(Exception):
    """The machine cannot be reached, or lacks something."""


class Connection:
    """An ssh that has an agent at its other end."""

    program = "ssh"

    def __init__(self, address: str) -> None:
        """Connect to [user@]host and send the agent. Raises BoardError."""
        self.channel, theirs = socket.socketpair()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        code = Path(boarding.__file__).read_text("utf-8")
        command = ["ssh", *OPTIONS, "--", address, f"exec python3 -c {shlex.quote(code)}"]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._complaints.fileno(),
                )
        except FileNotFoundError as error:
            self.channel.close()
            self._complaints.close()
            raise BoardError("ssh is not installed here: apt-get install openssh-client") from error
        cargo = _cargo()
        self.channel.settimeout(scaled(CONNECT_S))
        try:
            self.channel.sendall(len(cargo).to_bytes(8, "big") + cargo)
        except OSError as error:
            self.close()
            raise BoardError(f"{address}: {self._last_words() or error}") from error

    def status(self) -> int | None:
        """The exit status of ssh; None while it runs."""
        return self._process.poll()

    def console_tail(self) -> list[str]:
        """What ssh, and the programs there, complained of last."""
        return self._last_words().splitlines()[-TAIL:]

    def _last_words(self) -> str:
        if self._complaints.closed:
            return self._kept
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._complaints.seek(0)
        text = self._complaints.read().decode(errors="replace").strip()
        return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)

    def close(self) -> None:
        """End the connection; the other side removes what it was sent."""
        self.channel.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._kept = self._last_words()
        self._complaints.close()


def _cargo() -> bytes:
    """The agent and the Python packages that tests need."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as archive:
        for name in SOURCES:
            archive.add(Path(__file__).with_name(f"{name}.py"), f"guests/{name}.py")
        for package in wheels.closure():
            for name, source in wheels.files(package).items():
                archive.add(source, name)
    return stream.getvalue()


@contextmanager
def connect(word: str, checkout: Path) -> Iterator[Guest]:
    """A machine `ssh:[user@]host` with the checkout on it. Raises BoardError, LostGuest."""
    log.info("connecting")
    connection = Connection(address(word))
    try:
        guest = Guest(name(word), connection, checkout.resolve())
        guest.wait_ready(scaled(CONNECT_S))
        guest.bring_checkout()
        yield guest
    finally:
        connection.close()


def address(word: str) -> str:
    """[user@]host of a word. Raises BoardError."""
    found = word.removeprefix(SCHEME)
    if not found or found.startswith("-") or any(c.isspace() for c in found):
        raise BoardError(f"{word}: not {SCHEME}[user@]host")
    return found


def name(word: str) -> str:
    """The host, as it stands in ids of tests."""
    return address(word).rpartition("@")[2]
