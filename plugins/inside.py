# SPDX-License-Identifier: GPL-2.0
"""Pytest inside a guest: runs the tests it is told, and sends the reports out.

`main` is called by the guest's agent. It reads {"do": "test", "nodeid", "next"} from its standard
input, where `next` is the test to come and decides what is torn down, and leaves at its end. What
it sends has an "event": "collected" with "errors", then for each test its "report"s with "data" and
"done", or "unknown" where the test does not exist here; and "warning" at any time.
"""

import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_timeout

from guests.agent import MESSAGES
from guests.frames import MAX_CHUNK, Decoder, Message, encode

LONGEST_TEXT = 100_000  # characters of one section or traceback
MOST_SECTIONS = 8  # so that the whole stays below what a frame can hold
CONSOLE = Path("/dev/kmsg")
SHOWN = "<3>"  # a level that reaches the console of a kernel told to be quiet


class Inside:
    """What the session does in place of running everything it has collected."""

    def __init__(self, told: int) -> None:
        """`told` is the descriptor of what there is to do."""
        self._told = told
        self._errors: list[str] = []
        self._terminal = io.StringIO()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what could not be collected: tests will be missing."""
        if report.failed:
            self._errors.append(f"{report.nodeid}: {shorten(report.longreprtext)}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run what is asked for."""
        items = {item.nodeid: item for item in session.items}
        tell(event="collected", errors=self._errors[:MOST_SECTIONS])
        for message in messages(self._told):
            item = items.get(message["nodeid"])
            if item is None:
                tell(event="unknown")
                continue
            mark_console(item.nodeid)
            item.config.hook.pytest_runtest_protocol(
                item=item, nextitem=items.get(message["next"] or "")
            )
            tell(event="done")
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Send a report."""
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        tell(event="report", data=bounded(data))

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Keep what the terminal would show to ourselves: the reports tell it."""
        self.config = config
        reporter: Any = config.pluginmanager.unregister(name="terminalreporter")
        quiet = type(reporter)(config, self._terminal)  # pytest 7.2 does not name the class
        config.pluginmanager.register(quiet, "terminalreporter")

    def pytest_internalerror(self, excrepr: object) -> None:
        """Print why the session ends here."""
        sys.stderr.write(f"{excrepr}\n")

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str
    ) -> None:
        """Send a warning."""
        tell(
            event="warning",
            text=f"{warning_message.category.__name__}: {warning_message.message}"[:LONGEST_TEXT],
            filename=warning_message.filename,
            lineno=warning_message.lineno,
            when=when,
            nodeid=nodeid,
        )


def messages(descriptor: int) -> Iterator[Message]:
    """The messages that arrive, until the other end is closed."""
    decoder = Decoder()
    while data := os.read(descriptor, MAX_CHUNK):
        yield from decoder.feed(data)


def tell(**message: object) -> None:
    """Send a message out."""
    data = encode(message)
    while data:
        data = data[os.write(MESSAGES, data) :]


def mark_console(nodeid: str) -> None:
    """Say on the console which test runs, so that a panic has an owner."""
    if os.access(CONSOLE, os.W_OK):
        CONSOLE.write_text(f"{SHOWN}ksmtests: {nodeid}\n")


def shorten(text: str) -> str:
    """A text without its middle where it is too long."""
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"


def bounded(data: Mapping[str, Any]) -> dict[str, Any]:
    """A serialized report that is JSON and fits a message."""
    sections = [(name, shorten(text)) for name, text in data["sections"]]
    small: dict[str, Any] = json.loads(
        json.dumps({**data, "sections": sections[-MOST_SECTIONS:]}, default=repr)
    )
    longrepr = small["longrepr"]
    if len(json.dumps(longrepr)) > 2 * LONGEST_TEXT:
        crash = longrepr.get("reprcrash") if isinstance(longrepr, dict) else None
        small["longrepr"] = shorten(crash["message"] if crash else str(longrepr))
    return small


def main(argv: list[str]) -> int:
    """Run a session; returns pytest's exit status."""
    told = os.dup(0)  # pytest's capturing puts something else there
    os.set_inheritable(MESSAGES, False)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python starts: a process of a test may end
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # a look at every package takes time
    return int(pytest.main(argv, plugins=[pytest_timeout, Inside(told)]))
