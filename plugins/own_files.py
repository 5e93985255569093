# SPDX-License-Identifier: GPL-2.0
"""Root runs nothing that just anybody could have put there.

Only what all users can write is refused. Who owns the checkout, or is in its group, is trusted: it
is they who offer their tests to root, as with `sudo make run_tests` in one's own clone.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

SKIPPED = frozenset((".git", ".venv", "__pycache__"))


def pytest_configure(config: pytest.Config) -> None:
    """Refuse."""
    if os.geteuid() == 0:
        directory = config.rootpath
        if (path := open_to_all(directory)) is not None:
            raise pytest.UsageError(
                f"root does not run tests of {directory}, because any user can change what is "
                f"in {path} (mode {stat.S_IMODE(path.stat().st_mode):04o}): look at what is "
                f"there, then `chmod -R o-w {path}`, or use a copy elsewhere"
            )


def open_to_all(directory: Path) -> Path | None:
    """What of a directory of Python, or above it, any user can write."""
    for parent in directory.parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return parent
    return next((path for path in _programs(directory) if path.stat().st_mode & stat.S_IWOTH), None)


def _programs(directory: Path) -> Iterator[Path]:
    """The directories, and the files that Python or pytest would execute."""
    yield directory
    for entry in os.scandir(directory):
        if entry.is_symlink():
            continue
        if entry.is_dir() and entry.name not in SKIPPED:
            yield from _programs(Path(entry.path))
        elif entry.name.endswith((".py", ".toml", ".ini", ".so")):
            yield Path(entry.path)
