# SPDX-License-Identifier: GPL-2.0
"""What pytest's reports of a test come to, for those who print or keep results."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

TERMINATED = "terminated by SIGTERM"
TOTALS = ("pass", "fail", "xfail", "xpass", "skip", "error")  # of kselftest.h
# What tells a test that took too long: pytest-timeout, a guest's deadline, Python's own.
TIMED_OUT = re.compile(r"Timeout \(?>\d|TimeoutError\b|had not ended after \d")


def escaped(text: str) -> str:
    """A text for a result line: one line of it, and no `#`, which begins a directive."""
    line = next(iter(text.strip().splitlines()), "").replace("#", r"\x23")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def names(nodeid: str) -> list[str]:
    """The names of a test and of the levels above it, from the top; the id names no kernel."""
    bare, bracket, parameters = nodeid.partition("[")
    file, *below = bare.split("::")
    found = [file.removesuffix(".py").replace("/", "."), *below]
    return [*found, f"{found[-1]}[{parameters}"] if bracket else found


@dataclass
class Result:
    """What a test's line says, and what is printed above it."""

    ok: bool
    directive: str = ""  # SKIP, XFAIL, TIMEOUT, ERROR
    reason: str = ""
    evidence: list[str] = field(default_factory=list)
    subtests: list[tuple[str, "Result"]] = field(default_factory=list)
    unexpected: bool = False  # it passes, and that was not expected
    tests: int = 1  # how many it stands for

    @property
    def total(self) -> str:
        """Which of TOTALS it counts among."""
        if not self.ok:
            return "error" if self.directive == "ERROR" else "fail"
        return "xpass" if self.unexpected else self.directive.lower() or "pass"

    def log(self) -> Iterator[str]:
        """The evidence, that of subtests below their names."""
        yield from self.evidence
        for name, result in self.subtests:
            if result.evidence:
                yield f"{name}:"
                yield from result.log()

    def line(self, number: int, name: str) -> str:
        """The result line, without indentation."""
        data = " ".join(filter(None, (self.directive, escaped(self.reason))))
        return f"{'ok' if self.ok else 'not ok'} {number} {name}" + (f" # {data}" if data else "")


def together(results: Sequence[Result]) -> Result:
    """The result of a level: not ok as one of them is, skipped as all are."""
    if results and all(one.directive == "SKIP" for one in results):
        reasons = {one.reason for one in results}
        return Result(ok=True, directive="SKIP", reason=reasons.pop() if len(reasons) == 1 else "")
    return Result(ok=all(one.ok for one in results))


class Follower:
    """A plugin that is told of each test's end, in the process that has the terminal."""

    def __init__(self) -> None:
        self.running: dict[str, list[pytest.TestReport]] = {}  # by node id
        self.why = ""  # the run is cut short

    def begun(self, nodeid: str) -> None:
        """A test begins."""

    def ended(self, nodeid: str, reports: Sequence[pytest.TestReport], result: Result) -> None:
        """A test has ended; there may be no reports of it in a run that is cut short."""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that a test begins."""
        self.running[nodeid] = []
        self.begun(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a report; it is the last one where the worker is gone."""
        self.running.setdefault(report.nodeid, []).append(report)
        if report.when not in {"setup", "call", "teardown"}:
            self.pytest_runtest_logfinish(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Tell of the end."""
        reports = self.running.pop(nodeid)
        self.ended(nodeid, reports, result_of(reports))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Note why the run ends before its end."""
        self.why = str(excinfo.value) or "interrupted"

    def pytest_internalerror(self, excrepr: object) -> None:
        """Note why."""
        self.why = f"internal error of pytest: {escaped(str(excrepr))}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Tell of the tests that were running."""
        self.why = self.why or str(session.shouldfail or session.shouldstop or "")
        why = self.why or "the run ended early"
        for nodeid, reports in self.running.items():
            self.ended(nodeid, reports, interrupted(reports, why))
        self.running.clear()


def result_of(reports: Sequence[pytest.TestReport]) -> Result:
    """What a test's reports come to: a failure in any phase is one of the test."""
    main = [report for report in reports if not hasattr(report, "context")]
    result = _main_result(main)
    result.subtests = [(_subtest(one), _main_result([one])) for one in reports if one not in main]
    result.ok = result.ok and all(one.ok for _, one in result.subtests)
    return result


def interrupted(reports: Sequence[pytest.TestReport], why: str) -> Result:
    """The result of a test that was running when the run was cut short."""
    result = result_of(reports)
    if not result.ok:
        return result
    directive = "TIMEOUT" if why == TERMINATED else "ERROR"
    return Result(ok=False, directive=directive, reason=why)


def _main_result(reports: Sequence[pytest.TestReport]) -> Result:
    failed = [report for report in reports if report.failed]
    if failed:
        return _failure(failed)
    # What passed in its call and failed as expected in its teardown failed as expected.
    for report in sorted(reports, key=lambda report: report.passed):
        if hasattr(report, "wasxfail"):
            reason = report.wasxfail.removeprefix("reason: ")
            if report.skipped:
                return Result(ok=True, directive="XFAIL", reason=reason)
            unexpected = f"passes, though expected to fail: {reason}"
            return Result(ok=True, reason=unexpected, unexpected=True)
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            return Result(ok=True, directive="SKIP", reason=reason.removeprefix("Skipped: "))
    return Result(ok=True)


def _failure(failed: Sequence[pytest.TestReport]) -> Result:
    message = _message(failed[0])
    result = Result(ok=False, evidence=list(_evidence(failed)))
    if TIMED_OUT.search(message):
        result.directive, result.reason = "TIMEOUT", message
    elif any(report.when != "call" for report in failed):
        report = next(report for report in failed if report.when != "call")
        phase = f"{report.when}: " if report.when in {"setup", "teardown"} else ""
        result.directive, result.reason = "ERROR", phase + _message(report)
    return result


def said(report: pytest.TestReport) -> str:
    """What says most: the exception's message, or a failure without one."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr)


def _message(report: pytest.TestReport) -> str:
    return escaped(said(report))


def _evidence(failed: Sequence[pytest.TestReport]) -> Iterator[str]:
    for report in failed:
        yield from report.longreprtext.splitlines()
        for title, text in report.sections:
            yield f"{title}:"
            yield from text.splitlines()


def _subtest(report: Any) -> str:
    context = report.context
    # Values arrive as repr of themselves, and once more so from a worker.
    values = {name: str(value).strip("'\"") for name, value in context.kwargs.items()}
    words = [context.msg, *(f"{name}={value}" for name, value in values.items())]
    return " ".join(str(word) for word in words if word is not None) or "subtest"
