# SPDX-License-Identifier: GPL-2.0
"""The first thing run on a machine over ssh, by `python3 -c`: unpacks the agent and starts it.

It reads the length of an archive in 8 bytes and the archive; the agent serves what follows. Its
directory is removed when the agent has ended, and one that a killed run left by the next run.
"""

import contextlib
import fcntl
import io
import os
import shutil
import signal
import sys
import tarfile
import tempfile
from pathlib import Path

PREFIX = "ksmtests-board-"
OLDEST = (3, 11)
ENDED_BY = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def complaint() -> str | None:
    """What this machine lacks."""
    if sys.version_info < OLDEST:
        return f"python3 is {sys.version.split()[0]}, and 3.11 is needed"
    try:
        import _cffi_backend  # noqa: F401, PLC0415
    except ImportError:
        return "python3 has no _cffi_backend: apt-get install python3-cffi-backend"
    return None


def read(size: int) -> bytes:
    """So many bytes of standard input."""
    data = b""
    while len(data) < size:
        more = os.read(0, min(size - len(data), 1 << 20))
        if not more:
            raise SystemExit(1)
        data += more
    return data


def claim(directory: Path) -> int:
    """Open a directory and say that it is in use; -1 where it is, or is gone."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return -1
    return descriptor


def make_directory() -> Path:
    """A directory in use; another run that comes before we say so takes it for a leftover."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX))
        if (lock := claim(directory)) >= 0:
            if directory.exists():
                return directory
            os.close(lock)


def remove_leftovers() -> None:
    """Remove what runs have left that were killed."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):  # another run was faster
            if directory.owner() == Path.home().owner() and (lock := claim(directory)) >= 0:
                shutil.rmtree(directory, ignore_errors=True)
                os.close(lock)


def serve(directory: Path, lacking: str | None) -> None:
    """Be the agent."""
    sys.path.insert(0, str(directory))
    from guests import agent  # noqa: PLC0415 - it has just been unpacked

    serving = agent.Agent(0, directory, output=os.dup(1))
    os.dup2(2, 1)  # what is printed is no message
    if lacking:
        serving.tell(event="refused", reason=lacking)
        return
    os.environ["PYTHONPATH"] = str(directory)
    agent.preload()
    serving.serve()


def main() -> None:
    """Unpack, serve, tidy up."""
    for number in ENDED_BY:
        signal.signal(number, signal.SIG_IGN)  # the connection's end decides
    cargo = read(int.from_bytes(read(8), "big"))
    remove_leftovers()
    directory = make_directory()
    try:
        child = os.fork()
        if child == 0:
            for number in ENDED_BY:
                signal.signal(number, signal.SIG_DFL)
            with tarfile.open(fileobj=io.BytesIO(cargo)) as archive:
                archive.extractall(directory)  # noqa: S202 - sent by whoever logged in
            serve(directory, complaint())
            os._exit(0)
        os.waitpid(child, 0)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
