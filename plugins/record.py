# SPDX-License-Identifier: GPL-2.0
"""`--record FILE`: a run as lines of JSON, for `python -m reports` and whoever else reads results.

    {"record": 1, "run": HEX, "start": TIME}
    {"test": ID, "names": [...], "kernel": NAME, "kernel_release": ..., "architecture": ...,
     "configuration": ..., "result": one of TOTALS, "directive": ..., "reason": ...,
     "start": TIME, "duration": SECONDS, "log": TEXT, "fingerprint": of a defect of the kernel}
    {"end": pytest's exit status}

The id names no kernel, and "kernel" is "" but for `--kernel`; "directive" and "names" are KTAP's. A
record without its last line is of a run that was killed. pytest-reportlog, which keeps every report
instead, is in no distribution, and where the kernel under test is one has to do without more.
"""

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import pytest

from plugins.fingerprint import defect
from plugins.kernel_facts import FACTS, facts
from plugins.kernels import kernel_of
from plugins.results import Follower, Result, names

VERSION = 1


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    parser.getgroup("reporting").addoption(
        "--record", type=Path, metavar="FILE", help="write each test's result as a line of JSON"
    )


def now() -> str:
    """The time, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat()


class Record(Follower):
    """The file of a run."""

    def __init__(self, config: pytest.Config, file: TextIO) -> None:
        super().__init__()
        self._config = config
        self._file = file
        self._started: dict[str, str] = {}
        self._facts: dict[str, dict[str, str]] = {}  # of kernels, by name
        self._write({"record": VERSION, "run": uuid.uuid4().hex, "start": now()})

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
                "duration": sum(report.duration for report in reports),
                "log": "\n".join(result.log()),
                "fingerprint": defect(reports),
            }
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write what was running, and the end."""
        super().pytest_sessionfinish(session)
        self._write({"end": int(session.exitstatus)})
        self._file.close()


def pytest_configure(config: pytest.Config) -> None:
    """Begin the file."""
    record = config.option.record
    if record is None or hasattr(config, "workerinput"):
        return
    try:
        file = record.open("w", encoding="utf-8")
    except OSError as error:
        raise pytest.UsageError(f"--record: {error}") from error
    config.pluginmanager.register(Record(config, file), "record")
