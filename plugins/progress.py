# SPDX-License-Identifier: GPL-2.0
"""How far a run on other kernels is: a live line for each kernel, and totals.

Where they cannot be drawn (no terminal, no rich, on CI, or with -s and --pdb, when others write to
the terminal, too) each change of a stage is a line. There is nothing of it with -q. Whatever goes
wrong here ends the display, and never the run.
"""

import contextlib
import importlib.util
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from plugins.kernels import kernels

if TYPE_CHECKING:
    from rich.table import Table

PHASES = ("setup", "call", "teardown")
WAITING, RUNNING, DONE = "waiting", "running", "done"


@dataclass
class Row:
    """How far a kernel is."""

    stage: str = WAITING
    total: int = 0
    done: set[str] = field(default_factory=set)  # node ids
    failed: set[str] = field(default_factory=set)
    begun: float | None = None  # time.monotonic() of the first stage
    ended: float | None = None

    def seconds(self) -> float:
        """Since its first stage, until its last test has ended."""
        return (self.ended or time.monotonic()) - self.begun if self.begun else 0.0

    def enter(self, stage: str) -> None:
        """Come to a stage."""
        self.begun = self.begun or time.monotonic()
        self.ended = time.monotonic() if stage == DONE else None
        self.stage = stage


class View(Protocol):
    """What shows the rows."""

    def changed(self, kernel: str) -> None:
        """Show that a kernel has come to another stage."""

    def close(self) -> None:
        """Show nothing any more."""


class Lines:
    """A line for each change."""

    def __init__(self, reporter: "pytest.TerminalReporter", rows: dict[str, Row]) -> None:
        self._reporter = reporter
        self._writer = reporter.config.get_terminal_writer()
        self._rows = rows

    def changed(self, kernel: str) -> None:
        """Print it."""
        row = self._rows[kernel]
        line = f"{kernel}: {row.stage}"
        if row.stage == DONE:
            line += f", {row.total} tests, {len(row.failed)} failed, {row.seconds():.0f} s"
        self._reporter.ensure_newline()
        if self._writer.width_of_current_line:  # with pytest-xdist the reporter does not know
            self._writer.line()
        self._reporter.write_line(line)

    def close(self) -> None:
        """There is nothing to remove."""


class LiveLines:
    """A line for each kernel, below what pytest prints."""

    def __init__(self, reporter: "pytest.TerminalReporter", rows: dict[str, Row]) -> None:
        from plugins.live import Screen  # noqa: PLC0415 - rich is optional

        self._rows = rows
        self._total = Row()
        self._total.enter("")
        self._writer: Any = reporter._tw  # noqa: SLF001 - there is no other way to its file
        self._file = self._writer._file  # noqa: SLF001
        self._screen = Screen(self._file, self._draw, color=reporter.hasmarkup)
        self._writer._file = self._screen  # noqa: SLF001

    def changed(self, kernel: str) -> None:
        """Nothing: the next drawing shows it."""

    def close(self) -> None:
        """Give the terminal back."""
        if self._writer._file is self._screen:  # noqa: SLF001
            self._writer._file = self._file  # noqa: SLF001
            self._screen.close()

    def _draw(self, room: int) -> Iterable["Table"]:
        """The table, of `room` lines at most: those at work before the others."""
        from rich.table import Table  # noqa: PLC0415

        table = Table.grid(padding=(0, 2))
        for justify in ("left", "left", "right", "right", "right"):
            table.add_column(justify=justify, no_wrap=True)
        order = sorted(self._rows, key=lambda name: self._rows[name].stage in {WAITING, DONE})
        shown = order if len(order) < room else order[: max(0, room - 2)]
        for name in shown:
            table.add_row(name, *_cells(self._rows[name]))
        if len(shown) < len(order):
            table.add_row(f"and {len(order) - len(shown)} more")
        rows = list(self._rows.values())
        self._total.total = sum(row.total for row in rows)
        self._total.done = set().union(*(row.done for row in rows))
        self._total.failed = set().union(*(row.failed for row in rows))
        done = sum(row.stage == DONE for row in rows)
        table.add_row(f"{done} of {len(rows)} done", *_cells(self._total))
        return [table]


def _cells(row: Row) -> list[str]:
    failed = f"[red]{len(row.failed)} failed[/]" if row.failed else ""
    return [row.stage, f"{len(row.done)}/{row.total}", failed, f"{row.seconds():.0f} s"]


class Progress:
    """Follows a run in the process that has the terminal."""

    def __init__(self, config: pytest.Config, reporter: "pytest.TerminalReporter") -> None:
        self._config = config
        self._reporter = reporter
        self._find = kernels(config).of
        self._rows = {place.name: Row() for place in kernels(config).places}
        self._view: View | None = None

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        """End the display with an error of its own, not the run."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is
            self._close()
            with contextlib.suppress(Exception):
                self._reporter.write_line(f"progress is shown no more: {error!r}")

    def _close(self) -> None:
        view, self._view = self._view, None
        if view:
            with contextlib.suppress(Exception):
                view.close()

    def _enter(self, name: str, stage: str) -> None:
        row = self._rows[name]
        if row.stage != stage:
            row.enter(stage)
            if self._view:
                self._view.changed(name)

    def _plan(self, nodeids: Iterable[str]) -> None:
        for row in self._rows.values():
            row.total = 0
        for nodeid in nodeids:
            if place := self._find(nodeid):
                self._rows[place.name].total += 1

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the tests."""
        with self._harmless():
            self._plan(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Count the tests: all workers collect the same."""
        with self._harmless():
            self._plan(ids)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Begin, before pytest-xdist begins a line."""
        with self._harmless():
            live = can_be_live(self._config, self._reporter)
            self._view = (LiveLines if live else Lines)(self._reporter, self._rows)

    def pytest_ksmtests_stage(self, kernel: str, stage: str) -> None:
        """Show the stage."""
        with self._harmless():
            self._enter(kernel, stage)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Nobody tells of stages of this kernel."""
        with self._harmless():
            place = self._find(nodeid)
            if place and place.start is None:
                self._enter(place.name, RUNNING)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a failure; it is a test's end, too, where a worker is gone."""
        with self._harmless():
            if report.failed and (place := self._find(report.nodeid)):
                self._rows[place.name].failed.add(report.nodeid)
            if report.when not in PHASES:
                self._end(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Count a test."""
        with self._harmless():
            self._end(nodeid)

    def _end(self, nodeid: str) -> None:
        if place := self._find(nodeid):
            row = self._rows[place.name]
            row.done.add(nodeid)
            if len(row.done) == row.total:
                self._enter(place.name, DONE)

    def pytest_enter_pdb(self) -> None:
        """Leave the terminal to the debugger."""
        self._close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Leave the terminal to the summary."""
        self._close()

    def pytest_unconfigure(self) -> None:
        """Leave the terminal, whatever happened."""
        self._close()


def can_be_live(config: pytest.Config, reporter: "pytest.TerminalReporter") -> bool:
    """Whether lines can be drawn anew: nobody else writes to the terminal, and it is one."""
    return bool(
        reporter.isatty
        and os.environ.get("TERM", "dumb") != "dumb"
        and not os.environ.get("CI")
        and config.getoption("capture") != "no"
        and not config.getoption("usepdb")
        and importlib.util.find_spec("rich")
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Follow the run where there is somebody to look at it."""
    option = config.option
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(config, "workerinput") or reporter is None or not kernels(config).places:
        return
    if option.verbose >= 0 and not option.collectonly and not getattr(option, "ktap", False):
        config.pluginmanager.register(Progress(config, reporter), "progress")
