# SPDX-License-Identifier: GPL-2.0
"""Tests collected here, run by a pytest that lives in a guest.

A guest is not trusted: whatever it sends, the worst it can do is fail its own tests.
"""

import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest

from guests.frames import Message
from guests.patience import scaled
from guests.session import Guest, LostGuest, RefusedError
from plugins.kernels import without_kernel
from plugins.stages import logged, tell

INSIDE = "plugins.inside"
START_S = 120  # for pytest in the guest to collect
GRACE_S = 60  # after a test's own timeout
MOST_BARREN = 2  # guests lost without one finished test before the kernel is given up
KEPT_OUTPUT = 100  # chunks of what pytest in the guest printed last
MOST_REPORTS = 10_000  # of one test, with its subtests
MOST_PENDING = 1000  # messages that may wait to be looked at

# Options that mean in the guest what they mean here: destination -> how to say it again.
PASSED_ON: dict[str, Callable[[Any], list[str]]] = {
    "require": lambda names: [f"--require={name}" for name in names or ()],
    "tbstyle": lambda style: [f"--tb={style}"],
    "showlocals": lambda wanted: ["--showlocals"] if wanted else [],
    "runxfail": lambda wanted: ["--runxfail"] if wanted else [],
    "fulltrace": lambda wanted: ["--full-trace"] if wanted else [],
    "capture": lambda how: [f"--capture={how}"],
    "verbose": lambda level: [f"--verbosity={level}"],
    "timeout": lambda seconds: [] if seconds is None else [f"--timeout={seconds}"],
    "mutant": lambda number: [] if number is None else [f"--mutant={number}"],
    "override_ini": lambda values: [f"--override-ini={value}" for value in values or ()],
    "pythonwarnings": lambda values: [f"--pythonwarnings={value}" for value in values or ()],
}
FIELDS: dict[str, type | tuple[type, ...]] = {
    "nodeid": str,
    "outcome": str,
    "when": str,
    "longrepr": (str, list, dict, type(None)),
    "duration": (int, float),
    "start": (int, float),
    "stop": (int, float),
    "sections": list,
    "user_properties": list,
    "wasxfail": str,
    "$report_type": str,
    "_report_type": str,
    "_subtest.context": dict,
}
TIMES = frozenset(("duration", "start", "stop"))
MOST_SECONDS = 1e11  # of times, since 1970 as well
OUTCOMES = frozenset(("passed", "failed", "skipped"))
PHASES = frozenset(("setup", "call", "teardown"))


class MalformedReport(Exception):
    """What a guest sent is no report of the test it was to run."""


class NotStarted(LostGuest):
    """The guest was lost before it could run a test."""


class GivenUp(Exception):
    """No more guests of this kernel are started."""


def inside_nodeid(item: pytest.Item, name: str) -> str:
    """The id of an item in a guest, where there is no dimension of kernels."""
    return without_kernel(item.nodeid, name)


def rebuilt(config: pytest.Config, data: object, item: pytest.Item, name: str) -> pytest.TestReport:
    """The report of an item as it would be without guests. Raises MalformedReport."""
    known = _fields(data)
    if known.get("nodeid") != inside_nodeid(item, name):
        raise MalformedReport(f"a report of {str(known.get('nodeid'))[:200]}")
    known |= {"nodeid": item.nodeid, "location": item.location}
    known["keywords"] = dict.fromkeys(item.keywords, 1)
    try:
        report = config.hook.pytest_report_from_serializable(config=config, data=known)
        _ = report.longreprtext, report.head_line
    except Exception as error:  # whatever a forged report makes pytest do
        raise MalformedReport(f"a report that is none: {error!r}") from error
    if not isinstance(report, pytest.TestReport):
        raise MalformedReport(f"a report that is {type(report).__name__}")
    crash = getattr(report.longrepr, "reprcrash", None)  # not looked at before the summary
    if crash and [type(each) for each in vars(crash).values()] != [str, int, str]:
        raise MalformedReport(f"a report of a crash at {str(vars(crash))[:80]}")
    return report


