# SPDX-License-Identifier: GPL-2.0
"""The settings as they were before the first change, on disk, and the way back to them."""

import errno
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from uapi.fault_injection import FAIL_PAGE_ALLOC, FAILSLAB, countdown, marked_to_fail
from uapi.ksm import ksmd_pid, zero_pages_of_others
from uapi.settings import read_value, write_value

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KSM = "sys/kernel/mm/ksm"
THP = "sys/kernel/mm/transparent_hugepage"
FAULTS = (FAILSLAB, FAIL_PAGE_ALLOC)
OTHERS = ("proc/sys/kernel/task_delayacct",)
BUSY_DEADLINE = 10.0  # s; with run=2 nothing is shared, but for what processes leave that end
BUSY_PAUSE = 0.01  # s, for them to do so


class CorruptJournal(Exception):
    """The journal on disk cannot be read, so nobody knows what the settings were."""


@dataclass(frozen=True)
class Journal:
    """What to restore, and the boot it is true of."""

    boot_id: str
    values: dict[str, str]  # path below the root -> value
    nothing_merged: bool  # no page was merged, and nothing was merging any


def writable_files(root: Path) -> list[Path]:
    """Every setting the suite may change, and whatever lies beside it."""
    directories = (KSM, THP, f"{THP}/khugepaged", *filter(partial(_is_open, root), FAULTS))
    files = [
        path
        for directory in (root / name for name in directories)
        if directory.is_dir()
        for path in sorted(directory.iterdir())
    ]
    files += [root / name for name in (*OTHERS, *_of_ksmd())]
    return [path for path in files if path.is_file() and path.stat().st_mode & 0o200]


def _is_open(root: Path, directory: str) -> bool:
    """Whether settings of debugfs are there, and may be read: not under lockdown."""
    try:
        read_value(root / directory / "probability")
    except OSError:
        return False
    return True


def _of_ksmd() -> list[str]:
    """Which allocations of ksmd fail; nothing where ksmd is not to be seen."""
    try:
        ksmd = ksmd_pid()
    except LookupError:
        return []
    return [str(file(ksmd).relative_to("/")) for file in (countdown, marked_to_fail)]


def take(root: Path = Path("/")) -> Journal:
    """Read every setting. Raises OSError."""
    ksm = root / KSM
    values = {str(path.relative_to(root)): read_value(path) for path in writable_files(root)}
    # Not the system's count of zero pages: kernel defects leave it above what any process has.
    merged = read_value(ksm / "pages_shared") != "0" or zero_pages_of_others(frozenset())
    idle = not merged and values[f"{KSM}/run"] != "1"
    return Journal(read_value(BOOT_ID), values, idle)


def of_faults(values: dict[str, str]) -> dict[str, str]:
    """Those of the settings that make allocations fail."""
    names = (*(f"{directory}/" for directory in FAULTS), *_of_ksmd())
    return {name: value for name, value in values.items() if name.startswith(names)}


def save(journal: Journal, path: Path) -> None:
    """Write the whole journal or none of it, and wait until it is on the disk."""
    draft = path.with_suffix(".draft")
    with draft.open("w") as file:
        json.dump(asdict(journal), file)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def _parse(text: str) -> Journal:
    match json.loads(text):
        case {
            "boot_id": str(boot_id),
            "values": dict(values),
            "nothing_merged": bool(nothing_merged),
        } if all(isinstance(value, str) for value in values.values()):
            return Journal(boot_id, values, nothing_merged)
    raise ValueError("it is not what a journal looks like")


def load(path: Path) -> Journal | None:
    """The journal on disk; None where there is none or it is of an earlier boot.

    A boot sets every setting anew, so what an earlier one left needs no repair.
    Raises CorruptJournal.
    """
    try:
        journal = _parse(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CorruptJournal(
            f"{path}, the settings as they were before the tests changed them, cannot be read "
            f"({error}): set what is below /{KSM} and /{THP} as you want it, then remove {path}"
        ) from error
    return journal if journal.boot_id == read_value(BOOT_ID) else None


def restore(journal: Journal, root: Path = Path("/")) -> list[str]:
    """Put every setting back; returns what could not be, in words."""
    problems = apply({f"{KSM}/run": "2"}, root) if _must_unmerge(journal, root) else []
    return problems + apply(journal.values, root)


def _must_unmerge(journal: Journal, root: Path) -> bool:
    """Whether nothing was merged before, or zero pages were placed where none were asked for."""
    if journal.nothing_merged:
        return True
    placed = root / KSM / "ksm_zero_pages"
    return (
        journal.values.get(f"{KSM}/use_zero_pages") == "0"
        and placed.exists()
        and read_value(placed) != "0"
    )


def apply(values: dict[str, str], root: Path = Path("/")) -> list[str]:
    """Bring settings to `values`, in an order the kernel accepts; returns what failed, in words.

    Names are paths below `root`; one that already has its value is not written.
    """
    problems: list[str] = []
    for name in sorted(values, key=_rank):
        try:
            _bring_to(root / name, values[name])
        except OSError as error:
            if not _refused_by_advisor(name, values):
                problems.append(str(error))
    return problems


def _rank(name: str) -> tuple[int, str]:
    """Bounds, then the advisor, which begins at one of them, then all it owns; `run` last."""
    if name == f"{KSM}/run":
        return 3, name
    if name == f"{KSM}/advisor_mode":
        return 1, name
    return (0 if name.startswith(f"{KSM}/advisor_") else 2), name


def _refused_by_advisor(name: str, values: dict[str, str]) -> bool:
    """The advisor owns pages_to_scan while it is on."""
    return name == f"{KSM}/pages_to_scan" and values.get(f"{KSM}/advisor_mode") == "scan-time"


def _bring_to(path: Path, value: str) -> None:
    """Write where it differs; what is busy is retried with everything unmerged, for a while."""
    if read_value(path) == value:
        return
    end = math.inf  # until all is unmerged: what is written before waits for ksmd, maybe long
    while True:
        try:
            write_value(path, value)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
        else:
            return
        write_value(path.with_name("run"), "0")
        write_value(path.with_name("run"), "2")
        end = min(end, time.monotonic() + BUSY_DEADLINE)
        time.sleep(BUSY_PAUSE)
