# SPDX-License-Identifier: GPL-2.0
"""Saved guests: what is kept of them, for how long, and what is done with one that is no good."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from guests import catalogue, session, states
from guests.cache import cache_dir, locked
from guests.kernel import Kernel
from guests.monitor import MonitorError
from guests.patience import scaled
from guests.session import Parts, start
from guests.states import State

CHECKOUT = Path(__file__).resolve().parent.parent
DEADLINE_S = 60
PAGE = os.sysconf("SC_PAGE_SIZE")
MEMORY = 64 * PAGE


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where states are, in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_dir() / "states"


class FakeQemu:
    """In QEMU's place: has devices to save, or fails to; counts how often it went on."""

    def __init__(self, error: Exception | None = None) -> None:
        self.monitor = self
        self.error = error
        self.going_on = 0

    def save_devices(self, target: Path) -> None:
        """Write something."""
        target.write_bytes(b"devices")
        if self.error:
            raise self.error

    def go_on(self) -> None:
        """Count."""
        self.going_on += 1


@pytest.fixture
def ram() -> Iterator[int]:
    """A guest's memory, with two pages in use."""
    descriptor = os.memfd_create("ram")
    os.ftruncate(descriptor, MEMORY)
    for page in (3, 62):
        os.pwrite(descriptor, bytes([page]) * PAGE, page * PAGE)
    yield descriptor
    os.close(descriptor)


def save(name: str, ram: int, qemu: FakeQemu | None = None) -> None:
    """Save a guest."""
    states.save(name, cast("Any", qemu or FakeQemu()), [ram])


def names(home: Path) -> set[str]:
    """What lies in the directory of states."""
    return {path.name for path in home.iterdir() if path.suffix != ".lock"}


def test_memory_is_saved_without_its_holes(home: Path, ram: int) -> None:
    """The file has the memory's content and takes as much of the disk as is in use."""
    save("one", ram)
    state = states.find("one")
    assert state == State(home / "one")
    assert state.ram(0).read_bytes() == os.pread(ram, MEMORY, 0)
    assert state.ram(0).stat().st_blocks * 512 < MEMORY / 2


def test_memory_that_nobody_used_is_saved(home: Path) -> None:
    """A file may be one hole."""
    descriptor = os.memfd_create("ram")
    os.ftruncate(descriptor, MEMORY)
    save("one", descriptor)
    os.close(descriptor)
    assert (home / "one/ram0").stat().st_size == MEMORY


@pytest.mark.usefixtures("home")
def test_each_node_has_a_file(ram: int) -> None:
    """A state that lacks one is damaged."""
    states.save("one", cast("Any", FakeQemu()), [ram, ram])
    state = states.find("one")
    assert state
    assert state.ram(1).read_bytes() == state.ram(0).read_bytes()
    state.ram(1).unlink()
    assert states.find("one") is None


@pytest.mark.usefixtures("home")
def test_there_is_no_state_at_first() -> None:
    """And none is no reason to complain."""
    assert states.find("one") is None


