# SPDX-License-Identifier: GPL-2.0
"""A run as tmt takes it: the results of a test whose `result` is `custom`."""

from typing import Any

from reports.records import Outcome, Run

RESULTS = {
    "pass": "pass",
    "xpass": "warn",
    "fail": "fail",
    "xfail": "info",
    "error": "error",
    "skip": "skip",
}


def tmt(run: Run) -> list[dict[str, Any]]:
    """What results.json holds; the run as a whole is the first of them."""
    whole = "skip" if run.skipped else {0: "pass", None: "error"}.get(run.status, "fail")
    return [{"name": "/", "result": whole}, *map(_result, run.tests)]


def _result(test: Outcome) -> dict[str, Any]:
    levels = [*test.names[:-1], test.names[-1].replace("/", "_")]
    if test.kernel:
        levels.insert(0, test.kernel)
    return {
        "name": "/" + "/".join(levels),
        "result": RESULTS[test.result],
        "note": [test.reason] if test.reason else [],
        "duration": _clock(test.duration),
    }


def _clock(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{left:02}"
