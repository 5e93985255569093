# SPDX-License-Identifier: GPL-2.0
"""The end of a run on other kernels: how each did, in which area, and why not better.

With `--matrix FILE` the counts are written as JSON, too: {"kernels": {NAME: {"release", "passed",
"failed", "lacks_fix", "skipped", "xfailed", "xpassed", "boot_seconds", "guests", "seconds",
"test_seconds", "skips": {REASON: COUNT}}}}. What fails on a release for want of a named fix is not
among "failed", but it fails. "boot_seconds" is the slowest guest's, boot or resume; "seconds" is
from a kernel's first stage to its last report, and "test_seconds" what its tests took of that.
"""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plugins.fingerprint import defect
from plugins.fixed_by import LACKING
from plugins.kernels import Kernels, kernels, without_kernel
from plugins.results import said

OUTCOMES = ("passed", "failed", LACKING, "skipped", "xfailed", "xpassed")
RAN = set(OUTCOMES) - {"skipped"}
BAD = {"failed": "F", LACKING: "L"}
COUNTED_AS = {"error": "failed", "subtests passed": "", "rerun": ""}


_NUMBER = re.compile(r"\b(0x)?[0-9a-f]*\d[0-9a-f]*\b")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where to write the counts."""
    parser.getgroup("kernels").addoption(
        "--matrix", type=Path, metavar="FILE", help="write the counts of each kernel as JSON"
    )


@dataclass
class Row:
    """What became of the tests on one kernel."""

    release: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    skips: Counter[str] = field(default_factory=Counter)
    lacking: Counter[str] = field(default_factory=Counter)
    areas: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    guest_seconds: list[float] = field(default_factory=list)
    test_seconds: float = 0.0
    begun: float | None = None  # time.monotonic() of the first stage
    ended: float | None = None  # of the last report

    def begin(self) -> None:
        """Come to a stage."""
        self.begun = self.begun or time.monotonic()

    def add_time(self, report: pytest.TestReport) -> None:
        """Add up what phases of tests took, subtests included; this machine has no stages."""
        if not hasattr(report, "context"):  # a subtest's
            self.test_seconds += report.duration
        self.ended = time.monotonic()
        self.begun = self.begun or self.ended - report.duration

    def take(self, category: str, report: pytest.TestReport, areas: Iterable[str]) -> str:
        """Count a report, and say as what."""
        lacking = [str(title) for key, title in report.user_properties if key == LACKING]
        self.lacking.update(lacking)
        outcome = LACKING if lacking else COUNTED_AS.get(category, category)
        self.counts[outcome] += 1
        for area in areas:
            self.areas[area][outcome] += 1
        if category == "skipped" and isinstance(report.longrepr, tuple):
            self.skips[report.longrepr[2].removeprefix("Skipped: ")] += 1
        return outcome

    def introduce(self, properties: dict[str, object]) -> None:
        """Note what the first report of a guest says of it."""
        seconds = properties.get("guest_seconds")
        if isinstance(seconds, (int, float)):
            self.release = str(properties.get("kernel_release"))
            self.guest_seconds.append(float(seconds))

    def data(self) -> dict[str, Any]:
        """As it is written; times in seconds."""
        return {
            "release": self.release,
            **{name: self.counts[name] for name in OUTCOMES},
            "boot_seconds": round(max(self.guest_seconds, default=0.0), 2),
            "guests": len(self.guest_seconds),
            "seconds": round((self.ended or 0.0) - (self.begun or 0.0), 2),
            "test_seconds": round(self.test_seconds, 2),
            "skips": dict(sorted(self.skips.items())),
        }


@dataclass
class Failure:
    """A test that fails for one cause."""

    test: str  # its id without a kernel
    cause: str
    kernels: list[str] = field(default_factory=list)


def areas(config: pytest.Config) -> list[str]:
    """The marks of pyproject.toml, all without arguments, in its order."""
    lines = [str(line) for line in config.getini("markers")]
    return [line.partition(":")[0] for line in lines if re.match(r"\w+:", line)]


def cause_of(report: pytest.TestReport, kernel: str) -> str:
    """The fingerprint of what the kernel reported, else the first line of what the test says."""
    text = said(report).removeprefix(f"{kernel}: ")
    return defect([report]) or text.partition("\n")[0]


def heading(area: str) -> tuple[str, str]:
    """An area's name in two lines."""
    first, _, second = area.partition("_")
    return (first, second) if second else ("", first)


def cell(counts: Counter[str]) -> str:
    """How many tests ran, and how many of them failed."""
    ran = sum(counts[outcome] for outcome in RAN)
    bad = "".join(f"{counts[key]}{letter}" for key, letter in BAD.items() if counts[key])
    return f"{bad}/{ran}" if bad else str(ran or "-")


def _aligned(column: Sequence[str]) -> list[str]:
    """The first column begins at the left, as it has no heading."""
    width = max(map(len, column))
    return [f"{text:{'>' if any(column[:2]) else '<'}{width}}" for text in column]


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in columns) - 2


