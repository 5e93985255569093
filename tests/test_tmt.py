# SPDX-License-Identifier: GPL-2.0
"""`python -m reports tmt`: the results of a tmt test, one for each of ours."""

from dataclasses import replace
from typing import Any

import pytest

from reports.records import Outcome, Run
from reports.tmt import tmt
from tests.test_kcidb import TEST


def made(*tests: Outcome, status: int | None = 0) -> list[dict[str, Any]]:
    """The results of these tests; the first is of the run."""
    return tmt(Run(run="cafe", start="2026-01-01T00:00:00+00:00", tests=[*tests], status=status))


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ("pass", "pass"),
        ("xpass", "warn"),
        ("fail", "fail"),
        ("xfail", "info"),
        ("error", "error"),
        ("skip", "skip"),
    ],
)
def test_results(result: str, told: str) -> None:
    """What is known is for information, and what is repaired a warning."""
    _, one = made(replace(TEST, result=result, reason="why"))
    assert one == {
        "name": "/ksmtests.test_a/test_b",
        "result": told,
        "note": ["why"],
        "duration": "00:00:00",
    }


SKIPPED = replace(TEST, result="skip", reason="too cold")


@pytest.mark.parametrize(
    ("tests", "status", "told"),
    [
        ([TEST], 0, "pass"),
        ([TEST, SKIPPED], 0, "pass"),
        ([SKIPPED, SKIPPED], 0, "skip"),
        ([TEST], 1, "fail"),
        ([TEST], 2, "fail"),
        ([], 5, "fail"),
        ([TEST], None, "error"),
        ([SKIPPED], 1, "fail"),
        ([], None, "error"),
    ],
)
def test_the_run_as_a_whole(tests: list[Outcome], status: int | None, told: str) -> None:
    """A run that was killed is no pass, though its tests were."""
    whole = made(*tests, status=status)[0]
    assert whole == {"name": "/", "result": told}


def test_names_are_levels() -> None:
    """Parameters may have slashes, and are no levels; a kernel is the first one."""
    names = ["ksmtests.test_a", "test_b", "test_b[1/2]"]
    _, one, other = made(replace(TEST, names=names), replace(TEST, kernel="7.2-arm64"))
    assert one["name"] == "/ksmtests.test_a/test_b/test_b[1_2]"
    assert other["name"] == "/7.2-arm64/ksmtests.test_a/test_b"


@pytest.mark.parametrize(
    ("seconds", "clock"),
    [(0.4, "00:00:00"), (59.6, "00:01:00"), (3599.7, "01:00:00"), (360000, "100:00:00")],
)
def test_durations(seconds: float, clock: str) -> None:
    """Hours, minutes and whole seconds."""
    assert made(replace(TEST, duration=seconds))[1]["duration"] == clock
