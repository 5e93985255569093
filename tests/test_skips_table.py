# SPDX-License-Identifier: GPL-2.0
"""The table of what is skipped where, as `python -m tests.skips_table` makes it of a record."""

from pathlib import Path

import pytest

from tests import skips_table
from tests.made_up_records import outcome, run, written

OLD = "1.0-armmp"
PAGE = """\
Before.

| reason | old | new |
|---|---|---|
| whatever | 7 | 7 |
| **all** | 7 | 7 |

| another | table |
"""
MADE = """\
Before.

| reason | old | new |
|---|---|---|
| `advice` came with 6.4 | 2 |  |
| `thp`: no CONFIG_THP | 1 | 1 |
| 32-bit ARM has no NUMA | 1 |  |
| **all** | 4 | 1 |

| another | table |
"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with an old table."""
    file = tmp_path / "skips.md"
    file.write_text(PAGE)
    monkeypatch.setattr(skips_table, "PAGE", file)
    return file


def record(tmp_path: Path, *kernels: str) -> str:
    """A record of a run on these, none of which is like the others."""
    skips = [
        ("old", f"advice came with 6.4; this is {OLD}"),
        ("old", f"advice came with 6.4; this is {OLD}"),
        ("old", f"thp: CONFIG_THP is absent from /boot/config-{OLD}"),
        ("old", "arm: 32-bit ARM has no NUMA"),
        ("new", "thp: CONFIG_THP is not set in the configuration"),
        ("other", "too cold"),
    ]
    tests = [
        outcome(f"{number}", "skip", kernel, reason=why, directive="SKIP", kernel_release=OLD)
        for number, (kernel, why) in enumerate(skips)
        if kernel in kernels
    ]
    passed = [outcome("passes", "pass", kernel, directive="") for kernel in kernels]
    return str(written(run(*tests, *passed), tmp_path / "record"))


def test_reasons_of_all_kernels_are_rows(page: Path, tmp_path: Path) -> None:
    """The most frequent first, and only for kernels that the page has."""
    assert skips_table.main([record(tmp_path, "old", "new", "other")]) == 0
    assert page.read_text() == MADE


def test_a_kernel_that_was_not_run_is_told(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty column would say that nothing is skipped there."""
    assert skips_table.main([record(tmp_path, "old")]) == 1
    assert "has no test of new\n" in capsys.readouterr().err
    assert page.read_text() == PAGE


def test_the_page_has_the_table() -> None:
    """Of three releases on three architectures."""
    assert len(skips_table.columns(skips_table.PAGE.read_text("utf-8"))) == 9
