# SPDX-License-Identifier: GPL-2.0
"""`python -m tests.coverage_table`: write docs/coverage.md from tests/coverage.toml.

The table is written by hand: what is to be tested, and what tests it.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).with_name("coverage.toml")
PAGE = ROOT / "docs" / "coverage.md"
HEADING = """\
# Coverage

What other suites check of KSM, what the kernel offers of it to user space, and what may go wrong
with it; beside each, the tests that would notice, or why there is none. Made by
`python -m tests.coverage_table`; the rows are written by hand, in tests/coverage.toml. That each of
the tests can fail is shown in [seen-red.md](seen-red.md).
"""
PARTS = {
    "suites": "What other suites check",
    "interface": "What the kernel offers",
    "ideas": "What may go wrong",
}


@dataclass(frozen=True)
class Row:
    """One thing to be tested."""

    part: str
    group: str
    what: str
    tests: tuple[str, ...] = ()  # module::function
    note: str = ""  # why there is no test, or what is different about it
    open: bool = False  # to be done

    @property
    def settled(self) -> bool:
        """Whether there is a test, or a reason why not."""
        return bool(self.tests or self.note)

    def ids(self) -> list[str]:
        """The tests, as pytest names them."""
        modules = [test if "/" in test else f"ksmtests/{test}" for test in self.tests]
        return [module.replace("::", ".py::") for module in modules]


def load(text: str) -> list[Row]:
    """The rows of a table. Raises TypeError for a key no row has."""
    return [
        Row(part, group, what, tuple(cells.pop("tests", ())), **cells)
        for part, groups in tomllib.loads(text).items()
        for group, rows in groups.items()
        for what, cells in rows.items()
    ]


def functions_of(directory: Path) -> set[str]:
    """The ids of the test functions in a directory, without their parameters."""
    return {
        f"{path.parent.name}/{path.name}::{node.name}"
        for path in directory.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def page(rows: Sequence[Row]) -> str:
    """docs/coverage.md."""
    return "".join(_lines(rows))


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    yield HEADING
    tested = sum(bool(row.tests) for row in rows)
    reasons = sum(bool(row.note and not row.tests) for row in rows)
    yield f"\n{len(rows)} rows: {tested} tested, {reasons} for a reason not"
    still_open = sum(row.open for row in rows)
    yield f"; {still_open} open.\n" if still_open else ".\n"
    for part, title in PARTS.items():
        yield f"\n## {title}\n"
        of_part = [row for row in rows if row.part == part]
        for group in dict.fromkeys(row.group for row in of_part):
            yield f"\n### {group}\n\n| | tests |\n| --- | --- |\n"
            yield from (_line(row) for row in of_part if row.group == group)


def _line(row: Row) -> str:
    named = ", ".join(f"`{test}`" for test in row.tests)
    cell = "; ".join(filter(None, [named, row.note, "**open**" if row.open else ""]))
    return f"| {row.what} | {cell} |\n"


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(load(TABLE.read_text("utf-8"))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
