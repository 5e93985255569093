# SPDX-License-Identifier: GPL-2.0
"""`python -m tests.reference_table`: write docs/reference.md from the plugins."""

import ast
import importlib
import inspect
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest

import conftest
from plugins.features import FEATURES

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/reference.md"
HEADING = """\
# Options, marks, features, fixtures

What the suite adds to pytest. Made of the code by `python -m tests.reference_table`; pytest's own
`--help`, `--markers` and `--fixtures` say the same of a checkout, and `--features` what the running
kernel has.
"""


class Options:
    """In the place of pytest's parser."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def getgroup(self, *_: str) -> Self:
        """All groups are one."""
        return self

    def addoption(self, *names: str, **how: Any) -> None:
        """Note an option with its value, and what it does."""
        choices = "{" + ",".join(how["choices"]) + "}" if "choices" in how else ""
        value = how.get("metavar") or choices
        self.found.append((f"{names[0]} {value}".strip(), how["help"]))

    def addini(self, *_: object, **__: object) -> None:
        """Is of pyproject.toml."""


def plugins() -> list[ModuleType]:
    """All, in the order they are loaded in."""
    return [importlib.import_module(name) for name in conftest.pytest_plugins]


def options() -> list[tuple[str, str]]:
    """Option -> what it does."""
    parser = Options()
    for plugin in plugins():
        if hasattr(plugin, "pytest_addoption"):
            given = {"parser": parser, "pluginmanager": pytest.PytestPluginManager()}
            wanted = inspect.signature(plugin.pytest_addoption).parameters
            plugin.pytest_addoption(**{name: given[name] for name in wanted})
    return sorted(parser.found)


def _trees() -> Iterator[ast.Module]:
    for plugin in plugins():
        yield ast.parse(Path(str(plugin.__file__)).read_text("utf-8"))


def areas() -> list[tuple[str, str]]:
    """Marks of pyproject.toml -> what they select."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    lines: list[str] = settings["tool"]["pytest"]["ini_options"]["markers"]
    return [(name, text) for name, _, text in (line.partition(": ") for line in lines)]


def marks() -> list[tuple[str, str]]:
    """Marks that plugins register -> what they do."""
    found = []
    for tree in _trees():
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="addinivalue_line"),
                    args=[ast.Constant("markers"), ast.Constant(str(line))],
                ):
                    name, _, text = line.partition(": ")
                    found.append((name, text))
    return sorted(found)


def fixtures() -> list[tuple[str, str]]:
    """Fixture -> what it is, and how long."""
    return sorted(
        (node.name, _described(node, decorator))
        for tree in _trees()
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if "pytest.fixture" in ast.unparse(decorator)
    )


def _described(node: ast.FunctionDef, decorator: ast.expr) -> str:
    text = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
    return text + (" (one for the run)" if "session" in ast.unparse(decorator) else "")


def _table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}\n"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |\n"


def _named(rows: list[tuple[str, str]]) -> Iterator[tuple[str, ...]]:
    return ((f"`{name}`", text) for name, text in rows)


def page() -> str:
    """docs/reference.md."""
    return "".join(_lines())


def _lines() -> Iterator[str]:
    yield HEADING
    yield "\n## Options\n"
    yield from _table(("option", ""), _named(options()))
    yield "\n## Marks that select\n\n`pytest -m 'zero_pages and not fork'` and so on.\n"
    yield from _table(("mark", "tests of"), _named(areas()))
    yield "\n## Marks that say what a test needs or means\n"
    yield from _table(("mark", ""), _named(marks()))
    yield "\n## Features\n\nWhat `needs(NAME)` and `--require NAME` can name.\n"
    yield from _table(
        ("feature", "since", "symbols", "may be missing all the same"),
        (
            (
                f"`{one.name}`",
                one.since,
                ", ".join(f"`{symbol}`" for symbol in (*one.kconfig, *one.selected)),
                one.otherwise,
            )
            for one in FEATURES.values()
        ),
    )
    yield "\n## Fixtures\n"
    yield from _table(("fixture", ""), _named(fixtures()))


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
