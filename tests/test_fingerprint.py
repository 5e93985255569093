# SPDX-License-Identifier: GPL-2.0
"""The same defect has the same fingerprint, on every boot, release and architecture."""

import re
import tomllib
from pathlib import Path

import pytest

from plugins.fingerprint import fingerprint

REPORTS = tomllib.loads((Path(__file__).parent / "kernel_reports.toml").read_text())["report"]


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        pytest.param(
            one["log"], one["fingerprint"], id=f"{one['of']}: {one['fingerprint'].split(' in ')[0]}"
        )
        for one in REPORTS
    ],
)
def test_fingerprint(log: str, expected: str) -> None:
    """The kind, then the functions of the trace that are not those of reporting it."""
    assert fingerprint(log.splitlines()) == expected


@pytest.mark.parametrize("log", ["", "[ 1.0] ksmd: all is well"])
def test_no_defect_has_none(log: str) -> None:
    """Lines of no trouble."""
    assert fingerprint(log.splitlines()) is None


@pytest.mark.parametrize("report", REPORTS, ids=[one["of"] for one in REPORTS])
def test_another_boot_gives_the_same(report: dict[str, str]) -> None:
    """Times, addresses, offsets, lines, numbers of processors and processes differ."""
    again = re.sub(r"(?<=[\[.])\d{2,}(?=\.|\])", "7", report["log"])
    again = re.sub(r"(?<=\+0x)[0-9a-f]+/0x[0-9a-f]+", "77/0x770", again)
    again = re.sub(r"(?<=CPU#)\d+|(?<=PID: )\d+|(?<=\.c:)\d+|(?<=[a-z3]/)\d+", "7", again)
    again = re.sub(r"\b[0-9a-f]{16}\b", "00000000abcdef07", again)
    assert again != report["log"] or "+0x" not in again
    assert fingerprint(again.splitlines()) == report["fingerprint"]


def test_what_comes_before_is_not_of_it() -> None:
    """Only what follows the report's first line."""
    log = ["[ 1.0]  other_function+0x1/0x2", "[ 2.0] kernel BUG at mm/ksm.c:9!"]
    assert fingerprint(log) == "kernel BUG at mm/ksm.c"
