# SPDX-License-Identifier: GPL-2.0
"""Records that `--record` wrote, read back."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from plugins.results import TOTALS

VERSION = 1


class RecordError(Exception):
    """A file is no record; the message says which line of it, and why."""


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
    fingerprint: str = ""
    lacks: list[str] = field(default_factory=list)
    guest_seconds: float | None = None
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A record."""

    run: str  # unique
    start: str
    tests: list[Outcome]
    status: int | None  # pytest's; None where the run was killed
    again: Mapping[str, list[str]] = field(default_factory=dict)  # by kernel, as it is written

    @property
    def skipped(self) -> bool:
        """Whether it said nothing of the kernel, to its end."""
        return self.status == 0 and all(test.result == "skip" for test in self.tests)


def _text(value: object) -> bool:
    """Whether it is a text that can be written, which half of a surrogate pair cannot."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _time(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _table(of: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(of, value.values()))


Checks = Mapping[str, Callable[[object], bool]]  # what is fit for a field that is no plain text
OUTCOME: Checks = {
    "names": lambda value: _texts(value) and bool(value),
    "result": lambda value: value in TOTALS,
    "start": _time,
    "duration": lambda value: _number(value) and value >= 0,  # type: ignore[operator]
    "lacks": _texts,
    "guest_seconds": lambda value: value is None or _number(value),
    "measured": _table(_number),
}
HEAD: Checks = {"start": _time, "again": _table(_texts)}
HEAD_FIELDS = ("run", "start", "again")
REQUIRED = {one.name for one in fields(Outcome) if one.default is one.default_factory is MISSING}
KNOWN = {one.name for one in fields(Outcome)}


def read(path: Path) -> Run:
    """Read a record. Raises RecordError."""
    head: dict[str, Any] = {}
    tests: list[Outcome] = []
    status = None
    try:
        for number, line in enumerate(_lines(path), 1):
            data = _object(line, f"{path}, line {number}")
            if not head:
                head = _head(data, path)
            elif "test" in data:
                tests.append(_outcome(data, f"{path}, line {number}"))
            status = data.get("end")
    except OSError as error:
        raise RecordError(f"{path}: {error}") from error
    if not head:
        raise RecordError(f"{path} is no record of version {VERSION}, which --record writes")
    if not isinstance(status, int | None):
        raise RecordError(f"{path}: ends with {status!r:.80}, which is no exit status")
    return Run(head["run"], head["start"], tests, status, head.get("again", {}))


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):  # else the run was killed while it wrote it
                yield line


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        data = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: {error}") from error
    if not isinstance(data, dict):
        raise RecordError(f"{where} is no object: {data!r:.80}")
    return data


def _head(data: dict[str, Any], path: Path) -> dict[str, Any]:
    if data.get("record") != VERSION:
        raise RecordError(f"{path} is no record of version {VERSION}, which --record writes")
    known: dict[str, Any] = {key: data[key] for key in HEAD_FIELDS if key in data}
    if missing := {"run", "start"} - known.keys():
        raise RecordError(f"{path}, line 1: {', '.join(sorted(missing))} is missing")
    _check(known, HEAD, f"{path}, line 1")
    return known


def _outcome(data: dict[str, Any], where: str) -> Outcome:
    name = f"{data['test']!r:.200}"
    if missing := REQUIRED - data.keys():
        raise RecordError(f"{where}: {name} has no {', '.join(sorted(missing))}")
    if unknown := data.keys() - KNOWN:
        raise RecordError(f"{where}: {name} has unknown {', '.join(sorted(unknown))!r:.80}")
    _check(data, OUTCOME, f"{where}: {name}")
    return Outcome(**data)


def _check(data: Mapping[str, object], checks: Checks, where: str) -> None:
    for key, value in data.items():
        try:
            fit = checks.get(key, _text)(value)
        except (OverflowError, TypeError):  # an integer beyond floats; a list where a name belongs
            fit = False
        if not fit:
            raise RecordError(f"{where}: {key} is {value!r:.80}, which it cannot be")
