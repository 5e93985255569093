# SPDX-License-Identifier: GPL-2.0
"""Locks and membership: who gets in, who waits, and who puts the settings back.

Here the settings are files of the test's own: the journal names them, and the real guardian and
the real members restore them.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import _cffi_backend
import pytest

from lease import journal
from lease.belongings import note
from lease.journal import Journal
from lease.locks import FairLock, Lock, LockTimeout
from lease.membership import Membership, UnsafeDirectory, open_members, restore_and_clear
from tests.suite_run import CHECKOUT, kill, wait_until
from uapi.settings import read_value

DEADLINE = 60.0  # s
HOLD = """\
import fcntl, sys
from pathlib import Path
from lease.locks import FairLock
with FairLock(Path(sys.argv[1])).hold(fcntl.LOCK_EX):
    print("holding", flush=True)
    sys.stdin.read()
"""
BE_MEMBER = """\
import sys
from pathlib import Path
from lease.membership import Membership
member = Membership(Path(sys.argv[1]))
print("member", flush=True)
sys.stdin.read()
"""


@contextmanager
def child(
    script: str, directory: Path, *, python: str = sys.executable, checkout: Path = CHECKOUT
) -> Iterator[subprocess.Popen[str]]:
    """A process that has reached the script's print, and ends with the block at the latest."""
    with subprocess.Popen(
        [python, "-c", script, str(directory)],
        cwd=checkout,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline()
            yield process
        finally:
            kill(process.pid)


@contextmanager
def thread(target: Callable[[], None]) -> Iterator[threading.Thread]:
    """A thread, joined at the end of the block."""
    started = threading.Thread(target=target, name=target.__name__)
    started.start()
    try:
        yield started
    finally:
        started.join(DEADLINE)
        assert not started.is_alive()


def test_shared_holders_overlap(tmp_path: Path) -> None:
    """Two hold the lock shared at once."""
    with FairLock(tmp_path).hold(fcntl.LOCK_SH), FairLock(tmp_path).hold(fcntl.LOCK_SH):
        assert not Lock(tmp_path / "lease").try_acquire(fcntl.LOCK_EX)


@pytest.mark.parametrize("mode", [fcntl.LOCK_SH, fcntl.LOCK_EX], ids=["shared", "exclusive"])
def test_exclusive_holder_excludes(tmp_path: Path, mode: int) -> None:
    """Nobody gets in beside an exclusive holder; everybody does after it."""
    lease = Lock(tmp_path / "lease")
    with FairLock(tmp_path).hold(fcntl.LOCK_EX):
        assert not lease.try_acquire(mode)
    assert lease.try_acquire(mode)


def test_lock_is_released_by_an_exception(tmp_path: Path) -> None:
    """A failed test does not keep the lock."""
    lock = FairLock(tmp_path)
    with suppress(ZeroDivisionError), lock.hold(fcntl.LOCK_EX):
        raise ZeroDivisionError
    assert Lock(tmp_path / "lease").try_acquire(fcntl.LOCK_EX)
    assert Lock(tmp_path / "gate").try_acquire(fcntl.LOCK_EX)


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of the thread, for each attempt to get a lock."""
    names: list[str] = []
    plain = Lock.try_acquire

    def recorded(lock: Lock, mode: int) -> bool:
        names.append(threading.current_thread().name)
        return plain(lock, mode)

    monkeypatch.setattr(Lock, "try_acquire", recorded)
    return names


def test_shared_holders_queue_behind_a_waiting_exclusive_one(
    tmp_path: Path, attempts: list[str]
) -> None:
    """However many shared holders come, one that waits to be alone comes before them."""
    got: list[str] = []

    def alone() -> None:
        with FairLock(tmp_path).hold(fcntl.LOCK_EX):
            got.append("alone")

    def latecomer() -> None:
        with FairLock(tmp_path).hold(fcntl.LOCK_SH):
            got.append("latecomer")

    with ExitStack() as others, FairLock(tmp_path).hold(fcntl.LOCK_SH):
        others.enter_context(thread(alone))
        wait_until(lambda: attempts.count("alone") > 2, "wait to be alone", DEADLINE)
        others.enter_context(thread(latecomer))
        wait_until(lambda: attempts.count("latecomer") > 2 or bool(got), "try to get in", DEADLINE)
        assert not got, "the latecomer was let in while somebody waited to be alone"
    assert got == ["alone", "latecomer"]


def test_lock_dies_with_its_killed_holder(tmp_path: Path) -> None:
    """SIGKILL leaves no lock behind."""
    with child(HOLD, tmp_path) as holder:
        assert not Lock(tmp_path / "lease").try_acquire(fcntl.LOCK_SH)
        kill(holder.pid)
        Lock(tmp_path / "lease").acquire(fcntl.LOCK_EX, DEADLINE)


def test_timeout_names_the_holder(tmp_path: Path) -> None:
    """Who waits in vain learns for whom: process and command line."""
    lease = Lock(tmp_path / "lease")
    with child(HOLD, tmp_path) as holder, pytest.raises(LockTimeout) as caught:
        lease.acquire(fcntl.LOCK_SH, deadline=0.01)
    assert f"{tmp_path}/lease is still held" in str(caught.value)
    assert f"{holder.pid} ({sys.executable} -c" in str(caught.value)


def plain_file(directory: Path) -> None:
    """Something else of that name."""
    directory.write_text("")


def open_to_others(directory: Path) -> None:
    """A directory others may look into."""
    directory.mkdir()
    directory.chmod(0o755)


def of_somebody_else(directory: Path) -> None:
    """A directory another user may change."""
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)


def symbolic_link(directory: Path) -> None:
    """A link somebody may have planted."""
    target = directory.with_name("elsewhere")
    target.mkdir(mode=0o700)
    directory.symlink_to(target)


def dangling_link(directory: Path) -> None:
    """A link to nowhere."""
    directory.symlink_to(directory.with_name("nowhere"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize(
    "plant", [plain_file, open_to_others, of_somebody_else, symbolic_link, dangling_link]
)
def test_unsafe_directory_is_refused(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    """What somebody else might have written is never taken for a journal."""
    directory = tmp_path / "protocol"
    plant(directory)
    with pytest.raises(UnsafeDirectory, match=f"{directory} is not .* of user 0 alone.*remove it"):
        Membership(directory)
    assert not list(tmp_path.glob("*/*")), "a file was made in it all the same"


def test_missing_parent_directory_is_an_error(tmp_path: Path) -> None:
    """It is not waited for."""
    with pytest.raises(FileNotFoundError):
        Membership(tmp_path / "missing" / "protocol")


def test_directory_removed_while_joining_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last member of another run may remove it at any moment."""
    directory = tmp_path / "protocol"
    plain = Path.lstat

    def overtaken(path: Path) -> os.stat_result:
        monkeypatch.undo()
        path.rmdir()
        return plain(path)

    monkeypatch.setattr(Path, "lstat", overtaken)
    open_members(directory, fcntl.LOCK_SH).close()
    assert (directory / "members").exists()


@pytest.fixture
def setting(tmp_path: Path) -> Path:
    """A setting as the tests left it; it was `before`."""
    path = tmp_path / "setting"
    path.write_text("during")
    return path


@pytest.fixture
def directory(tmp_path: Path, setting: Path) -> Path:
    """A protocol directory with the journal of that one setting."""
    path = tmp_path / "protocol"
    path.mkdir(mode=0o700)
    values = {str(setting.relative_to("/")): "before"}
    journal.save(
        Journal(read_value(journal.BOOT_ID), values, nothing_merged=False), path / "journal.json"
    )
    return path


def guarded(directory: Path) -> bool:
    """Whether a guardian is on guard."""
    lock = Lock(directory / "guardian")
    try:
        return not lock.try_acquire(fcntl.LOCK_EX)
    finally:
        lock.close()


def wait_until_restored(directory: Path, setting: Path) -> None:
    """Wait for the end of a restore by somebody else."""
    wait_until(lambda: not directory.exists(), f"removal of {directory}", DEADLINE)
    assert setting.read_text() == "before"


def test_last_member_restores(directory: Path, setting: Path) -> None:
    """The first to leave changes nothing; the last one's restore is complete when it has left."""
    first, second = Membership(directory), Membership(directory)
    assert guarded(directory)
    assert first.leave() == []
    assert setting.read_text() == "during"
    assert guarded(directory)

    assert second.leave() == []
    wait_until_restored(directory, setting)


def guardian_pid(directory: Path) -> int:
    """The guardian, by its command line: the lock it holds is its parent's, which is gone."""
    command = f"lease.guardian\0{directory}\0".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if command in path.read_bytes():
                return int(path.parent.name)
    raise LookupError(f"no guardian of {directory}")


def kill_guardian(directory: Path) -> None:
    """SIGKILL it and wait for its end."""
    kill(guardian_pid(directory))
    wait_until(lambda: not guarded(directory), "end of the guardian", DEADLINE)


def test_one_of_two_that_leave_together_restores(
    directory: Path, setting: Path, attempts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither takes the other for a member that stays; there is no guardian to make up for it."""
    first, second = Membership(directory), Membership(directory)
    kill_guardian(directory)
    plain = Lock.acquire

    def leave() -> None:
        second.leave()

    with ExitStack() as leaving:

        def overtaken(lock: Lock, mode: int, deadline: float = DEADLINE) -> None:
            plain(lock, mode, deadline)
            if mode == fcntl.LOCK_SH and threading.current_thread() is threading.main_thread():
                other = leaving.enter_context(thread(leave))
                wait_until(
                    lambda: attempts.count("leave") > 2 or not other.is_alive(), "leave", DEADLINE
                )

        monkeypatch.setattr(Lock, "acquire", overtaken)
        first.leave()
    assert setting.read_text() == "before"
    assert not directory.exists()


def test_killed_member_is_replaced_by_the_guardian(directory: Path, setting: Path) -> None:
    """SIGKILL of the only member restores."""
    with child(BE_MEMBER, directory) as member:
        assert guarded(directory)
        kill(member.pid)
        wait_until_restored(directory, setting)


def test_guardian_restores_whatever_is_noted(directory: Path, setting: Path) -> None:
    """A note that makes no sense to it is told of; the settings are put back all the same."""
    with child(BE_MEMBER, directory) as member:
        note(directory, "of another version", "7")
        kill(member.pid)
        wait_until_restored(directory, setting)


def test_guardian_needs_none_of_its_files(directory: Path, setting: Path, tmp_path: Path) -> None:
    """Checkout and virtual environment may be removed while it waits: it has all in memory."""
    checkout = tmp_path / "checkout"
    for room in ("lease", "uapi"):
        shutil.copytree(CHECKOUT / room, checkout / room)
    venv.create(checkout / "venv", symlinks=True)
    (packages,) = checkout.glob("venv/lib/python*/site-packages")
    shutil.copy(_cffi_backend.__file__, packages)
    python = str(checkout / "venv/bin/python")
    with child(BE_MEMBER, directory, python=python, checkout=checkout) as member:
        assert python in Path(f"/proc/{guardian_pid(directory)}/cmdline").read_text()
        shutil.rmtree(checkout)
        kill(member.pid)
        wait_until_restored(directory, setting)


def test_guardian_waits_for_the_last_member(directory: Path, setting: Path) -> None:
    """SIGKILL of one of two restores nothing yet."""
    with child(BE_MEMBER, directory) as stays:
        with child(BE_MEMBER, directory) as killed:
            kill(killed.pid)
        assert setting.read_text() == "during"
        assert guarded(directory)
        kill(stays.pid)
        wait_until_restored(directory, setting)


def test_next_member_repairs(directory: Path, setting: Path) -> None:
    """Where members and guardian were killed, the next to join has it all restored."""
    with child(BE_MEMBER, directory) as member:
        kill_guardian(directory)
        kill(member.pid)
    assert setting.read_text() == "during"

    following = Membership(directory)
    assert following.repaired
    assert guarded(directory)
    assert following.leave() == []
    assert setting.read_text() == "before"


def test_who_comes_too_late_leaves_the_next_run_alone(directory: Path, setting: Path) -> None:
    """A guardian that wakes when all is restored must not take the next run's journal for its."""
    late = open_members(directory, fcntl.LOCK_EX)
    for path in directory.iterdir():
        path.rename(path.with_name(f"old-{path.name}"))
    (directory / "old-journal.json").rename(directory / "journal.json")
    following = open_members(directory, fcntl.LOCK_SH)

    assert restore_and_clear(directory, late) == []
    assert setting.read_text() == "during"
    assert (directory / "journal.json").exists()
    assert not Lock(directory / "members").try_acquire(fcntl.LOCK_EX)
    following.close()


def test_corrupt_journal_is_kept(directory: Path, setting: Path) -> None:
    """Nobody joins over it or throws it away: a reader may still see in it what the values were."""
    (directory / "journal.json").write_text('{"boot_id": ')
    with pytest.raises(journal.CorruptJournal, match=f"then remove {directory}/journal.json"):
        Membership(directory)
    members = Lock(directory / "members")
    assert "cannot be read" in restore_and_clear(directory, members)[0]
    assert (directory / "journal.json").read_text() == '{"boot_id": '
    assert setting.read_text() == "during"
