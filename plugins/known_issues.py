# SPDX-License-Identifier: GPL-2.0
"""`--known-issues FILE`: failures that are known are expected, with a link to the bug.

    [[issue]]
    test = "ksmtests/test_profit.py::test_profit_counts_*"  # `*` is anything; all parameters
    bug = "https://bugzilla.kernel.org/show_bug.cgi?id=1"
    releases = ["6.12", "*-rt*"]  # of `uname -r`; all where it is left out
    architectures = ["arm64"]  # names of arch/; all where it is left out
    until = 2027-06-30  # the last day; for ever where it is left out

It is the kernel of the test that counts, in a guest the guest's. A test that passes nevertheless is
reported as unexpected, and an entry none of whose tests fail at the end of the run.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

import arch
from plugins.kernel_facts import facts
from plugins.kernels import kernel_of

KEYS = {"test": str, "bug": str, "releases": list, "architectures": list, "until": date}
NEEDED = ("test", "bug")
OF_RUN = "known_issues_of_run"  # the plugin of a run that was given a file
ATTRIBUTE = "known_issue"  # of a report that is of one: its number in the file


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    parser.getgroup("kernels").addoption(
        "--known-issues",
        type=Path,
        metavar="FILE",
        help="expect the failures listed in this TOML file (see docs/qa.md)",
    )


def _matches(text: str, pattern: str, *, before: str) -> bool:
    """Whether `*` in a pattern can be filled in, to all of the text or to what is before others.

    Only `*` is special. fnmatch tries no combination of them twice, as `.*` would.
    """
    plain = re.sub(r"[\[?]", r"[\g<0>]", pattern)
    return fnmatchcase(text, plain) or fnmatchcase(text, f"{plain}{before}*")


@dataclass(frozen=True)
class KnownIssue:
    """One entry of the file."""

    test: str
    bug: str
    releases: Sequence[str] = ()
    architectures: Sequence[str] = ()
    until: date = date.max

    def covers(self, nodeid: str) -> bool:
        """Whether it is about the test; the id names no kernel."""
        return _matches(nodeid, self.test, before="[[]")

    def is_of(self, kernel: dict[str, str]) -> bool:
        """Whether it is about a kernel, given its facts."""
        release, architecture = (kernel.get(key, "") for key in ("kernel_release", "architecture"))
        return (
            not self.releases
            or any(_matches(release, wanted, before="[!0-9]") for wanted in self.releases)
        ) and (not self.architectures or architecture in self.architectures)


class KnownIssuesError(Exception):
    """The file cannot be used; the message says why."""


def load(path: Path) -> list[KnownIssue]:
    """The entries of a file. Raises KnownIssuesError."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise KnownIssuesError(f"{path}: {error}") from error
    entries = data.pop("issue", None)
    if data or not isinstance(entries, list):
        raise KnownIssuesError(f"{path}: has to consist of tables [[issue]]")
    return [_entry(entry, f"{path}: issue {number}") for number, entry in enumerate(entries, 1)]


