# SPDX-License-Identifier: GPL-2.0
"""docs/upstream-bugs/: each known defect of the kernel has a page, and each page its test."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs/upstream-bugs").glob("*.md"))
SECTIONS = ["Symptom", "Affected", "Cause", "Reproducer", "Proposed fix"]
MARKS = {"upstream_bug": 0, "upstream_bug_on": 1}  # which argument is the title


def marked_tests() -> Iterator[tuple[str, str]]:
    """(title, test) of each test that expects a defect, `test_module.py::test_function`."""
    for module in sorted((ROOT / "ksmtests").glob("test_*.py")):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Attribute):
                        argument = MARKS.get(mark.func.attr)
                        if argument is not None:
                            title = ast.literal_eval(mark.args[argument])
                            yield title, f"{module.name}::{node.name}"


TESTS: dict[str, set[str]] = defaultdict(set)
for defect, test in marked_tests():
    TESTS[defect.casefold()].add(test)


def title_of(page: Path) -> str:
    """Its heading, which may begin with a capital."""
    return page.read_text("utf-8").partition("\n")[0].removeprefix("# ").casefold()


def test_each_defect_has_a_page() -> None:
    """Under the title that a run shows for it; and no page is left of one that is gone."""
    assert sorted(map(title_of, PAGES)) == sorted(TESTS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_says_what_a_maintainer_asks(page: Path) -> None:
    """In this order; the reproducer is one of its tests, run for a failure."""
    text = page.read_text("utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    (reproducer,) = re.findall(
        r"^python -m pytest --runxfail .*ksmtests/(\S+)$", text, re.MULTILINE
    )
    assert reproducer in TESTS[title_of(page)]


def test_index_has_every_page() -> None:
    """docs/upstream-bugs.md links to all of them."""
    index = (ROOT / "docs/upstream-bugs.md").read_text("utf-8")
    assert set(re.findall(r"\(upstream-bugs/([a-z0-9-]+)\.md\)", index)) == {
        page.stem for page in PAGES
    }
