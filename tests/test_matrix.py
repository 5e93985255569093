# SPDX-License-Identifier: GPL-2.0
"""What `bench.matrix` makes of the rows that `--matrix` wrote."""

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import matrix
from plugins.matrix import Row
from tests.suite_run import wait_until

SOON_S = 20.0
ASLEEP = """#!/bin/sh
echo $$ > "$0.pid"
exec sleep 60
"""


def row(**counts: int) -> dict[str, Any]:
    """A kernel's row."""
    return {
        **dict.fromkeys(("passed", "failed", "lacks_fix", "skipped", "xfailed", "xpassed"), 0),
        "boot_seconds": 1.5,
        "seconds": 6.0,
        "test_seconds": 2.5,
        **counts,
    }


def test_a_race_of_the_kernel_met_or_not_is_the_same_table() -> None:
    """An expected failure that does not come is no change."""
    assert matrix.table({"a": row(passed=3, xfailed=2)}) == matrix.table(
        {"a": row(passed=3, xfailed=1, xpassed=1)}
    )
    assert matrix.table({"a": row(passed=3)}) != matrix.table({"a": row(passed=2, skipped=1)})


@pytest.mark.parametrize(
    ("status", "counts", "clean"),
    [
        (0, {"passed": 3}, True),
        (1, {"passed": 3, "failed": 1}, False),
        (1, {"passed": 3, "lacks_fix": 1}, True),
        (1, {"passed": 3, "lacks_fix": 1, "failed": 1}, False),
        (1, {"passed": 3}, False),
        (2, {"passed": 3}, False),
        (0, {"passed": 3, "lacks_fix": 1}, False),
    ],
)
def test_a_run_is_clean_where_only_named_fixes_are_missing(
    status: int, counts: dict[str, int], clean: bool
) -> None:
    """pytest's status must agree with the counts, or something went wrong beside the tests."""
    assert matrix.clean(status, {"a": row(**counts), "b": row(passed=1)}) is clean


@pytest.mark.parametrize(
    ("runs", "status", "same"),
    [
        ([{"a": row(passed=2)}, {"a": row(passed=2)}], 0, True),
        ([{"a": row(passed=2)}, {"a": row(passed=1, skipped=1)}], 1, False),
        ([{}], 1, True),
    ],
)
def test_runs_are_compared(
    runs: list[dict[str, Any]],
    status: int,
    same: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The last line says whether all were the same; no kernel at all is no success."""
    left = iter(runs)
    monkeypatch.setattr(matrix, "run", lambda _: (0, next(left)))
    assert matrix.main(["--runs", str(len(runs)), "--kernel", "a"]) == status
    last = capsys.readouterr().out.splitlines()[-1]
    assert f'"same": {str(same).lower()}' in last


def test_time_of_a_kernel_beside_what_it_cannot_do_without() -> None:
    """Its boot and its tests; one that could not be had has neither."""
    assert matrix.times(row()) == {"boot_seconds": 1.5, "seconds": 6.0, "over_own": 1.5}
    nothing = dict.fromkeys(("boot_seconds", "seconds", "test_seconds"), 0.0)
    assert matrix.times(nothing)["over_own"] == 0.0


def test_time_of_subtests_is_their_tests() -> None:
    """The test's own report has it, too."""
    whole = pytest.TestReport("a", ("a", 1, "a"), {}, "passed", None, "call", duration=2.0)
    part = pytest.TestReport("a", ("a", 1, "a"), {}, "passed", None, "call", duration=1.5)
    part.context = None  # type: ignore[attr-defined]
    kernel = Row()
    kernel.begin()
    for report in (part, whole):
        kernel.add_time(report)
    assert kernel.data()["test_seconds"] == 2.0


def test_pytest_ends_with_a_matrix_that_is_killed(tmp_path: Path) -> None:
    """And with it the guests, and whatever else it started."""
    python, written = tmp_path / "python", tmp_path / "python.pid"
    python.write_text(ASLEEP)
    python.chmod(0o700)
    code = (
        f"import sys; from bench import matrix; sys.executable = {str(python)!r}; matrix.main([])"
    )
    with subprocess.Popen((sys.executable, "-c", code), cwd=matrix.CHECKOUT) as process:
        wait_until(
            lambda: written.exists() and written.read_text().endswith("\n"), "pytest", SOON_S
        )
        pidfd = os.pidfd_open(int(written.read_text()))
        process.kill()
    try:
        assert select.select([pidfd], [], [], SOON_S)[0], "pytest goes on"
    finally:
        os.close(pidfd)


def test_pytest_that_ends_before_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is empty: no kernel has a row."""
    monkeypatch.setattr(sys, "executable", "false")
    assert matrix.run([]) == (1, {})
    run = subprocess.run

    def refuse(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        Path(command[command.index("--matrix") + 1]).touch()
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", refuse)
    assert matrix.run([]) == (1, {})
