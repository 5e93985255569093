# SPDX-License-Identifier: GPL-2.0
"""What a test says where another program uses KSM besides (plugins/ksm.py)."""

import pytest

from arch import current
from mm.process import Process
from plugins import ksm
from plugins.evidence import Evidence
from plugins.ksm import KsmAlone
from uapi.ksm import Share

OWN, FOREIGN = 4711, 4712


@pytest.mark.parametrize(
    ("pages", "reason"),
    [
        (
            {OWN: 5, FOREIGN: 34},
            "the number of chains is the whole system's: other programs have 34 pages in KSM",
        ),
        ({OWN: 5}, ""),
        ({}, ""),
    ],
)
def test_figure_of_the_whole_system_is_skipped_beside_others(
    pages: dict[int, int], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which figure, and how much others have; a test's own pages are no reason to skip."""
    monkeypatch.setattr(
        ksm, "share_of_others", lambda own: Share(sum(pages[pid] for pid in pages.keys() - own), 0)
    )
    process = object.__new__(Process)
    process.pid = OWN
    evidence = Evidence()
    evidence.watch_process(process)
    said = ""
    try:
        KsmAlone(evidence, current()).skip_beside_others("the number of chains")
    except pytest.skip.Exception as skipped:
        said = str(skipped)
    assert said == reason
