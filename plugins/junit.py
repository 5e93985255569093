# SPDX-License-Identifier: GPL-2.0
"""What pytest's `--junitxml` says besides: the kernels of the run, and what was skipped why.

They are properties of the suite: the schema that Jenkins checks has none for test cases. Each value
is there once, so that a run on several kernels has several of a name.
"""

from collections.abc import Generator
from typing import Any

import pytest

from plugins.kernel_facts import facts

SKIP_REASON = "skip_reason"


class Properties:
    """The properties of a run, in the process that writes the file."""

    def __init__(self, junit: Any) -> None:
        self._junit = junit
        self._known: dict[tuple[str, str], None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what is new."""
        self._known |= dict.fromkeys(facts(report).items())
        if report.skipped and isinstance(report.longrepr, tuple):
            self._known[SKIP_REASON, report.longrepr[2].removeprefix("Skipped: ")] = None

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, object, None]:
        """Hand them over before the file is written."""
        for name, value in self._known:
            self._junit.add_global_property(name, value)
        yield


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Find what writes the file: it has no name, but this function is its own."""
    for plugin in config.pluginmanager.get_plugins():
        if hasattr(plugin, "add_global_property"):
            config.pluginmanager.register(Properties(plugin), "junit_properties")
            return
