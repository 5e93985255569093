# SPDX-License-Identifier: GPL-2.0
"""Every test of the kernel can fail: each is run on a kernel that seems to have a bug it is about.

tests/seen_red.toml says which tests each sabotage turns red: `python -m tests.sabotage_table`.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests import sabotage_table, suite_run
from tests.sabotage import SABOTAGES
from tests.sabotage_table import JOBS, PAGE, Table, collect, is_red, page, run

TABLE = Table.load()
FURTHER_CHANCES = 2  # ksmd may make good what a sabotage did before the test looks
# They keep what a test writes to a setting, or write to one themselves.
CHANGE_SETTINGS = ("run-0-ignored", "placing-ignored", "khugepaged-takes-one-more")


class Runs:
    """The suite under one sabotage after the other, as many at a time as there are CPUs."""

    def __init__(self, names: Sequence[str], pool: ThreadPoolExecutor) -> None:
        self._names = names
        self._pool = pool
        self._started: dict[str, Future[dict[str, str]]] = {}

    def outcomes(self, name: str) -> dict[str, str]:
        """What became of the tests that must turn red; the next runs go on meanwhile."""
        place = self._names.index(name)
        for following in self._names[place : place + JOBS + 1]:
            if following not in self._started:
                self._started[following] = self._pool.submit(run, following, TABLE.red[following])
        return self._started[name].result()


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """All runs."""
    pool = ThreadPoolExecutor(JOBS)
    yield Runs(list(TABLE.red), pool)
    pool.shutdown(cancel_futures=True)


def unnoticed(name: str, outcomes: dict[str, str]) -> dict[str, str]:
    """The tests that should be red under a sabotage and are not, and what became of them."""
    return {
        test: outcome for test, outcome in outcomes.items() if not is_red(SABOTAGES[name], outcome)
    }


@pytest.mark.sabotage
@pytest.mark.parametrize("name", TABLE.red)
def test_sabotage_is_noticed(name: str, runs: Runs) -> None:
    """Each test named beside a sabotage fails for it."""
    outcomes = runs.outcomes(name)
    assert set(outcomes) == set(TABLE.red[name])
    for _ in range(FURTHER_CHANCES):
        if missed := unnoticed(name, outcomes):
            outcomes |= run(name, list(missed))
    assert not unnoticed(name, outcomes), f"{SABOTAGES[name].bug}: not noticed"


def test_every_test_is_seen_red() -> None:
    """Each test of the kernel is turned red by a sabotage, or there is a reason why not."""
    tests = set(collect())
    red = {test for killed in TABLE.red.values() for test in killed}
    assert not tests - red - set(TABLE.unseen), "add a sabotage, or a reason under [unseen]"
    assert not (red | set(TABLE.unseen)) - tests, "no such tests any more"
    assert not red & set(TABLE.unseen), "they are seen red after all"


def test_every_sabotage_is_noticed_or_known_not_to_be() -> None:
    """A sabotage that no test notices is a weak spot, and written down as one."""
    assert set(TABLE.red) | set(TABLE.survivors) == set(SABOTAGES)
    assert not set(TABLE.red) & set(TABLE.survivors)
    reasons = [*TABLE.survivors.values(), *TABLE.unseen.values()]
    assert not [reason for reason in reasons if reason.startswith(sabotage_table.TO_DO)]


def test_page_is_current() -> None:
    """docs/seen-red.md is what the table and the sabotages say."""
    assert PAGE.read_text() == page(TABLE), "python -m tests.sabotage_table --page"


def test_unknown_sabotage_is_refused() -> None:
    """A misspelt name does not pass for a sabotage nobody notices."""
    with pytest.raises(
        sabotage_table.RunFailed, match="no sabotage is called 'unmergable-ignored'"
    ):
        run("unmergable-ignored", ["ksmtests"])


@pytest.mark.sabotage
def test_settings_are_restored_after_sabotage() -> None:
    """Sabotage of settings is over before they are put back."""
    with suite_run.machine_to_ourselves():
        before = suite_run.settled_settings()
        for name in CHANGE_SETTINGS:
            run(name, TABLE.red[name])
        assert suite_run.differences(suite_run.settled_settings(), before) == []
