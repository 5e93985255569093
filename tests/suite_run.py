# SPDX-License-Identifier: GPL-2.0
"""Runs of the suite as processes of their own, and the machine they must leave as it was.

Other runs may come and go at any time. From the first member to the last, of all runs that overlap,
is a session; settings are expected to be as before when the session is over.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TextIO

from lease import journal
from lease.membership import DIRECTORY, Membership, open_members, restore_and_clear
from uapi.settings import read_value

CHECKOUT = Path(__file__).resolve().parent.parent
MARK = "KSMTESTS_MARK"  # in the environment of a run
DEADLINE = 600.0  # s; a run takes four, beside others many times that
QUIET_DEADLINE = 1200.0  # s for the runs of others to end
RESTORE_BOUND = 2.0  # s from the end of the last member
POLL = 0.01  # s
PROGRESS = frozenset(".sxXFE")  # what pytest -q prints for a test
SETTINGS = [Path("/", name) for name in (journal.KSM, journal.THP, *journal.OTHERS)]


class NotYet(Exception):
    """What was waited for did not come about in time."""


def wait_until(done: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """Wait for a condition. Raises NotYet."""
    end = time.monotonic() + deadline
    while not done():
        if time.monotonic() > end:
            raise NotYet(f"{what}: not within {deadline:.0f} s")
        time.sleep(POLL)


def read_settings() -> dict[str, str]:
    """Everything the suite may change, and all writable files beside it."""
    files = [file for path in SETTINGS for file in (path, *sorted(path.rglob("*")))]
    return {
        str(file): read_value(file)
        for file in files
        if file.is_file() and file.stat().st_mode & 0o200
    }


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Settings that are not as expected, in words."""
    return [
        f"{name}: {found[name]}, not {expected[name]}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]


def members() -> set[int]:
    """The processes that are members now, of any run: they hold the lock shared."""
    try:
        status = (DIRECTORY / "members").stat()
    except FileNotFoundError:
        return set()
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {int(line[4]) for line in lines if line[1:4:2] == ["FLOCK", "READ"] and line[5] == file}


@contextlib.contextmanager
def nobody_running() -> Iterator[None]:
    """No run has a member, none can join, and what the last one changed is restored.

    Raises LockTimeout where others never stop.
    """
    while True:
        lock = open_members(DIRECTORY, fcntl.LOCK_EX, QUIET_DEADLINE)
        if not (DIRECTORY / "journal.json").exists():
            break
        restore_and_clear(DIRECTORY, lock)
        lock.close()
    try:
        yield
    finally:
        restore_and_clear(DIRECTORY, lock)
        lock.close()


def settled_settings() -> dict[str, str]:
    """The settings once every run is over."""
    with nobody_running():
        return read_settings()


class Session:
    """The session of now, if there is one."""

    def __init__(self) -> None:
        self._members: TextIO | None = None
        with contextlib.suppress(FileNotFoundError):
            # Kept open, so that no file of a later session can have the same inode number.
            self._members = (DIRECTORY / "members").open()

    def is_over(self) -> bool:
        """Whether its last member has left, which removes the file."""
        with contextlib.suppress(FileNotFoundError):
            if self._members:
                found = (DIRECTORY / "members").stat()
                return not os.path.samestat(found, os.fstat(self._members.fileno()))
        return True


def settings_between_sessions() -> dict[str, str]:
    """The settings as no run has changed them: read, or as the session of now has saved them."""
    try:
        saved = json.loads((DIRECTORY / "journal.json").read_text())
    except FileNotFoundError:
        return read_settings()
    return {f"/{name}": value for name, value in saved["values"].items()}


@contextlib.contextmanager
def machine_to_ourselves() -> Iterator[None]:
    """No other test of any checkout that expects something of this machine's settings runs."""
    directory = os.open(SETTINGS[0], os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


class Role(Enum):
    """What a process does in a run."""

    CONTROLLER = "pytest"
    WORKER = "worker"
    ZYGOTE = "zygote"
    TEST_PROCESS = "test process"
    GUARDIAN = "guardian"


class SuiteRun:
    """`pytest ARGUMENTS` in a session of its own, its output in a file."""

    def __init__(self, output: Path, *arguments: str, wrapper: Sequence[str] = ()) -> None:
        self.output = output
        self._mark = uuid.uuid4().hex
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")
        }
        pytest = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
        with output.open("w") as file:
            self.popen = subprocess.Popen(
                [*wrapper, *pytest, *arguments],
                cwd=CHECKOUT,
                env={**environment, MARK: self._mark, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")

    def wait(self) -> int:
        """Its exit status. Raises TimeoutExpired."""
        return self.popen.wait(DEADLINE)

    def tests_done(self) -> int:
        """How many tests it has reported."""
        lines = [line.partition(" [")[0].strip() for line in self.text().splitlines()]
        return sum(len(line) for line in lines if line and PROGRESS.issuperset(line))

    def processes(self) -> set[int]:
        """Those of its processes that are alive."""
        return {
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and self._owns(int(entry.name))
        }

    def _owns(self, pid: int) -> bool:
        state, _, _, session = _stat(pid)
        # The guardian has a session of its own, the tests' processes have no environment.
        marked = f"{MARK}={self._mark}".encode() in _proc_file(pid, "environ").split(b"\0")
        return state != b"Z" and (marked or int(session) == self.popen.pid)

    def pids(self, role: Role) -> list[int]:
        """Its processes in that role."""
        return sorted(pid for pid in self.processes() if self._role(pid) is role)

    def _role(self, pid: int) -> Role | None:
        command = _proc_file(pid, "cmdline")
        parent = int(_stat(pid)[1])
        if pid == self.popen.pid:
            return Role.CONTROLLER
        if b"lease.guardian" in command:
            return Role.GUARDIAN
        if b"mm.served" in command:
            forked = b"mm.served" in _proc_file(parent, "cmdline")
            return Role.TEST_PROCESS if forked else Role.ZYGOTE
        return Role.WORKER if parent == self.popen.pid else None

    def has_changed_settings(self) -> bool:
        """Whether a worker of it is a member, and tests are going on."""
        return not members().isdisjoint(self.processes()) and all(
            read_value(SETTINGS[0] / name) == "1" for name in ("run", "use_zero_pages")
        )

    def wait_for_tests(self, count: int) -> None:
        """Wait until it has changed settings and reported that many tests. Raises NotYet."""
        wait_until(
            lambda: (
                self.popen.poll() is not None
                or (self.tests_done() >= count and self.has_changed_settings())
            ),
            f"{count} tests of {self.popen.args!r}",
        )

    def kill_group(self) -> None:
        """SIGKILL all its processes but the guardian, which left the group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)

    def kill_everything(self) -> None:
        """SIGKILL all its processes, the guardian first."""
        for pid in self.pids(Role.GUARDIAN):
            kill(pid)
        self.kill_group()
        while left := self.processes():
            for pid in left:
                kill(pid)
        self.popen.wait(DEADLINE)

    def end(self) -> None:
        """End it wherever it is, and have the settings put back."""
        self.kill_group()
        wait_until(lambda: not self._is_running(), "end of a run")
        if DIRECTORY.exists():
            Membership().leave()

    def is_gone(self) -> bool:
        """Whether no process of it is left."""
        return self.popen.poll() is not None and not self.processes()

    def seconds_to_restore(self, before: dict[str, str]) -> float:
        """How long after the end of the last member the settings were as before. Raises NotYet."""
        end = time.monotonic() + QUIET_DEADLINE
        session = Session()
        last_alive = time.monotonic()
        while (now := time.monotonic()) < end:
            if self._is_running():
                session, last_alive = Session(), now
            elif session.is_over():
                if not (wrong := differences(settings_between_sessions(), before)):
                    return now - last_alive
            elif members():
                last_alive = now
            else:
                wrong = [f"{DIRECTORY} is still there"]
            if now - last_alive > RESTORE_BOUND:
                raise NotYet(f"{RESTORE_BOUND:.0f} s after the end {'; '.join(wrong)}")
            time.sleep(POLL)
        raise NotYet(f"there are members after {QUIET_DEADLINE:.0f} s: {members()}")

    def _is_running(self) -> bool:
        roles = [self._role(pid) for pid in self.processes()]
        return self.popen.poll() is None or any(role is not Role.GUARDIAN for role in roles)


def kill(pid: int) -> None:
    """SIGKILL, unless it is gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _proc_file(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # gone, or privileged beyond root: no process of ours
        return b""


def _stat(pid: int) -> list[bytes]:
    """State, parent, process group and session."""
    return (_proc_file(pid, "stat") or b") Z 0 0 0").rpartition(b")")[2].split()[:4]
