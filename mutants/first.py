# SPDX-License-Identifier: GPL-2.0
"""A pytest plugin: `--first NAME` runs the tests of a module, or those with a name, before others.

`python -m mutants run` loads it, to meet the likely killers of a bug first.
"""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    parser.addoption("--first", action="append", default=[], metavar="NAME", help="run this first")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort, and keep the order of what is named alike."""
    names = config.option.first

    def rank(item: pytest.Item) -> int:
        function = getattr(item, "originalname", item.name)
        found = [names.index(one) for one in (item.path.stem, function) if one in names]
        return min(found, default=len(names))

    items.sort(key=rank)
