# SPDX-License-Identifier: GPL-2.0
"""flock(2) locks that die with their holder, and that a waiting writer does not starve on."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL = 0.0005  # s between attempts; flock has no time-out of its own
ACQUIRE_DEADLINE = 300.0  # s: longer than any test may hold a lease


class LockTimeout(Exception):
    """A lock was not to be had in time; the message names its holders."""


class Lock:
    """One lock file, held at most once by this object."""

    def __init__(self, path: Path) -> None:
        """Opens, and creates, the file. Raises OSError where that is not allowed."""
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    @property
    def inode(self) -> int:
        """Inode number of the open file."""
        return os.fstat(self._fd).st_ino

    def try_acquire(self, mode: int) -> bool:
        """LOCK_SH or LOCK_EX, at once or not at all; from one to the other it is not atomic."""
        try:
            fcntl.flock(self._fd, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def acquire(self, mode: int, deadline: float = ACQUIRE_DEADLINE) -> None:
        """Wait for the lock. Raises LockTimeout after `deadline` seconds."""
        end = time.monotonic() + deadline
        while not self.try_acquire(mode):
            if time.monotonic() > end:
                raise LockTimeout(
                    f"{self.path} is still held after {deadline:.0f} s by {self.holders()}"
                )
            time.sleep(POLL)

    def wait(self, mode: int) -> None:
        """Wait for the lock as long as it takes."""
        fcntl.flock(self._fd, mode)

    def release(self) -> None:
        """Give the lock back."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def holders(self) -> str:
        """Who holds it, from /proc/locks."""
        inode = str(self.inode)
        pids = [
            fields[4]
            for fields in (line.split() for line in Path("/proc/locks").read_text().splitlines())
            if fields[1] == "FLOCK" and fields[5].split(":")[2] == inode
        ]
        return ", ".join(f"{pid} ({_command(pid)})" for pid in pids) or "nobody visible here"

    def close(self) -> None:
        """Close the file; that releases it too."""
        os.close(self._fd)


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return "already gone"


class FairLock:
    """A shared and exclusive lock at whose gate everybody queues.

    Without the gate, overlapping shared holders keep an exclusive one out for ever.
    """

    def __init__(self, directory: Path) -> None:
        self._gate = Lock(directory / "gate")
        self._lock = Lock(directory / "lease")

    @contextmanager
    def hold(self, mode: int) -> Iterator[None]:
        """Hold the lock in LOCK_SH or LOCK_EX mode. Raises LockTimeout."""
        self._gate.acquire(fcntl.LOCK_EX)
        try:
            self._lock.acquire(mode)
        finally:
            self._gate.release()
        try:
            yield
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close both files."""
        self._gate.close()
        self._lock.close()
