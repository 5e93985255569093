# SPDX-License-Identifier: GPL-2.0
"""Runs of the suite that are killed leave the machine as it was, and so do two runs at once."""

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from lease.membership import Membership
from tests.suite_run import (
    QUIET_DEADLINE,
    RESTORE_BOUND,
    Role,
    SuiteRun,
    kill,
    machine_to_ourselves,
    settings_between_sessions,
    wait_until,
)

pytestmark = [
    pytest.mark.timeout(2 * QUIET_DEADLINE),
    pytest.mark.needs("ksm"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the suite changes settings that are root's"),
]
EARLY, LATE = 1, 40  # tests reported when the kill comes; a run has more than twice as many
SEED = 6

StartSuite: TypeAlias = Callable[[], SuiteRun]


@pytest.fixture
def before() -> Iterator[dict[str, str]]:
    """The settings, which no run has changed yet."""
    with machine_to_ourselves():
        yield settings_between_sessions()


@pytest.fixture
def start_suite(
    before: dict[str, str],  # noqa: ARG001 known before anything starts
    tmp_path: Path,
) -> Iterator[StartSuite]:
    """Start runs with two workers; the end of the test is theirs."""
    with contextlib.ExitStack() as runs:

        def start() -> SuiteRun:
            number = len(list(tmp_path.iterdir()))
            run = SuiteRun(tmp_path / f"output{number}", "-n", "2", "ksmtests")
            runs.callback(run.end)
            return run

        yield start


@pytest.fixture
def run(request: pytest.FixtureRequest, start_suite: StartSuite) -> SuiteRun:
    """A run in the middle of its tests."""
    started = start_suite()
    seeded = random.Random(f"{SEED} {request.node.name}")  # noqa: S311 no secret
    tests = seeded.randint(EARLY, LATE)
    started.wait_for_tests(tests)
    assert started.popen.poll() is None, started.text()
    return started


def assert_restored_in_time(run: SuiteRun, before: dict[str, str]) -> None:
    """Everything is as before, soon after the end, and nothing of the run is left."""
    assert run.seconds_to_restore(before) <= RESTORE_BOUND
    wait_until(run.is_gone, "end of the guardian")


def test_killed_controller(run: SuiteRun, before: dict[str, str]) -> None:
    """Without pytest its workers end, and the guardian or the last worker restores."""
    kill(run.popen.pid)
    assert_restored_in_time(run, before)


def test_killed_worker(run: SuiteRun, before: dict[str, str]) -> None:
    """The crash is told, another worker takes the tests, and the run ends as ever."""
    victim = run.pids(Role.WORKER)[0]
    kill(victim)
    assert run.wait() != 0
    assert "crashed while running" in run.text(), run.text()
    assert_restored_in_time(run, before)


def test_killed_process_group(run: SuiteRun, before: dict[str, str]) -> None:
    """pytest, workers, zygotes and test processes at once: the guardian is left to restore."""
    run.kill_group()
    assert_restored_in_time(run, before)


def test_killed_guardian(run: SuiteRun, before: dict[str, str]) -> None:
    """A run does without: its last member restores."""
    for pid in run.pids(Role.GUARDIAN):
        kill(pid)
    assert run.wait() == 0, run.text()
    assert_restored_in_time(run, before)


def test_everything_killed(run: SuiteRun, before: dict[str, str]) -> None:
    """Nobody is left to restore; whoever joins next has it repaired when it leaves."""
    run.kill_everything()
    assert Membership().leave() == []
    assert_restored_in_time(run, before)


def test_next_run_after_everything_was_killed(
    run: SuiteRun, start_suite: StartSuite, before: dict[str, str]
) -> None:
    """The settings it finds are not its own, and it does not take them for the machine's."""
    run.kill_everything()
    following = start_suite()
    assert following.wait() == 0, following.text()
    assert_restored_in_time(following, before)


def test_two_runs_at_once(start_suite: StartSuite, before: dict[str, str]) -> None:
    """Both pass; the one that ends first leaves the settings to the other."""
    runs = [start_suite(), start_suite()]
    for run in runs:
        assert run.wait() == 0, run.text()
    for run in runs:
        assert_restored_in_time(run, before)
