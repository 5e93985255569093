# SPDX-License-Identifier: GPL-2.0
"""The kernel log of each test: shown when it fails, and a defect in it fails the test."""

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from plugins.fingerprint import PROPERTY, fingerprint
from uapi.kmsg import KernelLog, taint, taint_letters

SECTION = "kernel log since the test began"

_LINES = pytest.StashKey[list[str]]()
_LOG = pytest.StashKey[KernelLog]()


@pytest.fixture
def kernel_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Watch the kernel log while a test of the kernel runs."""
    tainted = taint()
    with KernelLog() as log:
        lines: list[str] = []
        request.node.stash[_LINES] = lines
        request.node.stash[_LOG] = log
        yield
        lines += log.new_lines()
    now = taint()
    defect = fingerprint(lines)
    new = taint_letters(now & ~tainted)
    if defect or new:
        request.node.user_properties.append((PROPERTY, defect or f"taint {new}"))
    if defect:
        pytest.fail(
            "\n".join([f"the kernel reported during this test: {defect}", *lines]), pytrace=False
        )
    if new:
        pytest.fail(
            f"the kernel became tainted during this test: {tainted} -> {now}, which is {new} "
            "(Documentation/admin-guide/tainted-kernels.rst)",
            pytrace=False,
        )


@pytest.hookimpl(hookwrapper=True)  # pytest 7.2 has no other
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Show what the kernel logged so far with a failed test."""
    report: pytest.TestReport = (yield).get_result()
    if call.when == "call" and call.excinfo and _LOG in item.stash and not report.skipped:
        lines = item.stash[_LINES]
        lines += item.stash[_LOG].new_lines()
        text = "\n".join(lines) or "(nothing)"
        report.sections.append((SECTION, text))