def _fields(data: object) -> dict[str, Any]:
    """What of a report is taken over, each of its type."""
    if not isinstance(data, dict):
        raise MalformedReport(f"a report that is {type(data).__name__}")
    known = {key: value for key, value in data.items() if key in FIELDS}
    for key, value in known.items():
        if not isinstance(value, FIELDS[key]):
            raise MalformedReport(f"a report whose {key} is {str(value)[:80]}")
    if known.get("outcome") not in OUTCOMES or known.get("when") not in PHASES:
        raise MalformedReport(f"a report of {known.get('outcome')} at {known.get('when')}")
    for key in TIMES & known.keys():
        if isinstance(known[key], bool) or not abs(known[key]) < MOST_SECONDS:
            raise MalformedReport(f"a report whose {key} is {str(known[key])[:80]}")
    if known["outcome"] == "skipped" and "wasxfail" not in known:
        known["longrepr"] = _place(known.get("longrepr"))
    known["sections"] = [(str(title), str(text)) for title, text in _pairs(known, "sections")]
    known["user_properties"] = [
        (str(key), value) for key, value in _pairs(known, "user_properties")
    ]
    return known


def _place(where: object) -> tuple[str, int, str]:
    match where:
        case [str(file), int(line), str(reason)]:
            return file, line, reason
    raise MalformedReport(f"a skip at {str(where)[:80]}")


def _pairs(data: dict[str, Any], key: str) -> list[Any]:
    pairs: list[Any] = data.get(key, [])
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise MalformedReport(f"a report whose {key} hold {str(pair)[:80]}")
    return pairs


