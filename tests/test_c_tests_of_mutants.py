# SPDX-License-Identifier: GPL-2.0
"""The kernel's C tests against injected bugs: what kills one, and what is not waited for."""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from guests.session import LostGuest
from mutants import selftests
from mutants.run import KILLED, SURVIVED, UNREACHED, Target


class CProgramsGuest:
    """A guest in which C tests print what they are told to while a bug is selected."""

    def __init__(self, failing: Mapping[str, str], scripts: list[str]) -> None:
        self._failing = failing  # by the number of the bug
        self._scripts = scripts
        self._selected = "0"

    def start(self, command: Sequence[str]) -> None:
        """Select a bug, if that is what it is told."""
        self._scripts.append(command[-1])
        if found := re.search(rf"echo (\d+) > {selftests.SELECTED}", command[-1]):
            self._selected = found[1]

    def write(self, data: bytes) -> None:
        """Nothing reads it."""

    def step(self, output: Callable[[bytes], object]) -> int | None:
        """Tell the hits, or print TAP; an endless program says that it is alive."""
        script = self._scripts[-1]
        if selftests.HITS in script:
            output(b"4\n" if self._selected in {"1", "2"} else b"0\n")
        elif self._selected == "4" and "timeout" in script:
            return None
        else:
            word = self._failing.get(self._selected)
            wrong = word is not None and word in script
            output(b"TAP version 13\n" + (b"not " if wrong else b"") + b"ok 1 merges\n")
        return 0

    def lost(self, why: str) -> LostGuest:
        """What is raised."""
        return LostGuest("x86", why, [])


@pytest.mark.parametrize(
    ("number", "result", "commands"),
    [
        (1, KILLED, 2),
        (2, SURVIVED, len(selftests.COMMANDS)),
        (3, UNREACHED, len(selftests.COMMANDS)),
    ],
)
def test_c_tests_run_up_to_the_first_that_tells_of_the_bug(
    number: int, result: str, commands: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result is missed that was there without a bug, not one that never was."""
    scripts: list[str] = []
    failing = {"0": selftests.COMMANDS[0], **dict.fromkeys("123", selftests.COMMANDS[0])}
    failing["1"] = selftests.COMMANDS[1]
    guest = CProgramsGuest(failing, scripts)
    monkeypatch.setattr("guests.session.start", lambda *_: contextlib.nullcontext(guest))
    monkeypatch.setattr("guests.sources.resolve", lambda *_, **__: [None])
    suite = selftests.Selftests(tmp_path, tmp_path)
    assert suite.expected[selftests.COMMANDS[0]] == set()
    scripts.clear()
    tried = suite.try_bug(Target(number, "bug", "", ""))
    assert (tried.result, tried.hits) == (result, 4 if number < 3 else 0)
    assert tried.killers == ((f"{selftests.COMMANDS[1]}: merges",) if result == KILLED else ())
    assert sum("timeout" in script for script in scripts) == commands


def test_c_test_that_cannot_be_killed_kills_the_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs in the kernel, and its guest is given up."""
    guest = CProgramsGuest({}, [])
    monkeypatch.setattr("guests.session.start", lambda *_: contextlib.nullcontext(guest))
    monkeypatch.setattr("guests.sources.resolve", lambda *_, **__: [None])
    suite = selftests.Selftests(tmp_path, tmp_path)
    assert suite.expected
    monkeypatch.setattr(selftests, "SCRIPT_S", 0)
    tried = suite.try_bug(Target(4, "bug", "", ""))
    assert tried.result == KILLED
    assert "cannot be ended" in tried.killers[0]
