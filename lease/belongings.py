# SPDX-License-Identifier: GPL-2.0
"""What tests have made in the kernel besides settings: noted on disk, so that it can be taken down.

A note is an empty file, named after the kind of thing and the thing. It is written before the thing
is made, or as soon as that has a name, and removed when it has been taken down. What killed runs
leave is taken down by who restores the settings.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from uapi import cgroup, hwpoison, memory_blocks, zram

NOTES = "belongings"  # beside the journal

# In this order: processes hold the other things.
TAKE_DOWN: Mapping[str, Callable[[str], None]] = {
    "cgroup": lambda path: cgroup.Cgroup(Path(path)).remove(),
    "controller": cgroup.withhold,
    "swap device": lambda number: zram.remove(int(number)),
    "page frame": lambda number: hwpoison.unpoison(int(number)),
    "memory block": lambda number: memory_blocks.bring_online(int(number)),
}


def note(directory: Path, kind: str, name: str) -> Path:
    """Have a thing taken down at the end of the run at the latest; the note's path."""
    path = directory / NOTES / f"{kind}.{quote(name, safe='')}"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch()
    return path


@contextlib.contextmanager
def belonging(directory: Path, kind: str, name: str) -> Iterator[None]:
    """Have a thing taken down at the end of the block. Raises OSError where that fails."""
    path = note(directory, kind, name)
    try:
        yield
    finally:
        TAKE_DOWN[kind](name)
        path.unlink()


def take_down(directory: Path) -> list[str]:
    """Take down all that is noted, and forget it; what could not be, in words.

    Nothing is raised: the settings come next. Another checkout, of another version, may have noted
    what is unknown here.
    """
    problems = []
    for kind, name in sorted(_noted(directory), key=_rank):
        try:
            TAKE_DOWN[kind](name)
        except Exception as error:  # noqa: BLE001
            why = "of an unknown kind" if kind not in TAKE_DOWN else error
            problems.append(f"{kind} {name} is still there: {why}")
    forget(directory)
    return problems


def forget(directory: Path) -> None:
    """Remove all notes: a boot leaves nothing of what they name."""
    shutil.rmtree(directory / NOTES, ignore_errors=True)


def _noted(directory: Path) -> Iterator[tuple[str, str]]:
    for path in (directory / NOTES).glob("*"):
        kind, _, name = path.name.partition(".")
        yield kind, unquote(name)


def _rank(noted: tuple[str, str]) -> tuple[int, str]:
    kind, name = noted
    kinds = list(TAKE_DOWN)
    return kinds.index(kind) if kind in kinds else len(kinds), name
