# SPDX-License-Identifier: GPL-2.0
"""A run as arguments of LAVA's lava-test-case: a name and a result in each line."""

from collections.abc import Iterator

from reports.paths import dotted
from reports.records import Run

RESULTS = {
    "pass": "pass",
    "xpass": "pass",
    "fail": "fail",
    "xfail": "pass",
    "error": "fail",
    "skip": "skip",
}


def lava(run: Run) -> Iterator[str]:
    """The lines; the first is of the run as a whole."""
    whole = "pass" if run.status == 0 else "fail"
    yield f"ksm {'skip' if run.skipped else whole}"
    for test in run.tests:
        kernel = dotted([test.kernel]) + "." if test.kernel else ""
        yield f"{kernel}{dotted(test.names)} {RESULTS[test.result]}"
