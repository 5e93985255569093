# SPDX-License-Identifier: GPL-2.0
"""Records of runs that never were."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reports.records import Outcome, Run
from tests.test_kcidb import TEST

HEAD = {"record": 1, "run": "cafe", "start": "2026-01-01T00:00:00+00:00"}
LOG = "E   AssertionError: 511 are too few"


def outcome(test: str, result: str = "pass", kernel: str = "", **fields: Any) -> Outcome:
    """A test of ksmtests/test_a.py."""
    reason = {"skip": "too cold", "xfail": "it forgets"}.get(result, "")
    log = LOG if result in {"fail", "error"} else ""
    known = {"result": result, "kernel": kernel, "reason": reason, "log": log, **fields}
    names = ["ksmtests.test_a", *test.split("::")]
    return replace(TEST, test=f"ksmtests/test_a.py::{test}", names=names, **known)


def run(*tests: Outcome, day: int = 1, status: int | None = 0) -> Run:
    """A run of these tests."""
    start = f"2026-01-{day:02}T00:00:00+00:00"
    return Run(run=f"cafe{day}", start=start, tests=list(tests), status=status)


def lines(one: Run) -> list[dict[str, Any]]:
    """What its record holds."""
    head = {**HEAD, "run": one.run, "start": one.start, "again": dict(one.again)}
    end = [] if one.status is None else [{"end": one.status}]
    return [head, *map(asdict, one.tests), *end]


def written(one: Run, file: Path) -> Path:
    """The file with its record."""
    file.write_text("".join(json.dumps(line) + "\n" for line in lines(one)))
    return file
