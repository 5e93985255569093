# SPDX-License-Identifier: GPL-2.0
"""`upstream_bug(title)`: the kernel is wrong here, no release has the fix, and the test says so.

Only a failed assertion counts as the bug; an error on the way to it is a failure as ever.
"""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers", "upstream_bug(title): fails on every released kernel, for that defect"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the failure; a pass is reported as unexpected, and fails nothing."""
    for item in items:
        mark = item.get_closest_marker("upstream_bug")
        if mark:
            item.add_marker(
                pytest.mark.xfail(
                    raises=AssertionError,
                    strict=False,
                    reason=f"known upstream bug: {_title(item, mark)}",
                )
            )


def _title(item: pytest.Item, mark: pytest.Mark) -> str:
    if len(mark.args) != 1 or mark.kwargs:
        raise pytest.UsageError(
            f'{item.nodeid}: upstream_bug takes one argument, upstream_bug("what is wrong")'
        )
    return str(mark.args[0])
