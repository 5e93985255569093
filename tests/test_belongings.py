# SPDX-License-Identifier: GPL-2.0
"""What tests make in the kernel is taken down: at the end of the test, or by who is left."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lease import belongings, journal
from lease.belongings import belonging, note, take_down
from lease.journal import Journal
from tests.suite_run import kill, wait_until
from tests.test_lease import child
from uapi import cgroup, zram
from uapi.settings import read_value

MAKE_SWAP = """\
import sys
from pathlib import Path
from lease.belongings import note
from lease.membership import Membership
from uapi import zram
directory = Path(sys.argv[1])
member = Membership(directory)
number = zram.create()
note(directory, "swap device", str(number))
zram.prepare(number, 256)
zram.swap_on(number)
print(number, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def taken_down(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is taken down; `stuck` is not, and nothing real is touched."""
    done: list[tuple[str, str]] = []

    def taker(kind: str) -> Callable[[str], None]:
        def take(name: str) -> None:
            if name == "stuck":
                raise OSError("somebody holds it")
            done.append((kind, name))

        return take

    kinds = {kind: taker(kind) for kind in belongings.TAKE_DOWN}
    monkeypatch.setattr(belongings, "TAKE_DOWN", kinds)
    return done


def notes(directory: Path) -> list[str]:
    """The names of what is noted."""
    return sorted(path.name for path in (directory / belongings.NOTES).glob("*"))


def test_noted_while_it_is_there(tmp_path: Path, taken_down: list[tuple[str, str]]) -> None:
    """Whatever its name."""
    with belonging(tmp_path, "cgroup", "/sys/fs/cgroup/a b.c%"):
        assert len(notes(tmp_path)) == 1
        assert not taken_down
    assert taken_down == [("cgroup", "/sys/fs/cgroup/a b.c%")]
    assert notes(tmp_path) == []


def test_taken_down_after_a_failure(tmp_path: Path, taken_down: list[tuple[str, str]]) -> None:
    """The failure is what is told."""
    with pytest.raises(KeyError), belonging(tmp_path, "page frame", "5"):
        raise KeyError
    assert taken_down == [("page frame", "5")]


def test_what_makes_no_sense_keeps_nothing_else_from_being_taken_down(tmp_path: Path) -> None:
    """Another version of the tests may have noted it; real kinds, of things that are not there."""
    for kind, name in (("of another version", "7"), ("swap device", "no number")):
        note(tmp_path, kind, name)
    assert take_down(tmp_path) == [
        "swap device no number is still there: invalid literal for int() with base 10: 'no number'",
        "of another version 7 is still there: of an unknown kind",
    ]
    assert notes(tmp_path) == []


def test_what_could_not_be_taken_down_stays_noted(
    tmp_path: Path, taken_down: list[tuple[str, str]]
) -> None:
    """For who leaves last, who tells of it."""
    with pytest.raises(OSError, match="somebody"), belonging(tmp_path, "swap device", "stuck"):
        pass
    assert take_down(tmp_path) == ["swap device stuck is still there: somebody holds it"]
    assert notes(tmp_path) == []
    assert not taken_down


def test_processes_go_before_what_they_hold(
    tmp_path: Path, taken_down: list[tuple[str, str]]
) -> None:
    """In the order of TAKE_DOWN."""
    for kind in reversed(list(belongings.TAKE_DOWN)):
        note(tmp_path, kind, "7")
    assert take_down(tmp_path) == []
    assert taken_down == [(kind, "7") for kind in belongings.TAKE_DOWN]


@pytest.fixture
def nothing_changed(tmp_path: Path) -> Iterator[Path]:
    """A members' directory whose journal has no setting: only belongings matter."""
    directory = tmp_path / "members"
    directory.mkdir(mode=0o700)
    empty = Journal(read_value(journal.BOOT_ID), {}, nothing_merged=False)
    journal.save(empty, directory / "journal.json")
    yield directory
    assert take_down(directory) == []


@pytest.mark.needs("swap_device")
@pytest.mark.skipif(os.geteuid() != 0, reason="swap is root's")
def test_killed_run_leaves_no_swap_device(nothing_changed: Path) -> None:
    """The guardian swaps off and removes it."""
    with child(MAKE_SWAP, nothing_changed) as process:
        (noted,) = notes(nothing_changed)
        number = int(noted.partition(".")[2])
        assert zram.in_use(number)
        kill(process.pid)
    wait_until(lambda: not Path(zram.device(number)).exists(), "removal of the device")
    assert not zram.in_use(number)


@pytest.mark.needs("memory_cgroup")
@pytest.mark.skipif(os.geteuid() != 0, reason="groups are root's")
def test_group_goes_with_its_processes(tmp_path: Path) -> None:
    """And with the groups in it."""
    top = cgroup.root()
    assert top
    outer = cgroup.Cgroup(top / f"ksmtests-{os.getpid()}-outer")
    with belonging(tmp_path, "cgroup", str(outer.path)):
        outer.path.mkdir()
        (outer.path / "inner").mkdir()
    assert not outer.path.exists()
