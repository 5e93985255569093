# SPDX-License-Identifier: GPL-2.0
"""Marks for what the kernel does wrong and no release has fixed; the test says what must hold.

`upstream_bug(title)` is wrong everywhere, `upstream_bug_on(architecture, title)` on one
architecture alone, and with `symbol="CONFIG_ARM_LPAE"` where that is configured: elsewhere the
test is like any other, so it is a mark of its own. Only a failed assertion counts as the bug; an
error on the way to it is a failure as ever.
"""

import pytest

from plugins.requirements import requirements


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    config.addinivalue_line(
        "markers", "upstream_bug(title): fails on every released kernel, for that defect"
    )
    config.addinivalue_line(
        "markers",
        "upstream_bug_on(architecture, title, symbol=None): fails there on every released kernel, "
        "if it was built with that Kconfig symbol",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Expect the failure; a pass is reported as unexpected, and fails nothing."""
    for item in items:
        title = _everywhere(item) or _here(item, config)
        if title:
            item.add_marker(
                pytest.mark.xfail(
                    raises=AssertionError,
                    strict=False,
                    reason=f"known upstream bug: {title}",
                )
            )


def _everywhere(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("upstream_bug")
    return _arguments(item, mark, 'upstream_bug("what is wrong")')[0] if mark else None


def _here(item: pytest.Item, config: pytest.Config) -> str | None:
    mark = item.get_closest_marker("upstream_bug_on")
    if mark is None:
        return None
    name, title = _arguments(item, mark, 'upstream_bug_on("arm", "what is wrong")', "symbol")
    kernel = requirements(config)
    symbol = mark.kwargs.get("symbol")
    if symbol and kernel.configuration and kernel.configuration.lacks(symbol):
        return None
    return title if name == kernel.architecture.name else None


def _arguments(item: pytest.Item, mark: pytest.Mark, usage: str, *keywords: str) -> tuple[str, ...]:
    count = usage.count('"') // 2
    if len(mark.args) != count or mark.kwargs.keys() - set(keywords):
        many = "one argument" if count == 1 else f"{count} arguments"
        raise pytest.UsageError(f"{item.nodeid}: {mark.name} takes {many}, {usage}")
    return mark.args