def damage_truncated(path: Path) -> None:
    """Leave half."""
    os.truncate(path, path.stat().st_size // 2)


def damage_garbage(path: Path) -> None:
    """Keep the size."""
    with path.open("r+b") as stream:
        stream.write(b"garbage")


def damage_gone(path: Path) -> None:
    """Leave nothing."""
    path.unlink()


DAMAGES = (damage_truncated, damage_garbage, damage_gone)


@pytest.mark.parametrize("file", ["ram0", "devices", "manifest"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_removed(
    home: Path,
    ram: int,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    file: str,
) -> None:
    """With a warning that names it."""
    save("one", ram)
    damage(home / "one" / file)
    assert states.find("one") is None
    assert f"the saved guest {home / 'one'} is damaged" in caplog.text
    assert names(home) == set()


@pytest.mark.parametrize("error", [MonitorError("refused"), OSError(28, "No space left")])
def test_what_cannot_be_saved_runs_on(
    home: Path, ram: int, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Nothing half-made stays."""
    qemu = FakeQemu(error)
    save("one", ram, qemu)
    assert qemu.going_on == 1
    assert "could not be saved for the next time" in caplog.text
    assert names(home) == set()


def test_only_one_of_two_saves(home: Path, ram: int) -> None:
    """The other one goes on at once."""
    home.mkdir()
    qemu = FakeQemu()
    with locked(home / "one.lock"):
        save("one", ram, qemu)
    assert qemu.going_on == 1
    assert names(home) == set()


def test_what_is_saved_is_not_saved_again(home: Path, ram: int) -> None:
    """Two may have booted at once."""
    save("one", ram)
    before = (home / "one").stat().st_ino
    save("one", ram)
    assert (home / "one").stat().st_ino == before


def test_the_least_recently_used_go(home: Path, ram: int) -> None:
    """First those beyond a number, then those beyond a size."""
    for number, name in enumerate(("oldest", "older", "new")):
        save(name, ram)
        os.utime(home / name, (number, number))
    states.find("oldest")
    states.prune(most=2)
    assert names(home) == {"oldest", "new"}
    states.prune(most_bytes=State(home / "oldest").size())
    assert names(home) == {"oldest"}
    states.clean()
    assert list(home.iterdir()) == []


def test_saving_keeps_within_bounds(home: Path, ram: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No command is needed for it."""
    monkeypatch.setattr(states.prune, "__defaults__", (1, states.MOST_BYTES))
    save("one", ram)
    save("two", ram)
    assert names(home) == {"two"}


def test_leftovers_of_the_killed_are_removed(home: Path, ram: int) -> None:
    """Not what somebody is still making."""
    for name in ("making-killed", "making-busy", "removed-one-1"):
        (home / name).mkdir(parents=True)
        (home / name / "manifest").touch()
    (home / "killed.lock").touch()
    with locked(home / "busy.lock"):
        save("one", ram)
        assert names(home) == {"making-busy", "one"}


def test_a_key_is_of_all_that_a_state_depends_on(tmp_path: Path) -> None:
    """QEMU, its arguments, its files and the guest's first archive."""
    qemu, image = tmp_path / "qemu", tmp_path / "image"
    for path in (qemu, image):
        path.write_bytes(b"1")
    keys = {states.key(["qemu", "-m", "512"], [qemu, image], b"front")}
    keys.add(states.key(["qemu", "-m", "512"], [qemu, image], b"front"))
    assert len(keys) == 1
    keys.add(states.key(["qemu", "-m", "513"], [qemu, image], b"front"))
    keys.add(states.key(["qemu", "-m", "512"], [qemu, image], b"other"))
    for path in (qemu, image):
        path.write_bytes(b"22")
        keys.add(states.key(["qemu", "-m", "512"], [qemu, image], b"front"))
    assert len(keys) == 5


# Guests


KERNELS = ("7.2-arm64", "6.1-amd64", "6.12-armhf-lpae", "7.2-arm64-numa")


def parts(name: str) -> Parts:
    """Of a kernel."""
    (kernel,) = catalogue.load().resolve(name)
    return Parts.of(kernel)


def say(kernel: Kernel, program: str) -> tuple[bool, str]:
    """Whether a guest of the kernel was resumed, and what a program in it says."""
    output = bytearray()
    with start(kernel, CHECKOUT) as guest:
        assert guest.run(["python3", "-c", program], output.extend) == 0, output.decode()
        return guest.resumed, output.decode()


@pytest.mark.guest
@pytest.mark.network
@pytest.mark.parametrize("name", KERNELS)
def test_a_guest_is_resumed_as_often_as_wanted(name: str) -> None:
    """With the time of now and random numbers of its own; a fresh one has booted."""
    wanted = parts(name)
    states.discard(State(cache_dir() / "states" / wanted.key()))
    program = "import os, time; print(time.time(), os.urandom(8).hex())"
    guests = [say(wanted.kernel, program) for _ in range(4)]
    assert [resumed for resumed, _ in guests] == [False, True, True, True]
    times = [float(said.split()[0]) for _, said in guests]
    assert times == sorted(times)
    assert abs(times[-1] - time.time()) < DEADLINE_S
    assert len({said.split()[1] for _, said in guests}) == 4


@pytest.mark.guest
@pytest.mark.network
@pytest.mark.skipif(os.geteuid() != 0, reason="others start guests as themselves")
def test_root_starts_guests_as_another_user() -> None:
    """Booted or resumed: QEMU has none of root's ids, and the console is read all the same."""
    wanted = parts("7.2-amd64")
    states.discard(State(cache_dir() / "states" / wanted.key()))
    for resumed in (False, True):
        with start(wanted.kernel, CHECKOUT) as guest:
            assert guest.resumed == resumed
            said = Path(f"/proc/{only_child(only_child(os.getpid()))}/status").read_text()
            guest.run(["sh", "-c", "echo '<1>hello' > /dev/kmsg; sleep 1"], print)
            assert any("hello" in line for line in guest.console_tail())
        ids = dict(line.split(":") for line in said.splitlines())
        assert "0" not in {*ids["Uid"].split(), *ids["Gid"].split(), *ids["Groups"].split()}


def only_child(pid: int) -> int:
    """The only one."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


@pytest.mark.guest
@pytest.mark.network
@pytest.mark.parametrize(
    ("file", "damage"), [("ram0", damage_truncated), ("ram0", None), ("devices", None)]
)
def test_a_guest_that_cannot_be_resumed_is_booted(
    file: str,
    damage: Callable[[Path], None] | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a warning, and a state that the next one is resumed from. Damage may be unseen."""
    wanted = parts("7.2-arm64")
    assert say(wanted.kernel, "print(1)")[1] == "1\n"
    state = states.find(wanted.key())
    assert state
    path = state.directory / file
    if damage:
        damage(path)
    else:
        monkeypatch.setattr(session, "RESUME_S", 3)
        path.write_bytes(os.urandom(path.stat().st_size))
        state.manifest.write_text(state.described())
    with caplog.at_level(logging.WARNING):
        assert say(wanted.kernel, "print(2)") == (False, "2\n")
    assert "is damaged" in caplog.text or "could not be resumed" in caplog.text
    assert say(wanted.kernel, "print(3)") == (True, "3\n")


@pytest.mark.guest
@pytest.mark.network
def test_a_run_killed_while_it_saves_leaves_nothing() -> None:
    """Neither a process nor, after the next guest, a file."""
    wanted = parts("7.2-arm64")
    home = cache_dir() / "states"
    states.discard(State(home / wanted.key()))
    script = (
        "import os, signal\n"
        "from guests import states\n"
        "from tests.test_guest_state import parts, say\n"
        "states.copy_sparse = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "say(parts('7.2-arm64').kernel, 'print(1)')\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (home / f"making-{wanted.key()}").is_dir()
    deadline = time.monotonic() + scaled(DEADLINE_S)
    while emulators_in(home):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert say(wanted.kernel, "print(2)") == (False, "2\n")
    assert not (home / f"making-{wanted.key()}").exists()
    assert say(wanted.kernel, "print(3)") == (True, "3\n")


def emulators_in(home: Path) -> list[Path]:
    """Processes that have a file there open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith(f"{home}/making-"):
                found.append(link)
    return found
