# SPDX-License-Identifier: GPL-2.0
"""docs/coverage.md: what it names is there, and nothing is left without a test or a reason."""

import pytest

from tests.coverage_table import PAGE, PARTS, ROOT, TABLE, Row, functions_of, load, page

ROWS = load(TABLE.read_text("utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_row_is_tested_or_says_why_not(row: Row) -> None:
    """Or it is open: work on it goes on."""
    assert row.settled or row.open, f"{row.group}, {row.what}: a test, a note, or `open = true`"


def test_named_tests_exist() -> None:
    """By module and function."""
    known = functions_of(ROOT / "ksmtests") | functions_of(ROOT / "tests")
    assert sorted({test for row in ROWS for test in row.ids()} - known) == []


def test_every_part_has_a_title() -> None:
    """A misspelt part would be left out of the page."""
    assert {row.part for row in ROWS} == set(PARTS)


def test_page_is_current() -> None:
    """docs/coverage.md is what the table says."""
    assert PAGE.read_text("utf-8") == page(ROWS), "python -m tests.coverage_table"


def test_misspelt_key_is_refused() -> None:
    """A row with a key that nobody reads would be taken for settled."""
    with pytest.raises(TypeError, match="test"):
        load('[suites.one]\nrow = { test = ["test_a::test_b"] }')
