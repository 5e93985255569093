# SPDX-License-Identifier: GPL-2.0
"""Events of the kernel in a trace instance of one's own (Documentation/trace/ftrace.rst).

An instance has a buffer and switches of its own, so it disturbs nobody who traces. tracefs is
mounted out of sight where it is not mounted. An instance is named after the process that
made it; what a killed one left behind is removed by whoever comes next, and by the guardian.
"""

import contextlib
import ctypes
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

# fsopen(2) and its like have these numbers on all architectures but alpha. They are called without
# uapi.libc, as the guardian runs without cffi.
FSOPEN, FSCONFIG, FSMOUNT = 430, 431, 432
FSCONFIG_CMD_CREATE, CLOEXEC = 6, 1  # of <linux/mount.h>
_syscall = ctypes.CDLL(None, use_errno=True).syscall

PREFIX = "ksmtests-"
BUFFER_KIB = "1024"  # for each CPU
_serial = itertools.count(1)
_LINE = re.compile(
    r"^\s*(?P<task>.*)-(?P<pid>\d+)\s+\[\d+\]\s+\S+\s+\d+\.\d+: (?P<name>\w+): (?P<text>.*)$"
)
_MOUNT = re.compile(r"^\S+ \S+ \S+ / (\S+) .* - tracefs ", re.MULTILINE)
_LOST = re.compile(r"LOST \d+ EVENTS")


@dataclass(frozen=True)
class Event:
    """One event."""

    name: str
    pid: int  # of the thread during which it happened
    text: str  # its fields, as the event prints them


class EventsLost(Exception):
    """The buffer was too small for what happened."""


def _called(number: int, *arguments: Any) -> int:
    """syscall(2). Raises OSError."""
    result = int(_syscall(number, *arguments))
    if result < 0:
        raise OSError(
            ctypes.get_errno(), f"{os.strerror(ctypes.get_errno())}: system call {number}"
        )
    return result


def _mount_out_of_sight() -> int:
    """Mount tracefs nowhere; closing the descriptor unmounts it."""
    context = _called(FSOPEN, b"tracefs", CLOEXEC)
    try:
        _called(FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        return _called(FSMOUNT, context, CLOEXEC, 0)
    finally:
        os.close(context)


@contextlib.contextmanager
def _mounted() -> Iterator[Path]:
    """tracefs, for a while. Raises OSError without CONFIG_TRACING, or for want of privileges."""
    mounts = Path("/proc/self/mountinfo").read_text()
    if found := _MOUNT.search(mounts):
        yield Path(found[1])
        return
    # Only where it is not mounted: to mount it again would change who may read it (before 6.9).
    fd = _mount_out_of_sight()
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def has_events(system: str) -> bool:
    """Whether the kernel has events of a system such as `ksm`."""
    try:
        with _mounted() as root:
            return (root / "events" / system).is_dir()
    except OSError:
        return False


def instances() -> list[str]:
    """The names of all of the suite's instances there are."""
    with _mounted() as root:
        return [path.name for path in (root / "instances").glob(f"{PREFIX}*")]


def remove_leftovers() -> None:
    """Remove instances whose process is gone; nothing where there is no tracefs."""
    with contextlib.suppress(OSError), _mounted() as root:
        for path in (root / "instances").glob(f"{PREFIX}*"):
            if not Path(f"/proc/{path.name.split('-')[1]}").exists():
                with contextlib.suppress(OSError):
                    path.rmdir()


def parse(text: str) -> list[Event]:
    """The events of a file `trace`. Raises EventsLost, and ValueError for a line that is none."""
    events = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if _LOST.search(line):
            raise EventsLost(line)
        match = _LINE.match(line)
        if match is None:
            raise ValueError(f"not an event: {line!r}")
        events.append(Event(match["name"], int(match["pid"]), match["text"]))
    return events


class Instance:
    """Traces all events of a system while it is open; a context manager."""

    def __init__(self, system: str) -> None:
        self.system = system

    def __enter__(self) -> Self:
        remove_leftovers()
        with contextlib.ExitStack() as stack:
            root = stack.enter_context(_mounted())
            self._path = root / "instances" / f"{PREFIX}{os.getpid()}-{next(_serial)}"
            self._path.mkdir()
            stack.callback(self._path.rmdir)
            self._write("buffer_size_kb", BUFFER_KIB)
            # Addresses as they are, where the kernel offers it: a hash may name two objects alike.
            if (self._path / "options/hash-ptr").exists():
                self._write("options/hash-ptr", "0")
            self._write(f"events/{self.system}/enable", "1")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _write(self, name: str, value: str) -> None:
        (self._path / name).write_text(value)

    def clear(self) -> None:
        """Forget what was traced so far."""
        self._write("trace", "")

    def events(self) -> list[Event]:
        """What was traced so far. Raises EventsLost."""
        return parse((self._path / "trace").read_text())