class Matrix:
    """The rows of a run, kept by the process that has the terminal."""

    def __init__(self, config: pytest.Config, found: Kernels) -> None:
        self._config = config
        self._find = found.of
        self._areas = areas(config)
        self.rows = {place.name: Row() for place in found.places}
        self._failures: dict[tuple[str, str], Failure] = {}

    def pytest_ksmtests_stage(self, kernel: str) -> None:
        """Note when a kernel begins."""
        self.rows[kernel].begin()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what the terminal counts."""
        place = self._find(report.nodeid)
        if place is None:
            return
        row = self.rows[place.name]
        row.add_time(report)
        row.introduce(dict(report.user_properties))
        category = self._config.hook.pytest_report_teststatus(report=report, config=self._config)[0]
        if category:
            of_test = [area for area in self._areas if area in report.keywords]
            if row.take(category, report, of_test) == "failed":
                self._take_failure(place.name, report)

    def _take_failure(self, kernel: str, report: pytest.TestReport) -> None:
        test = without_kernel(report.nodeid, kernel)
        cause = cause_of(report, kernel)
        failure = self._failures.setdefault((test, _NUMBER.sub("N", cause)), Failure(test, cause))
        failure.kernels.append(kernel)

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Show the tables, the failures by cause, and the reasons of skips."""
        if not self.rows:
            return
        terminalreporter.section("kernels")
        for line in self.summary(self._config.get_terminal_writer().fullwidth):
            terminalreporter.line(line)

    def summary(self, width: int) -> Iterator[str]:
        """The lines, of `width` columns where names allow it; with one kernel as few as can be."""
        several = len(self.rows) > 1
        yield from self._totals()
        if several:
            yield from self._by_area(width)
            for failure in sorted(self._failures.values(), key=lambda one: -len(one.kernels)):
                yield f"failed on {self._where(failure.kernels)}: {failure.test}"
                yield f"    {failure.cause}"
        for title, where in self._by("lacking"):
            yield f'lacks "{title}"' + (f": {self._where(list(where))}" if several else "")
        for reason, where in self._by("skips"):
            names = f": {self._where(list(where))}" if several else ""
            yield f"skipped {sum(where.values())}: {reason}{names}"

    def _where(self, names: Sequence[str]) -> str:
        return "all kernels" if set(names) == set(self.rows) else ", ".join(dict.fromkeys(names))

    def _totals(self) -> Iterator[str]:
        width = max(map(len, self.rows))
        yield f"{'':{width}} {''.join(f'{name:>10}' for name in OUTCOMES)}  ready s"
        for name, row in self.rows.items():
            counts = "".join(f"{row.counts[outcome]:10}" for outcome in OUTCOMES)
            seconds = " ".join(f"{each:.1f}" for each in row.guest_seconds)
            yield f"{name:{width}} {counts}  {seconds}  {row.release}".rstrip()

    def _by_area(self, width: int) -> Iterator[str]:
        """A row for each kernel, a column for each area that has tests, in blocks that fit."""
        columns = [
            [*heading(area), *(cell(row.areas[area]) for row in self.rows.values())]
            for area in self._areas
            if any(row.areas[area] for row in self.rows.values())
        ]
        if not columns:
            return
        yield ""
        yield "tests that ran, by area; 2F/9: 2 of 9 failed; L: for want of a named fix; -: none"
        names = ["", "", *self.rows]
        blocks = [[names]]
        for column in columns:
            if _width([*blocks[-1], column]) > width and len(blocks[-1]) > 1:
                blocks.append([names])
            blocks[-1].append(column)
        for block in blocks:
            for line in zip(*(_aligned(column) for column in block), strict=True):
                yield "  ".join(line).rstrip()
            yield ""

    def _by(self, which: str) -> list[tuple[str, Counter[str]]]:
        """Reason -> how often on which kernels, the most frequent first."""
        found: dict[str, Counter[str]] = {}
        for name, row in self.rows.items():
            for reason, count in getattr(row, which).items():
                found.setdefault(alike(reason, row.release), Counter())[name] += count
        return sorted(found.items(), key=lambda one: (-sum(one[1].values()), one[0]))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the counts."""
        path = self._config.option.matrix
        if path and session.exitstatus != pytest.ExitCode.USAGE_ERROR:
            data = {"kernels": {name: row.data() for name, row in self.rows.items()}}
            path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def alike(reason: str, release: str) -> str:
    """A reason without the release, to be the same on all kernels that have it."""
    return reason.replace(f"; this is {release}", "").replace(f"-{release}", "-*")


def pytest_configure(config: pytest.Config) -> None:
    """Count where the terminal is: workers report to it."""
    if not hasattr(config, "workerinput"):
        try:
            if path := config.option.matrix:
                path.open("a").close()  # rather now than when all tests have run
        except OSError as error:
            raise pytest.UsageError(f"--matrix: {error}") from error
        config.pluginmanager.register(Matrix(config, kernels(config)), "matrix")
