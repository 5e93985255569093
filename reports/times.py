# SPDX-License-Identifier: GPL-2.0
"""What a report tells of time: guests that get ready, tests, and what measurements found.

All times are seconds. Of what no run has there is nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from reports.history import Cell, History
from reports.records import Outcome

SLOWEST = 40  # tests


@dataclass(frozen=True)
class Row:
    """Something with a number in each run that has one."""

    name: str
    values: Sequence[float | None]  # by run

    @property
    def latest(self) -> float:
        """The last one."""
        return [value for value in self.values if value is not None][-1]

    @property
    def repeated(self) -> bool:
        """Whether more than one run has a number."""
        return len([value for value in self.values if value is not None]) > 1


@dataclass(frozen=True)
class Times:
    """Tables of numbers."""

    ready: Sequence[Row]  # kernels
    tests: Sequence[Row]  # kernels: of the tests that all their runs have
    slowest: Sequence[tuple[str, Sequence[tuple[str, float]]]]  # a test, kernels and durations
    measured: Sequence[tuple[str, Sequence[Row]]]  # a quantity, tests and kernels

    @property
    def durations(self) -> list[float]:
        """All of the slowest."""
        return [value for _, values in self.slowest for _, value in values]


def times(history: History) -> Times:
    """The tables of these runs."""
    return Times(
        ready=_rows((kernel, _ready(history, kernel)) for kernel in history.kernels),
        tests=_rows((kernel, _tests(history, kernel)) for kernel in history.kernels),
        slowest=_slowest(history),
        measured=_measured(history),
    )


def _rows(found: Iterable[tuple[str, Sequence[float | None]]]) -> list[Row]:
    return [Row(name, values) for name, values in found if any(v is not None for v in values)]


def _ready(history: History, kernel: str) -> list[float | None]:
    """The median over guests of a run."""
    by_run: dict[int, list[float]] = {}
    for cell in history.on(kernel):
        for number, outcome in cell.outcomes.items():
            if outcome.guest_seconds is not None:
                by_run.setdefault(number, []).append(outcome.guest_seconds)
    return [median(by_run[n]) if n in by_run else None for n in range(len(history.runs))]


def _tests(history: History, kernel: str) -> list[float | None]:
    cells = [cell.outcomes for cell in history.on(kernel)]
    numbers = {number for outcomes in cells for number in outcomes}
    common = [outcomes for outcomes in cells if outcomes.keys() == numbers]
    return [
        sum(outcomes[number].duration for outcomes in common) if number in numbers else None
        for number in range(len(history.runs))
    ]


def _slowest(history: History) -> list[tuple[str, list[tuple[str, float]]]]:
    tests = [
        (test, [(cell.kernel, cell.latest.duration) for cell in _ran(history.of_test(test))])
        for test in history.tests
    ]
    ran = [(test, values) for test, values in tests if values]
    return sorted(ran, key=lambda one: -max(value for _, value in one[1]))[:SLOWEST]


def _ran(cells: Iterable[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.latest.result != "skip"]


def _measured(history: History) -> list[tuple[str, list[Row]]]:
    tables: dict[str, list[Row]] = {}
    for test in history.tests:
        for cell in history.of_test(test):
            for name in cell.latest.measured:
                values = [_quantity(cell.outcomes.get(n), name) for n in range(len(history.runs))]
                row = Row(f"{test.rpartition('::')[2]} on {cell.kernel}", values)
                tables.setdefault(_words(name), []).append(row)
    return sorted(tables.items())


def _words(name: str) -> str:
    """As people write it: ksmd_MiB_per_s is ksmd MiB/s."""
    return name.replace("_per_", "/").replace("_", " ")


def _quantity(outcome: Outcome | None, name: str) -> float | None:
    return outcome.measured.get(name) if outcome else None
