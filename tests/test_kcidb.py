# SPDX-License-Identifier: GPL-2.0
"""`python -m reports kcidb`: what kcidb-io takes, with one path for a test wherever it runs."""

import json
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kcidb_io.schema import LATEST, V5_3

from reports.__main__ import main
from reports.kcidb import LONGEST_EXCERPT, SCHEMA, kcidb
from reports.records import Outcome, Run, read
from tests.test_records import SUITE

pytest_plugins = ("pytester", "tests.made_up_suite")

TEST = Outcome(
    test="ksmtests/test_a.py::test_b",
    names=["ksmtests.test_a", "test_b"],
    kernel="",
    kernel_release="6.12.5",
    architecture="arm64",
    configuration="/proc/config.gz",
    result="pass",
    directive="",
    reason="",
    start="2026-01-01T00:00:00+00:00",
    duration=0.5,
    log="",
)
BUG = "https://bugzilla.kernel.org/show_bug.cgi?id=1"


def made(*tests: Outcome, build: str = "") -> dict[str, Any]:
    """The JSON of these tests, valid, and whose references lead somewhere."""
    run = Run(run="cafe", start="2026-01-01T00:00:00+00:00", tests=list(tests), status=0)
    data = kcidb(run, "lab", build)
    V5_3.validate(data)
    ids = {key: {one["id"] for one in data.get(key, [])} for key in data if key != "version"}
    assert len(ids["tests"]) == len(tests)
    if not build:
        assert {one["build_id"] for one in data["tests"]} == ids["builds"]
        assert {one["checkout_id"] for one in data["builds"]} == ids["checkouts"]
    for incident in data.get("incidents", []):
        assert incident["issue_id"] in ids["issues"]
        assert incident["test_id"] in ids["tests"]
    return data


def path(*names: str) -> str:
    """The path of a test of these names."""
    found: str = made(replace(TEST, names=list(names)))["tests"][0]["path"]
    return found


def test_the_schema_is_the_current_one() -> None:
    """Of the installed kcidb-io; a newer one is worth a look."""
    assert {"major": LATEST.major, "minor": LATEST.minor} == SCHEMA


def test_a_run_of_every_result_is_taken(
    run: Callable[..., pytest.RunResult], checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As printed from its record, with statuses, kernel, and log."""
    run(SUITE, "--record=run.jsonl")
    file = checkout / "run.jsonl"
    capsys.readouterr()
    assert main(["kcidb", str(file), "--origin=lab"]) == 0
    data = json.loads(capsys.readouterr().out)
    V5_3.validate(data)
    tests = {one["path"].rpartition(".")[2]: one for one in data["tests"]}
    assert len(tests) == len(read(file).tests)
    assert {name: tests[name]["status"] for name in tests if name.startswith("test_")} == {
        "test_passes": "PASS",
        "test_not_torn_down": "ERROR",
        "test_known": "FAIL",
        "test_repaired": "PASS",
        "test_skipped": "SKIP",
    }
    assert tests["test_skipped"]["comment"] == "too cold"
    assert "not torn down" in tests["test_not_torn_down"]["log_excerpt"]
    kernels = {one["environment"]["misc"]["kernel_release"] for one in data["tests"]}
    assert kernels == {platform.release()}


def test_a_path_has_the_levels_of_the_test() -> None:
    """Its parameters are the last of them."""
    assert path("ksmtests.test_a", "test_b") == "ksmtests.test_a.test_b"
    assert path("ksmtests.test_a", "C", "test_b", "test_b[4k]") == "ksmtests.test_a.C.test_b.4k"


def test_paths_of_different_tests_differ() -> None:
    """Though all of their signs are replaced."""
    parameters = ["a-b", "a.b", "a/b", "a b", "", "[]", "a_b", "ä"]
    paths = [path("test_a", "test_b", f"test_b[{one}]") for one in parameters]
    assert len(set(paths)) == len(paths)
    assert all(one.startswith("test_a.test_b.") for one in paths)


def test_a_path_is_the_same_on_every_kernel() -> None:
    """Neither the kernel nor the architecture is part of it."""
    other = replace(TEST, kernel="7.2-x86", kernel_release="7.2.0", architecture="x86")
    data = made(TEST, other)
    assert len({one["path"] for one in data["tests"]}) == 1
    assert {(one["id"], one["architecture"], one["checkout_id"]) for one in data["builds"]} == {
        ("lab:6.12.5-arm64", "arm64", "lab:6.12.5"),
        ("lab:7.2.0-x86", "x86", "lab:7.2.0"),
    }


def test_a_build_reported_elsewhere_is_referred_to() -> None:
    """And no other is made up."""
    data = made(TEST, build="maestro:12")
    assert data["tests"][0]["build_id"] == "maestro:12"
    assert data.keys() == {"version", "tests"}


def test_an_expected_failure_is_one_of_a_known_issue() -> None:
    """One for each bug, with its link, in each test that meets it."""
    known = replace(TEST, result="xfail", directive="XFAIL", reason=f"known issue: {BUG}")
    other = replace(known, reason="known upstream bug: it forgets")
    data = made(TEST, known, known, other)
    assert [one["status"] for one in data["tests"]] == ["PASS", "FAIL", "FAIL", "FAIL"]
    assert {one["report_subject"]: one.get("report_url") for one in data["issues"]} == {
        f"known issue: {BUG}": BUG,
        "known upstream bug: it forgets": None,
    }
    issues = {one["id"]: one["report_subject"] for one in data["issues"]}
    assert [issues[one["issue_id"]] for one in data["incidents"]] == [
        known.reason,
        known.reason,
        other.reason,
    ]


@pytest.mark.parametrize("size", [0, 1, LONGEST_EXCERPT, LONGEST_EXCERPT + 1, 100_000])
def test_a_long_log_loses_its_middle(size: int) -> None:
    """What is kept is its begin and its end."""
    log = "".join(chr(ord("a") + number % 26) for number in range(size))
    (test,) = made(replace(TEST, log=log))["tests"]
    kept = test.get("log_excerpt", "")
    if size <= LONGEST_EXCERPT:
        assert kept == log
    else:
        begin, end = kept.split("\n[...]\n")
        assert log.startswith(begin)
        assert log.endswith(end)
        assert LONGEST_EXCERPT - 1 <= len(kept) <= LONGEST_EXCERPT


def test_nul_is_dropped() -> None:
    """The schema takes none."""
    (test,) = made(replace(TEST, log="a\0b", reason="c\0d"))["tests"]
    assert (test["log_excerpt"], test["comment"]) == ("ab", "cd")


@pytest.mark.parametrize(
    "arguments", [["--origin=Lab"], ["--origin="], ["--build=12"], ["--build=Lab:12"]]
)
def test_names_that_kcidb_refuses_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is read."""
    with pytest.raises(SystemExit):
        main(["kcidb", "nowhere.jsonl", *arguments])
    assert "origin" in capsys.readouterr().err.lower()


@pytest.mark.parametrize("system", ["kcidb", "tmt"])
def test_a_file_that_is_no_record_is_told(
    system: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is printed for others to take for results."""
    (tmp_path / "run.jsonl").write_text("")
    assert main([system, str(tmp_path / "run.jsonl")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{tmp_path}/run.jsonl is no record of version 1, which --record writes\n"
