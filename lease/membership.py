# SPDX-License-Identifier: GPL-2.0
"""Taking part in the use of this kernel's KSM: every worker of every run is a member.

The first member saves the settings in the journal and starts the guardian. Whoever finds itself
last puts them back and takes down what tests have made; when that was SIGKILL, it is the guardian.
"""

import contextlib
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lease import belongings, journal
from lease.locks import ACQUIRE_DEADLINE, FairLock, Lock
from uapi import tracefs

ROOT = Path(__file__).parent.parent
DIRECTORY = Path("/run/ksmtests")
RESTORE_DEADLINE = 10.0  # s


class UnsafeDirectory(Exception):
    """Somebody else could change the journal."""


def _make_directory(directory: Path) -> None:
    # Not exist_ok: it fails where the last member removes the directory at that moment.
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)


def _check_directory(directory: Path) -> None:
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise UnsafeDirectory(
            f"{directory} is not a directory of user {os.geteuid()} alone "
            f"(owner {status.st_uid}, mode {status.st_mode:o}): remove it"
        )


def _linked(lock: Lock) -> bool:
    """Whether the lock's file is still the one under its name."""
    try:
        return lock.path.stat().st_ino == lock.inode
    except FileNotFoundError:
        return False


def open_members(directory: Path, mode: int, deadline: float = ACQUIRE_DEADLINE) -> Lock:
    """The members' lock, held in `mode`; the last member removes the file, so look again.

    Raises OSError, UnsafeDirectory, LockTimeout.
    """
    while True:
        _make_directory(directory)
        try:
            _check_directory(directory)
            lock = Lock(directory / "members")
        except FileNotFoundError:
            continue
        lock.acquire(mode, deadline)
        if _linked(lock):
            return lock
        lock.close()


class Membership:
    """This process's part; `lease` is the lock its tests take."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        """Raises OSError where settings cannot be read, CalledProcessError without a guardian,
        UnsafeDirectory, CorruptJournal, LockTimeout.
        """
        self.directory = directory
        self._members = open_members(directory, fcntl.LOCK_SH)
        self.lease = FairLock(directory)
        self.repaired = False
        self._prepare()

    def _prepare(self) -> None:
        with _one_at_a_time(self.directory):
            path = self.directory / "journal.json"
            guarded = not _obtainable(self.directory / "guardian")
            if journal.load(path) is None:
                belongings.forget(self.directory)
                journal.save(journal.take(), path)
            elif not guarded:
                self.repaired = True
            if not guarded:
                start_guardian(self.directory)

    def leave(self) -> list[str]:
        """End the membership; the last one restores. Returns what could not be restored."""
        self.lease.close()
        try:
            with _one_at_a_time(self.directory):
                self._members.release()
                if self._members.try_acquire(fcntl.LOCK_EX):
                    return restore_and_clear(self.directory, self._members)
                # Somebody who restores holds it exclusively: its end is ours to see.
                self._members.acquire(fcntl.LOCK_SH, RESTORE_DEADLINE)
                return []
        finally:
            self._members.close()


@contextlib.contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Join and leave in turn: of two that leave at once, each would take the other for a member."""
    turnstile = Lock(directory / "turnstile")
    try:
        turnstile.acquire(fcntl.LOCK_EX)
        yield
    finally:
        turnstile.close()


def _obtainable(path: Path) -> bool:
    lock = Lock(path)
    try:
        return lock.try_acquire(fcntl.LOCK_EX)
    finally:
        lock.close()


def start_guardian(directory: Path) -> None:
    """Start the guardian; it is on guard when this returns. Raises CalledProcessError."""
    subprocess.run(
        [sys.executable, "-m", "lease.guardian", str(directory)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
    )


def restore_and_clear(directory: Path, members: Lock) -> list[str]:
    """Restore from the journal and remove the directory; the members' lock must be ours alone.

    Returns what could not be restored, in words.
    """
    if not _linked(members):
        return []  # somebody else has done it; what is there now is another run's
    try:
        found = journal.load(directory / "journal.json")
    except journal.CorruptJournal as error:
        return [str(error)]
    problems = belongings.take_down(directory) + journal.restore(found) if found else []
    tracefs.remove_leftovers()
    for name in ("journal.json", "gate", "lease", "turnstile", "guardian", "members"):
        (directory / name).unlink(missing_ok=True)
    # A new member may be creating its files already.
    with contextlib.suppress(OSError):
        directory.rmdir()
    return problems
