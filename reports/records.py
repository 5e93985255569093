# SPDX-License-Identifier: GPL-2.0
"""Records that `--record` wrote, read back."""

import json
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

VERSION = 1


class RecordError(Exception):
    """A file is no record; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """One test on one kernel; plugins.record, which writes them, tells what the fields are."""

    test: str
    names: list[str]
    kernel: str
    kernel_release: str
    architecture: str
    configuration: str
    result: str
    directive: str
    reason: str
    start: str
    duration: float  # s
    log: str
    fingerprint: str = ""  # of a defect that the kernel reported; some records do not say


@dataclass(frozen=True)
class Run:
    """A record."""

    run: str  # unique
    start: str
    tests: list[Outcome]
    status: int | None  # pytest's; None where the run was killed

    @property
    def skipped(self) -> bool:
        """Whether it said nothing of the kernel, to its end."""
        return self.status == 0 and all(test.result == "skip" for test in self.tests)


def read(path: Path) -> Run:
    """Read a record. Raises RecordError."""
    try:
        lines = list(_lines(path))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: {error}") from error
    if not lines or not isinstance(lines[0], dict) or lines[0].get("record") != VERSION:
        raise RecordError(f"{path} is no record of version {VERSION}, which --record writes")
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict):
            raise RecordError(f"{path}: line {number} is no object")
    known = {field.name for field in fields(Outcome)}
    needed = {field.name for field in fields(Outcome) if field.default is MISSING}
    tests = [line for line in lines if "test" in line]
    for line in tests:
        if not needed <= set(line) <= known:
            raise RecordError(f"{path}: {line['test']} has {sorted(line)}, not {sorted(known)}")
    return Run(
        run=lines[0]["run"],
        start=lines[0]["start"],
        tests=[Outcome(**line) for line in tests],
        status=lines[-1].get("end"),
    )


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):  # else the run was killed while it wrote it
                yield json.loads(line)
