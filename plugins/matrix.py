# SPDX-License-Identifier: GPL-2.0
"""The end of a run on several kernels: how each of them did, and what it left out for which reason.

With `--matrix FILE` the counts are written as JSON, too: {"kernels": {NAME: {"release", "passed",
"failed", "lacks_fix", "skipped", "xfailed", "xpassed", "boot_seconds", "guests", "skips": {REASON:
COUNT}}}}. What fails on a release for want of a named fix is not among "failed", but it fails.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plugins.fixed_by import LACKING
from plugins.kernels import Kernels, kernels

OUTCOMES = ("passed", "failed", LACKING, "skipped", "xfailed", "xpassed")
COUNTED_AS = {"error": "failed", "subtests passed": "", "rerun": ""}


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
    guest_seconds: list[float] = field(default_factory=list)

    def take(self, category: str, report: pytest.TestReport) -> None:
        """Count a report."""
        lacking = [str(title) for key, title in report.user_properties if key == LACKING]
        self.lacking.update(lacking)
        self.counts[LACKING if lacking else COUNTED_AS.get(category, category)] += 1
        if category == "skipped" and isinstance(report.longrepr, tuple):
            self.skips[report.longrepr[2].removeprefix("Skipped: ")] += 1

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
            "skips": dict(sorted(self.skips.items())),
        }


class Matrix:
    """The rows of a run, kept by the process that has the terminal."""

    def __init__(self, config: pytest.Config, found: Kernels) -> None:
        self._config = config
        self._find = found.of
        self.rows = {place.name: Row() for place in found.places}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what the terminal counts."""
        place = self._find(report.nodeid)
        if place is None:
            return
        row = self.rows[place.name]
        row.introduce(dict(report.user_properties))
        category = self._config.hook.pytest_report_teststatus(report=report, config=self._config)[0]
        if category:
            row.take(category, report)

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Show the table, and the reasons of skips with the kernels that have them."""
        if not self.rows:
            return
        terminalreporter.section("kernels")
        width = max(map(len, self.rows))
        terminalreporter.line(
            f"{'':{width}} {''.join(f'{name:>10}' for name in OUTCOMES)}  ready s"
        )
        for name, row in self.rows.items():
            counts = "".join(f"{row.counts[outcome]:10}" for outcome in OUTCOMES)
            seconds = " ".join(f"{each:.1f}" for each in row.guest_seconds)
            terminalreporter.line(f"{name:{width}} {counts}  {seconds}  {row.release}".rstrip())
        for title, where in self._by("lacking"):
            terminalreporter.line(f'lacks "{title}": {", ".join(where)}')
        for reason, where in self._by("skips"):
            terminalreporter.line(f"skipped {sum(where.values())}: {reason}: {', '.join(where)}")

    def _by(self, which: str) -> list[tuple[str, Counter[str]]]:
        """Reason -> how often on which kernels."""
        found: dict[str, Counter[str]] = {}
        for name, row in self.rows.items():
            for reason, count in getattr(row, which).items():
                found.setdefault(alike(reason, row.release), Counter())[name] += count
        return sorted(found.items())

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
