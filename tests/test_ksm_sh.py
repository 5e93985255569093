# SPDX-License-Identifier: GPL-2.0
"""ksm.sh, as kselftest runs it: what must be there for it to run, and how it exits."""

import importlib.metadata
import os
import re
import sys
import venv
from pathlib import Path

import pytest

from reports import kselftest
from reports.running import Tally, meaning
from tests.test_kselftest import ROOT, on_this_kernel, run


@on_this_kernel
def test_a_kernel_without_ksm_is_a_skip() -> None:
    """Its release is told, and what it has to be built with."""
    hidden = f"mount -t tmpfs none /sys/kernel/mm && exec {ROOT}/ksm.sh"
    done = run("unshare", "--mount", "sh", "-c", hidden)
    release = re.escape(os.uname().release)
    told = rf"1\.\.0 # SKIP this kernel, {release}, has no .* CONFIG_KSM=y\n"
    assert re.fullmatch(f"KTAP version 1\n{told}", done.stdout)
    assert done.returncode == 4


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    """A Python without anything: the suite skips, and says what to install."""
    venv.create(tmp_path / "bare")
    done = run(ROOT / "ksm.sh", PATH=f"{tmp_path}/bare/bin:/usr/bin:/bin")
    python = tmp_path / "bare/bin/python3"
    missing = f"python3-pytest is not installed for {python}"
    assert done.stdout == f"KTAP version 1\n1..0 # SKIP {missing}\n"
    assert done.returncode == 4


def test_no_python_is_a_skip(tmp_path: Path) -> None:
    """The shell says so."""
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    done = run("/bin/sh", ROOT / "ksm.sh", PATH=str(tmp_path))
    assert done.stdout == "KTAP version 1\n1..0 # SKIP python3 is not installed\n"
    assert done.returncode == 4


@pytest.mark.parametrize("module", kselftest.PACKAGES)
def test_each_package_is_asked_for(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By distributions' name; one that is too old is none."""
    assert kselftest.missing() == ""
    package, _ = kselftest.PACKAGES[module]
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.1.dev3")
    monkeypatch.setattr(kselftest, "PACKAGES", {module: kselftest.PACKAGES[module]})
    assert re.fullmatch(rf"{package} is 0\.1, older than \d+\.\d+", kselftest.missing())
    monkeypatch.setattr(kselftest, "PACKAGES", {f"no_{module}": (package, (1, 0))})
    assert kselftest.missing() == f"{package} is not installed for {sys.executable}"


def test_an_old_python_is_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version and the one needed."""
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    assert kselftest.missing() == "python3 is 3.9, older than 3.11"


@pytest.mark.parametrize(
    ("status", "ran", "skipped", "result"),
    [
        (0, 3, 0, 0),
        (0, 3, 2, 0),
        (0, 0, 2, 4),
        (1, 3, 2, 1),
        (1, 0, 2, 1),
        (2, 3, 0, 1),
        (3, 0, 0, 1),
        (4, 0, 0, 1),
        (5, 0, 0, 1),
    ],
)
def test_exit_status(status: int, ran: int, skipped: int, result: int) -> None:
    """pytest's are other things to the runner, so none goes through."""
    tally = Tally()
    tally.ran, tally.skipped = ran, skipped
    assert meaning(status, tally) == result
