# SPDX-License-Identifier: GPL-2.0
"""The cache of fetched and built things: private to its user, shared by that user's processes.

What lies in it under its final name is complete: it is made elsewhere in the cache and renamed by
publish(). What a killed process leaves unfinished is removed by the next one, under the same lock.
"""

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_TIMEOUT_S = 3600  # longer than the slowest download that may hold a lock
LOCK_POLL_S = 0.1


class CacheError(Exception):
    """The cache cannot be used: it is not private, or somebody holds it for too long."""


class LockedError(CacheError):
    """Somebody else holds a lock."""


def cache_dir() -> Path:
    """Return the cache directory, made with mode 0700 when it does not exist.

    It is ``$XDG_CACHE_HOME/ksmtests``, or ``~/.cache/ksmtests`` when that variable is unset or not
    an absolute path. Raises CacheError when somebody else could put something into it.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = Path.home() / ".cache"
    directory = base / "ksmtests"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(
            f"cannot make the cache directory {directory} ({error.strerror}): "
            "set XDG_CACHE_HOME to a directory that can be written to"
        ) from error
    directory = directory.resolve()
    _refuse_shared(directory)
    return directory


def _refuse_shared(directory: Path) -> None:
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise CacheError(
            f"the cache directory {directory} belongs to uid {status.st_uid}, but this is uid "
            f"{os.geteuid()}: set XDG_CACHE_HOME to a directory of your own"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CacheError(
            f"the cache directory {directory} has mode {stat.S_IMODE(status.st_mode):04o}, so that "
            f"others can write to it: look at what is in it, then `chmod 0700 {directory}`"
        )
    for parent in directory.parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise CacheError(
                f"anyone can replace the cache directory {directory}, because {parent} has mode "
                f"{stat.S_IMODE(mode):04o}: `chmod o-w {parent}`, or set XDG_CACHE_HOME to another "
                "directory"
            )


@contextmanager
def locked(path: Path, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[int]:
    """Hold the lock file `path` for the length of a with block; its value is the descriptor.

    The lock goes with the last copy of the descriptor, so a child that was given it (`pass_fds`)
    keeps others away even when this process is killed. Raises LockedError where others hold it for
    `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"{path} has been locked by another process for {timeout_s:.0f} s: see "
                    f"`fuser {path}` who it is, and end it if it hangs"
                )
            time.sleep(LOCK_POLL_S)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def workshop(directory: Path) -> Iterator[Path]:
    """Give an empty `directory` to make something in, and remove it afterwards.

    What a killed process left in it is removed first, so the caller holds a lock on it.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def publish(made: Path, final: Path) -> Path:
    """Rename the complete directory `made` to `final`, unless somebody did so first."""
    final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.sync()  # or a power cut could leave empty files under the final name
    try:
        made.rename(final)
    except OSError:
        if not final.is_dir():
            raise
    return final
