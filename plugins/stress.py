# SPDX-License-Identifier: GPL-2.0
"""Tests marked `stress` run when they are asked for: by `-m` with that word, or by their file."""

from pathlib import Path

import pytest

MARK = "stress"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave them out otherwise."""
    if MARK in (config.option.markexpr or ""):
        return
    named = {
        Path(config.invocation_params.dir, argument.partition("::")[0]).resolve()
        for argument in config.args
    }
    left_out = [item for item in items if item.get_closest_marker(MARK) and item.path not in named]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