class RemoteSession:
    """Pytest in guests of one kernel: started when first needed, and again when one is lost."""

    def __init__(
        self,
        config: pytest.Config,
        name: str,
        start: Callable[[], AbstractContextManager[Guest]],
        modules: Sequence[str],
    ) -> None:
        """`start` gives a guest, `modules` are the test files that are needed in it."""
        self._config = config
        self.name = name
        self._start = start
        self._modules = modules
        self._stack = ExitStack()
        self._guest: Guest | None = None
        self._pending: deque[Message] = deque()
        self._printed: deque[bytes] = deque(maxlen=KEPT_OUTPUT)
        self._barren = 0
        self._new = False

    def run(self, item: pytest.Item, next_nodeid: str | None) -> Iterator[pytest.TestReport]:
        """The reports of a test as they come.

        Raises LostGuest (NotStarted, if it never came to the test), after which the guest is gone
        and the next test gets a new one, or GivenUp.
        """
        if self._barren >= MOST_BARREN:
            raise GivenUp(f"{self.name}: {self._barren} guests were lost before any test finished")
        try:
            yield from self._run(item, next_nodeid)
        except (LostGuest, RefusedError):
            tell(self._config, self.name, "lost")
            self._barren += 1
            self.close()
            raise
        self._barren = 0

    def _run(self, item: pytest.Item, next_nodeid: str | None) -> Iterator[pytest.TestReport]:
        guest = self._guest or self._open()
        guest.tell(do="test", nodeid=inside_nodeid(item, self.name), next=next_nodeid)
        deadline_s = self._deadline_s(item)
        phases: list[str | None] = []
        for message in self._messages(guest, deadline_s, "the test had not ended"):
            match message.get("event"):
                case "report" if len(phases) > MOST_REPORTS:
                    raise guest.lost(f"sent {len(phases)} reports of one test")
                case "report":
                    try:
                        report = rebuilt(self._config, message.get("data"), item, self.name)
                    except MalformedReport as error:
                        raise guest.lost(f"sent {error}") from error
                    phase = None if hasattr(report, "context") else report.when
                    if phase and phase in phases:
                        raise guest.lost(f"sent two reports of one {phase}")
                    phases.append(phase)
                    yield self._introduced(guest, report)
                case "done" if {"setup", "teardown"} <= set(phases):
                    return
                case "done":
                    raise guest.lost(f"finished a test with reports of {phases} alone")
                case "unknown":
                    raise guest.lost(f"{item.nodeid} does not exist there")
                case event:
                    raise guest.lost(f"sent an unknown event {str(event)[:80]}")

    def close(self) -> None:
        """End the guest."""
        self._guest = None
        self._pending.clear()
        self._stack.close()

    def _open(self) -> Guest:
        try:
            return self._started()
        except LostGuest as error:
            raise NotStarted(error.name, error.why, error.console) from error

    def _started(self) -> Guest:
        with logged(self._config, self.name):
            guest = self._stack.enter_context(self._start())
        tell(self._config, self.name, "collecting")
        arguments = ["-p", "no:cacheprovider"]
        for name, say in PASSED_ON.items():
            arguments += say(getattr(self._config.option, name, None))
        guest.call(INSIDE, [*arguments, *self._modules])
        for message in self._messages(guest, scaled(START_S), "pytest there had not collected"):
            errors = message.get("errors")
            if message.get("event") != "collected" or not isinstance(errors, list):
                raise guest.lost(f"pytest there began with {str(message)[:80]}")
            if errors:
                raise guest.lost("\n".join(["could not collect:", *map(str, errors)]))
            break
        tell(self._config, self.name, "running")
        self._guest = guest
        self._new = True
        return guest

    def _introduced(self, guest: Guest, report: pytest.TestReport) -> pytest.TestReport:
        """Say with the first report of a guest what it is."""
        if self._new:
            self._new = False
            report.user_properties += [
                ("kernel_release", guest.release),
                ("guest_seconds", round(guest.ready_seconds, 2)),
            ]
        return report

    def _deadline_s(self, item: pytest.Item) -> float | None:
        mark = item.get_closest_marker("timeout")
        timeout = self._config.getoption("timeout", None)
        if mark and mark.args:
            timeout = mark.args[0]
        if timeout is None:
            timeout = self._config.getini("timeout")
        seconds = float(timeout or 0)
        return scaled(seconds + GRACE_S) if seconds else None

    def _messages(self, guest: Guest, deadline_s: float | None, what: str) -> Iterator[Message]:
        """What pytest in the guest sends, but for warnings. Raises LostGuest."""
        end = time.monotonic() + (deadline_s or float("inf"))
        while True:
            while self._pending:
                message = self._pending.popleft()
                if message.get("event") == "warning":
                    self._warn(message)
                else:
                    yield message
            status = guest.step(self._print, told=self._pending.append)
            if len(self._pending) > MOST_PENDING:
                raise guest.lost(f"sent {len(self._pending)} messages at once")
            if status is not None and not self._pending:
                printed = b"".join(self._printed).decode(errors="replace")
                raise guest.lost(f"pytest there ended with status {status}\n{printed}".rstrip())
            if time.monotonic() > end:
                raise guest.lost(f"{what} after {deadline_s:.0f} s")

    def _print(self, data: bytes) -> None:
        self._printed.append(data)
        if self._config.getoption("capture") == "no":
            sys.stdout.write(data.decode(errors="replace"))
            sys.stdout.flush()

    def _warn(self, message: Message) -> None:
        text, filename, lineno = (message.get(key) for key in ("text", "filename", "lineno"))
        warning = warnings.WarningMessage(
            message=UserWarning(f"{self.name}: {str(text)[:1000]}"),
            category=UserWarning,
            filename=str(filename),
            lineno=lineno if isinstance(lineno, int) else 0,
        )
        self._config.hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": warning,
                "when": "runtest",
                "nodeid": str(message.get("nodeid"))[:1000],
                "location": None,
            }
        )
