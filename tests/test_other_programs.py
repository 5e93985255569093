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


@pytest.fixture
def ksm_alone(monkeypatch: pytest.MonkeyPatch) -> KsmAlone:
    """KSM as a test with one process has it, beside another program's 34 pages."""
    processes = {OWN: 5, FOREIGN: 34}
    monkeypatch.setattr(
        ksm,
        "share_of_others",
        lambda own: Share(sum(processes[pid] for pid in processes.keys() - own), 0),
    )
    process = object.__new__(Process)
    process.pid = OWN
    evidence = Evidence()
    evidence.watch_process(process)
    return KsmAlone(evidence, current())


def test_figure_of_the_whole_system_is_skipped_with_a_reason(ksm_alone: KsmAlone) -> None:
    """It names the figure, and how much of other programs' there is."""
    with pytest.raises(pytest.skip.Exception) as skipped:
        ksm_alone.skip_beside_others("the number of chains")
    assert str(skipped.value) == (
        "the number of chains is the whole system's: other programs have 34 pages in KSM"
    )


def test_own_pages_are_no_reason_to_skip(
    ksm_alone: KsmAlone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that runs alone says all it has to say."""
    monkeypatch.setattr(ksm, "share_of_others", lambda own: Share(5 if OWN not in own else 0, 0))
    ksm_alone.skip_beside_others("the number of chains")
