# SPDX-License-Identifier: GPL-2.0
"""`--record FILE`: a run as lines of JSON, for `python -m reports` and whoever else reads results.

    {"record": 1, "run": HEX, "start": TIME, "again": {KERNEL: [ARGUMENT, ...]}}
    {"test": ID, "names": [...], "kernel": NAME, "kernel_release": ..., "architecture": ...,
     "configuration": ..., "result": one of TOTALS, "directive": ..., "reason": ...,
     "start": TIME, "duration": SECONDS, "log": TEXT, "fingerprint": TEXT,
     "lacks": [TITLE, ...], "guest_seconds": SECONDS or null, "measured": {QUANTITY: NUMBER}}
    {"end": pytest's exit status}

The id names no kernel, and "kernel" is "" but for `--kernel`; "directive" and "names" are KTAP's.
"again" is what pytest is told to have that kernel once more. "fingerprint" is of a defect that the
kernel reported in a failure, "lacks" has the fixes that a kernel is too old for. The first test in
a guest has "guest_seconds", until that guest could run tests. "measured" is what a measurement
found (`ksmtests/perf/`). A record without its last line is of a run that was killed.
pytest-reportlog, which keeps every report instead, is in no distribution, and where the kernel
under test is one has to do without more.
"""

import json
import math
import os
import stat
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO, TypeGuard

import pytest

from plugins.fingerprint import defect
from plugins.fixed_by import LACKING
from plugins.kernel_facts import FACTS, facts
from plugins.kernels import kernel_of, kernels
from plugins.results import Follower, Result, names

VERSION = 1
MEASURED = "measured"  # the property of a report, a dictionary
MOST_MEASURED = 20  # quantities of a test
LONGEST_S = 1e9  # of a duration: a guest may send any number
MACHINE = (
    *("mutant", "kernel_append", "kernel_catalogue"),
    *("guest_memory", "guest_cpus", "guest_nodes"),
)  # options that make a guest what it is


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    parser.getgroup("reporting").addoption(
        "--record", type=Path, metavar="FILE", help="write each test's result as a line of JSON"
    )


def now() -> str:
    """The time, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat()


def again(config: pytest.Config) -> dict[str, list[str]]:
    """Of each kernel, what pytest is told to test that one alone."""
    if "kernel" not in config.option:
        return {}
    chosen = {name: getattr(config.option, name, None) for name in MACHINE}
    options = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in chosen.items()
        if value not in {None, ""}
    ]
    return {place.name: [f"--kernel={place.word}", *options] for place in kernels(config).places}


def measured(reports: Sequence[pytest.TestReport]) -> dict[str, float]:
    """The quantities of a test, as far as they are numbers."""
    found = [
        (str(name)[:80], value)
        for report in reports
        for key, quantities in report.user_properties
        if key == MEASURED and isinstance(quantities, dict)
        for name, value in quantities.items()
    ]
    return {name: value for name, value in found[:MOST_MEASURED] if _is_number(value)}


def lacks(reports: Sequence[pytest.TestReport]) -> list[str]:
    """Titles of the fixes for want of which a test failed."""
    return [str(v) for report in reports for key, v in report.user_properties if key == LACKING]


def guest_seconds(reports: Sequence[pytest.TestReport]) -> float | None:
    """How long a guest took to be ready, told by the first test in it."""
    for report in reports:
        seconds = dict(report.user_properties).get("guest_seconds")
        if _is_number(seconds):
            return float(seconds)
    return None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and abs(value) < LONGEST_S and math.isfinite(value)


class Record(Follower):
    """The file of a run. What it held before stays where the tests cannot even be collected."""

    def __init__(self, config: pytest.Config, file: TextIO) -> None:
        super().__init__()
        self._config = config
        self._file = file
        self._begun = False
        self._started: dict[str, str] = {}
        self._facts: dict[str, dict[str, str]] = {}  # of kernels, by name

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            self._file.truncate(0)
        head = {"record": VERSION, "run": uuid.uuid4().hex, "start": now()}
        self._write({**head, "again": again(self._config)})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """Begin."""
        self._begin()

    def _write(self, data: dict[str, object]) -> None:
        self._file.write(json.dumps(data) + "\n")
        self._file.flush()

    def begun(self, nodeid: str) -> None:
        """Note the time."""
        self._started[nodeid] = now()

    def ended(self, nodeid: str, reports: Sequence[pytest.TestReport], result: Result) -> None:
        """Write the test's line."""
        kernel, bare = kernel_of(self._config, nodeid)
        for report in reports:
            self._facts[kernel] = facts(report) or self._facts.get(kernel, {})
        self._write(
            {
                "test": bare,
                "names": names(bare),
                "kernel": kernel,
                **dict.fromkeys(FACTS, ""),
                **self._facts.get(kernel, {}),
                "result": result.total,
                "directive": result.directive,
                "reason": result.reason,
                "start": self._started.pop(nodeid, now()),
                "duration": sum(r.duration for r in reports if 0 <= r.duration < LONGEST_S),
                "log": "\n".join(result.log()),
                "fingerprint": defect(reports),
                "lacks": lacks(reports),
                "guest_seconds": guest_seconds(reports),
                "measured": measured(reports),
            }
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write what was running, and the end."""
        super().pytest_sessionfinish(session)
        if session.exitstatus != pytest.ExitCode.USAGE_ERROR:
            self._begin()
        if self._begun:
            self._write({"end": int(session.exitstatus)})
        self._file.close()


def pytest_configure(config: pytest.Config) -> None:
    """Begin the file."""
    record = config.option.record
    if record is None or hasattr(config, "workerinput"):
        return
    try:
        file = record.open("a", encoding="utf-8")
    except OSError as error:
        raise pytest.UsageError(f"--record: {error}") from error
    config.pluginmanager.register(Record(config, file), "record")