def _entry(entry: Any, where: str) -> KnownIssue:
    if not isinstance(entry, dict):
        raise KnownIssuesError(f"{where} is no table")
    for key, value in entry.items():
        if key not in KEYS:
            raise KnownIssuesError(f"{where}: no key {key!r}; there are {', '.join(KEYS)}")
        if not _fits(value, KEYS[key]):
            raise KnownIssuesError(f"{where}: {key} is {value!r}; {_expected(key)}")
    if lacking := [key for key in NEEDED if not entry.get(key)]:
        raise KnownIssuesError(f"{where} lacks {', '.join(lacking)}")
    if not re.match(r"https?://\S+$", entry["bug"]):
        raise KnownIssuesError(f"{where}: bug is {entry['bug']!r}; a link https://... is wanted")
    known = {one.name for one in arch.architectures()}
    if unknown := [name for name in entry.get("architectures", ()) if name not in known]:
        raise KnownIssuesError(
            f"{where}: no architecture {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    return KnownIssue(**entry)


def _fits(value: Any, kind: type) -> bool:
    """Whether a value is of the kind, and not empty. A time of day is a date to Python."""
    words = value if isinstance(value, list) else [value]
    return type(value) is kind and (
        kind is date or (bool(words) and all(isinstance(word, str) and word for word in words))
    )


def _expected(key: str) -> str:
    return {
        list: 'a list of words is wanted, ["like", "this"]',
        date: "a day is wanted, 2027-06-30 without quotes",
        str: "a text is wanted",
    }[KEYS[key]]


class KnownIssues:
    """The entries in a run: in workers, where tests fail, and in the process with the terminal."""

    def __init__(self, config: pytest.Config, issues: Sequence[KnownIssue]) -> None:
        self._config = config
        self._issues = issues
        self._facts: dict[str, dict[str, str]] = {}  # of kernels, by name
        self._failed = Counter[int]()
        self._passed = Counter[int]()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, None]:
        """Change a report before anybody else looks at it, or counts it as a failure."""
        kernel, nodeid = kernel_of(self._config, report.nodeid)
        self._facts[kernel] = facts(report) or self._facts.get(kernel, {})
        if not hasattr(report, ATTRIBUTE) and not hasattr(report, "wasxfail"):
            self._change(report, nodeid, self._facts[kernel])
        if (number := getattr(report, ATTRIBUTE, None)) is not None:
            (self._passed if report.passed else self._failed)[number] += 1
        yield

    def _change(self, report: pytest.TestReport, nodeid: str, kernel: dict[str, str]) -> None:
        if not (report.failed or (report.passed and report.when == "call")):
            return
        for number, issue in enumerate(self._issues):
            if issue.until >= today() and issue.covers(nodeid) and issue.is_of(kernel):
                setattr(report, ATTRIBUTE, number)
                report.wasxfail = f"known issue: {issue.bug}"
                if report.failed:
                    report.outcome = "skipped"  # as pytest has it for what fails as expected
                return

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Refuse patterns that match no test. Workers cannot: what they raise is lost."""
        if not hasattr(self._config, "workerinput") and session.items:
            self._refuse_strangers([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Refuse patterns that match no test of a worker."""
        self._refuse_strangers(ids)

    def _refuse_strangers(self, nodeids: Iterable[str]) -> None:
        option = self._config.option
        chosen = ("keyword", "markexpr", "deselect", "lf")
        if any(option.__dict__.get(name) for name in chosen) or any(
            "::" in a for a in option.file_or_dir
        ):
            return  # a part of the tests alone can be seen
        names = [kernel_of(self._config, nodeid)[1] for nodeid in nodeids]
        files = {name.partition("::")[0] for name in names}
        whole = set(option.file_or_dir) <= set(self._config.getini("testpaths"))
        for issue in self._issues:
            file = issue.test.partition("::")[0]
            seen = whole if "*" in file else file in files
            if seen and not any(map(issue.covers, names)):
                raise pytest.UsageError(f"{option.known_issues}: no test is {issue.test}")

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Name them."""
        lines = [*self.outdated()]
        if lines:
            terminalreporter.section("known issues")
        for line in lines:
            terminalreporter.line(line)

    def outdated(self) -> Generator[str, None, None]:
        """Tell of the entries that can go."""
        for number, issue in enumerate(self._issues):
            if issue.until < today():
                yield f"ended on {issue.until}: {issue.test} ({issue.bug})"
            elif self._passed[number] and not self._failed[number]:
                yield f"no longer fails: {issue.test} ({issue.bug})"


def today() -> date:
    """The day entries are compared with."""
    return datetime.now(UTC).date()


def _refuse_missing_files(issues: Sequence[KnownIssue], root: Path) -> None:
    for issue in issues:
        file = issue.test.partition("::")[0]
        if "*" not in file and not (root / file).is_file():
            raise KnownIssuesError(f"{issue.bug} is of {file}, but {root} has no such file")


def pytest_configure(config: pytest.Config) -> None:
    """Read the file."""
    if config.option.known_issues is None:
        return
    try:
        issues = load(config.option.known_issues)
        _refuse_missing_files(issues, config.rootpath)
    except KnownIssuesError as error:
        raise pytest.UsageError(f"--known-issues: {error}") from error
    config.pluginmanager.register(KnownIssues(config, issues), OF_RUN)
