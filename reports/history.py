# SPDX-License-Identifier: GPL-2.0
"""Several runs put together: what became of each test on each kernel, from the oldest on."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from reports.records import Outcome, Run

FAILING = frozenset(("fail", "error"))
LACKS = "lacks"
HOST = "host"
ASSERTION = re.compile(r"^E +(\S.*)", re.MULTILINE)  # what pytest puts before an error's message

_PARTS = re.compile(r"(\d{1,9})")


def place(outcome: Outcome) -> str:
    """Where a test ran, for people: the kernel's name, or this machine."""
    if outcome.kernel in {"", HOST}:
        return "-".join(filter(None, (HOST, outcome.architecture)))
    return outcome.kernel


def gist(outcome: Outcome) -> str:
    """The line that tells most of a result; "" of a plain pass."""
    if outcome.lacks:
        return f'may lack "{outcome.lacks[0]}"'
    found = ASSERTION.search(outcome.log)
    return outcome.reason or outcome.fingerprint or (found[1] if found else outcome.log)


def alike(outcome: Outcome) -> str:
    """Why a test was skipped, in words that are the same on other releases."""
    if not outcome.kernel_release:
        return outcome.reason
    return outcome.reason.replace(outcome.kernel_release, "RELEASE")


@dataclass
class Cell:
    """One test on one kernel: the outcome of each run that has it, by the run's number."""

    kernel: str
    test: str
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    @property
    def latest(self) -> Outcome:
        """What the last run that has it says."""
        return self.outcomes[max(self.outcomes)]

    @property
    def before(self) -> Outcome | None:
        """What the run before that says."""
        numbers = sorted(self.outcomes)
        return self.outcomes[numbers[-2]] if len(numbers) > 1 else None

    @property
    def changed(self) -> bool:
        """Whether the two differ."""
        return self.before is not None and self.before.result != self.latest.result

    @property
    def kind(self) -> str:
        """The result at last; a failure for want of a named fix is of a kind of its own."""
        is_old = self.latest.result == "fail" and self.latest.lacks
        return LACKS if is_old else self.latest.result

    @property
    def failing(self) -> bool:
        """Whether it failed at last, for want of a fix or not."""
        return self.latest.result in FAILING

    @property
    def newly_failing(self) -> bool:
        """Whether it did not fail in the run before that."""
        return self.failing and self.before is not None and self.before.result not in FAILING


def _by_release(kernel: str) -> list[tuple[int, str]]:
    """Sort 6.1 before 6.12 before 7.2, in names that have a number or none."""
    return [(int(part) if part.isdecimal() else -1, part) for part in _PARTS.split(kernel)]


@dataclass(frozen=True)
class History:
    """Runs, oldest first, and their cells."""

    runs: Sequence[Run]
    kernels: Sequence[str]
    tests: Sequence[str]
    cells: Mapping[tuple[str, str], Cell]  # by kernel and test

    @classmethod
    def of(cls, runs: Iterable[Run]) -> "History":
        """Put them together; of a test that a run has twice, the last time counts."""
        ordered = sorted(runs, key=lambda run: datetime.fromisoformat(run.start))
        cells: dict[tuple[str, str], Cell] = {}
        for number, run in enumerate(ordered):
            for outcome in run.tests:
                key = place(outcome), outcome.test
                cells.setdefault(key, Cell(*key)).outcomes[number] = outcome
        kernels = sorted({kernel for kernel, _ in cells}, key=_by_release)
        return cls(ordered, kernels, sorted({test for _, test in cells}), cells)

    def by_run(self, values: Sequence[float | None]) -> list[tuple[str, float | None]]:
        """Values with the times of their runs."""
        return [(run.start, value) for run, value in zip(self.runs, values, strict=True)]

    def on(self, kernel: str) -> list[Cell]:
        """The cells of a kernel."""
        return [cell for cell in self.cells.values() if cell.kernel == kernel]

    def of_test(self, test: str) -> list[Cell]:
        """The cells of a test, in the order of the kernels."""
        keys = [(kernel, test) for kernel in self.kernels]
        return [self.cells[key] for key in keys if key in self.cells]
