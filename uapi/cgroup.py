# SPDX-License-Identifier: GPL-2.0
"""Control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst)."""

import errno
import re
import time
from pathlib import Path

from uapi.settings import read_value, write_value

CONTROLLERS = ("memory", "cpuset")  # that tests use
REMOVAL_DEADLINE = 30.0  # s for killed processes to leave
POLL = 0.002  # s


def root() -> Path | None:
    """Where the hierarchy is mounted; None where it is not."""
    mounts = Path("/proc/self/mounts").read_text()
    found = re.search(r"^\S+ (\S+) cgroup2 ", mounts, re.MULTILINE)
    return Path(found[1]) if found else None


def controllers(path: Path | None = None) -> list[str]:
    """The controllers of the whole hierarchy, or of a group; none where it is not mounted."""
    group = path or root()
    return (group / "cgroup.controllers").read_text().split() if group else []


def missing_controllers(parent: Path) -> list[str]:
    """Those of memory and cpuset that a group has and its children have not."""
    granted = (parent / "cgroup.subtree_control").read_text().split()
    return [name for name in controllers(parent) if name in CONTROLLERS and name not in granted]


def withhold(name: str) -> None:
    """Take a controller from the groups below the root. Raises OSError (EBUSY) if one uses it."""
    if top := root():
        write_value(top / "cgroup.subtree_control", f"-{name}")


class Cgroup:
    """One group of processes; the names of its files are those of the documentation."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make it, with what of memory and cpuset there is. Raises OSError."""
        for name in missing_controllers(self.path.parent):
            write_value(self.path.parent / "cgroup.subtree_control", f"+{name}")
        self.path.mkdir()

    def join(self, pid: int) -> None:
        """Put a process in it; what it had before stays charged where it was."""
        self.set("cgroup.procs", str(pid))

    def set(self, name: str, value: str) -> None:
        """Write one of its files. Raises OSError."""
        write_value(self.path / name, value)

    def get(self, name: str) -> str:
        """Read one of its files."""
        return read_value(self.path / name)

    def table(self, name: str) -> dict[str, int]:
        """One of its files whose lines are a name and a number, memory.stat for instance."""
        lines = (self.path / name).read_text().splitlines()
        return {key: int(value) for key, value in (line.split() for line in lines)}

    def reclaim(self, length: int) -> None:
        """Have so many bytes of it reclaimed, or as many as can be (Linux 5.19)."""
        try:
            self.set("memory.reclaim", str(length))
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise

    def remove(self) -> None:
        """Kill what is in it and below it, and remove all; nothing where it is gone.

        Raises OSError (EBUSY) where a process does not end.
        """
        if not self.path.is_dir():
            return
        self.set("cgroup.kill", "1")
        for child in [path for path in self.path.iterdir() if path.is_dir()]:
            Cgroup(child).remove()
        end = time.monotonic() + REMOVAL_DEADLINE
        while self.table("cgroup.events")["populated"] and time.monotonic() < end:
            time.sleep(POLL)
        self.path.rmdir()
