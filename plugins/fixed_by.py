# SPDX-License-Identifier: GPL-2.0
"""`fixed_by(title, release)`: names the upstream fix a test guards, where it fails.

Stable releases get fixes, but not what upstream takes for an improvement: with `stable=False` the
test is expected to fail on every older release.
"""

from collections.abc import Generator
from typing import Any

import pytest

from plugins.features import release_numbers, running_release

LACKING = "lacks_fix"  # a property of a failure: the title of the fix


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers",
        "fixed_by(title, release, stable=True): upstream fix without which the test fails",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the failure where the running release cannot have the improvement."""
    running = running_release()
    for item in items:
        for mark in item.iter_markers("fixed_by"):
            title, release = mark.args
            if not mark.kwargs.get("stable", True) and _is_older(running, release):
                reason = f"improved by {release}, and {running} is older: {title}"
                item.add_marker(
                    pytest.mark.xfail(raises=AssertionError, strict=False, reason=reason)
                )


def _is_older(running: str, release: str) -> bool:
    return release_numbers(running) < release_numbers(release)


def hint(title: str, release: str, running: str) -> str:
    """What a failure may mean on the running release."""
    if _is_older(running, release):
        return (
            f'the kernel may lack the fix "{title}", which came with {release}; this is {running}'
        )
    return f'the fix "{title}" came with {release}; {running} should have it: was it undone?'


@pytest.hookimpl(hookwrapper=True)  # pytest 7.2 has no other
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Add the hints to a failure."""
    report: pytest.TestReport = (yield).get_result()
    if report.failed and call.when == "call":
        running = running_release()
        fixes = [mark.args for mark in item.iter_markers("fixed_by")]
        if fixes:
            hints = [hint(title, release, running) for title, release in fixes]
            report.sections.append(("upstream fixes", "\n".join(hints)))
        # Where the kernel has one of the fixes, the failure may be that one undone.
        if all(_is_older(running, release) for _, release in fixes):
            report.user_properties += [(LACKING, title) for title, _ in fixes]
