# SPDX-License-Identifier: GPL-2.0
"""Which kernel a test ran on, told where it runs: guests are others than the one pytest runs on.

The report of each test's setup has them as properties: kernel_release (uname -r), architecture (a
name of `arch/`), configuration (the file it was read from, "" where there is none).
"""

from collections.abc import Generator
from typing import Any

import pytest

from plugins.requirements import requirements

FACTS = ("kernel_release", "architecture", "configuration")


def facts(report: pytest.TestReport) -> dict[str, str]:
    """What a report says of its kernel: nothing, or all of it."""
    found: dict[str, str] = {}
    for key, value in report.user_properties:
        if key in FACTS:
            found.setdefault(key, str(value))
    return found if len(found) == len(FACTS) else {}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Add them to the first report."""
    report: pytest.TestReport = (yield).get_result()
    if call.when == "setup":
        known = requirements(item.config)
        source = known.configuration.source if known.configuration else ""
        values = (known.release, known.architecture.name, source)
        report.user_properties += list(zip(FACTS, values, strict=True))
