# SPDX-License-Identifier: GPL-2.0
"""`python -m reports lava`: what lava-test-case is called with."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from reports.kselftest import PACKAGES
from reports.lava import lava
from reports.records import Outcome, Run
from tests.test_kcidb import TEST

ROOT = Path(__file__).parent.parent


def made(*tests: Outcome, status: int | None = 0) -> list[str]:
    """The lines; the first is of the run."""
    run = Run(run="cafe", start="2026-01-01T00:00:00+00:00", tests=[*tests], status=status)
    return list(lava(run))


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ("pass", "pass"),
        ("xpass", "pass"),
        ("fail", "fail"),
        ("xfail", "pass"),
        ("error", "fail"),
        ("skip", "skip"),
    ],
)
def test_results(result: str, told: str) -> None:
    """LAVA knows pass, fail and skip; a known bug fails no job."""
    assert made(TEST, replace(TEST, result=result))[2] == f"ksmtests.test_a.test_b {told}"


@pytest.mark.parametrize(
    ("result", "status", "whole"),
    [
        ("pass", 0, "pass"),
        ("skip", 0, "skip"),
        ("skip", 1, "fail"),
        ("pass", 1, "fail"),
        ("pass", None, "fail"),
    ],
)
def test_the_run_as_a_whole(result: str, status: int | None, whole: str) -> None:
    """One that was killed has failed."""
    assert made(replace(TEST, result=result), status=status)[0] == f"ksm {whole}"


def test_names_have_no_spaces() -> None:
    """They end at the first; a kernel is the first level."""
    test = replace(TEST, names=["test_a", "test_b", "test_b[a b]"], kernel="7.2-arm64")
    name, result = made(test)[1].split(" ")
    assert re.fullmatch(r"7\.2-arm64\.test_a\.test_b\.a_b_[0-9a-f]{6}", name)
    assert result == "pass"


@pytest.mark.parametrize("file", ["lava/ksm.yaml", "ksm.fmf", "debian/tests/control"])
def test_each_system_installs_what_the_suite_needs(file: str) -> None:
    """A package forgotten is a run that is skipped."""
    named = set(re.findall(r"\bpython3-[a-z0-9-]+", (ROOT / file).read_text()))
    assert named == {package for package, _ in PACKAGES.values()}
