# SPDX-License-Identifier: GPL-2.0
"""`python -m tests.soak`: each part as often as is asked for, and what came of all."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import soak
from tests.suite_run import CHECKOUT, wait_until

SOON_S = 20.0
LONG_S = 10 * SOON_S  # of a process that must not end by itself before it is missed


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """What is run; repeated runs fail."""
    run: list[Sequence[str]] = []

    def remember(command: Sequence[str]) -> tuple[int, object]:
        run.append(command)
        return int(command[0] == "bench.repeat"), {"number": len(run)}

    monkeypatch.setattr(soak, "run", remember)
    return run


def test_parts(commands: list[Sequence[str]], capsys: pytest.CaptureFixture[str]) -> None:
    """Those with a number; the status and the last line tell of failures."""
    assert soak.main(["--kills", "2", "--guests", "3"]) == 1
    assert [command[:2] for command in commands] == [
        ["tests.soak_kills", "--kills=2"],
        ["bench.repeat", "--times=3"],
    ]
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == {"failed": 1, "kills": {"number": 1}, "guests": {"number": 2}}


@pytest.mark.usefixtures("commands")
def test_nothing_is_done_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Hours pass only where they are asked for."""
    assert soak.main([]) == 0
    assert json.loads(capsys.readouterr().out) == {"failed": 0}


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("print('one'); print('[2]')", 0, [2]),
        ("raise SystemExit('no JSON')", 1, {"last line": ""}),
        ("print('no JSON'); raise SystemExit(3)", 3, {"last line": "no JSON"}),
    ],
)
def test_the_last_line_is_read(
    code: str,
    status: int,
    said: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is JSON, or kept as it is; and all lines are shown, below the command."""
    (tmp_path / "part.py").write_text(code)
    monkeypatch.setattr(soak, "CHECKOUT", tmp_path)
    assert soak.run(["part", "--times=1"]) == (status, said)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "python -m part --times=1"
    assert len(rest) == code.count("print")


def test_stress_that_keeps_ksmd_waiting_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says which setting does so, and changes nothing."""
    setting = tmp_path / "sched_autogroup_enabled"
    setting.write_text("1\n")
    monkeypatch.setattr(soak, "AUTOGROUP", setting)
    monkeypatch.setattr(soak, "STRESS", ("true",))
    with pytest.raises(SystemExit) as refused:
        soak.main(["--loaded", "1"])
    assert refused.value.code == 2
    assert f"echo 0 > {setting}" in capsys.readouterr().err
    assert setting.read_text() == "1\n"


@pytest.mark.parametrize(
    "started",
    [
        f"with soak.stressed(): time.sleep({LONG_S})",
        "soak.run(['part'])",
    ],
)
def test_nothing_outlives_a_killed_soak(started: str, tmp_path: Path) -> None:
    """Neither what keeps the machine busy nor the part that was running."""
    note = tmp_path / "child"
    (tmp_path / "part.py").write_text(
        f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep({LONG_S})"
    )
    code = "\n".join(
        [
            "import sys, time",
            "from pathlib import Path",
            "from tests import soak",
            f"soak.CHECKOUT = Path({str(tmp_path)!r})",
            f"soak.STRESS = (sys.executable, {str(tmp_path / 'part.py')!r})",
            started,
        ]
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=CHECKOUT) as process:
        wait_until(lambda: note.exists() and note.read_text() != "", "the child's start")
        process.kill()
    child = Path("/proc", note.read_text())
    wait_until(lambda: not child.exists(), "the child's end", SOON_S)
