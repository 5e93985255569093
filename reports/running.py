# SPDX-License-Identifier: GPL-2.0
"""A run of pytest, and what its end means to kselftest."""

import sys

import pytest

from plugins.requirements import why_not_here
from reports.kselftest import FAIL, PASS, SKIP, skip

ARGUMENTS = ("--ktap", "-n", "auto", "-p", "no:cacheprovider")  # an installation may be read-only


class Tally:
    """What has to be known of a run to name its end."""

    def __init__(self) -> None:
        self.ran = 0
        self.skipped = 0
        self.ended = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell tests that said something from those that were skipped."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped += 1
        elif report.when == "call":
            self.ran += 1

    def pytest_sessionfinish(self) -> None:
        """Note that there was a session, and with it KTAP."""
        self.ended = True


def run(argv: list[str]) -> int:
    """Run the suite; returns kselftest's exit status."""
    elsewhere = any(argument.startswith("--kernel") for argument in argv)
    if not elsewhere and (reason := why_not_here()):
        return skip(reason)
    tally = Tally()
    status = pytest.main([*ARGUMENTS, *argv], plugins=[tally])
    if status and not tally.ended:  # without an error it was asked for --help, --features ...
        sys.stdout.write(f"KTAP version 1\n1..1\nnot ok 1 pytest # ERROR exit status {status:d}\n")
    return meaning(status, tally)


def meaning(status: int, tally: Tally) -> int:
    """What pytest's exit status is to kselftest."""
    if status != pytest.ExitCode.OK:
        return FAIL
    return SKIP if tally.skipped and not tally.ran else PASS
