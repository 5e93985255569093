# SPDX-License-Identifier: GPL-2.0
"""Whom QEMU runs as in place of root, and what of root's it can reach then."""

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from guests import running, user
from guests.packaged import PackagedKernel
from guests.qemu import Emulator, Ram
from guests.running import Qemu
from guests.user import User, in_place_of_root

CHECKOUT = Path(__file__).resolve().parent.parent
DEADLINE_S = 20
NOBODY = User(65534, 65534)
KERNEL = PackagedKernel("tested", "arm64", "linux-image-tested", "sid", nodes=2)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


# Whom


def chosen(accelerator: str = "tcg") -> User | None:
    """Who it is now, whoever it was."""
    in_place_of_root.cache_clear()
    try:
        return in_place_of_root(accelerator)
    finally:
        in_place_of_root.cache_clear()


@needs_root
@pytest.mark.parametrize("caller", [None, "", "0", "-1", "root", "54321", "9" * 30])
def test_nobody_where_there_is_no_caller(
    caller: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or none that has an account."""
    monkeypatch.delenv("SUDO_UID", raising=False)
    if caller is not None:
        monkeypatch.setenv("SUDO_UID", caller)
    nobody = pwd.getpwnam("nobody")
    assert chosen() == User(nobody.pw_uid, nobody.pw_gid)


@needs_root
def test_the_caller_of_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if he had started it."""
    daemon = pwd.getpwnam("daemon")
    monkeypatch.setenv("SUDO_UID", str(daemon.pw_uid))
    assert chosen() == User(daemon.pw_uid, daemon.pw_gid)


def test_others_stay_who_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cannot become anybody."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert chosen() is None


def test_root_stays_where_there_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was."""
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setattr(user, "NOBODY", "no-such-user")
    assert chosen() is None


def test_root_of_a_namespace_without_others_stays() -> None:
    """It is an ordinary user outside."""
    program = "from guests.user import in_place_of_root; print(in_place_of_root('tcg'))"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", program],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stderr.startswith("unshare:"):
        pytest.skip(done.stderr)
    assert done.stdout == "None\n", done.stderr


@needs_root
@pytest.mark.parametrize(
    ("mode", "group", "expected"),
    [
        (0o660, 12345, User(NOBODY.uid, NOBODY.gid, (12345,))),
        (0o666, 0, NOBODY),
        (0o660, 0, None),  # root's group has files of its own
        (0o600, 12345, None),
    ],
)
def test_kvm_is_kept(
    mode: int, group: int, expected: User | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its group, or by root where that alone may use it."""
    monkeypatch.delenv("SUDO_UID", raising=False)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        kvm = Path(directory) / "kvm"
        kvm.touch()
        kvm.chmod(mode)
        os.chown(kvm, 0, group)
        monkeypatch.setattr(user, "KVM", kvm)
        assert chosen("kvm") == expected


# What it can reach


PROGRAM = """\
#!/bin/sh
# In QEMU's place: shows what it is told to read, and writes what it can.
id -u
while [ $# -gt 0 ]; do
    case $1 in
    -L) cat "$2/firmware" ;;
    -kernel | -initrd) cat "$2" ;;
    -serial) echo console > "${2#file:}" ;;
    -object)
        path=${2#*mem-path=}
        cat "${path%%,*}"
        echo garbage 2>&- > "${path%%,*}" ;;
    esac
    shift
done
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Root's, with all that a guest of two nodes is made of, each file with its name in it."""
    made = tmp_path / "cache"
    made.mkdir(mode=0o700)
    (made / "data").mkdir(mode=0o755)
    for name in ("data/firmware", "image", "ram0", "ram1"):
        (made / name).write_text(f"{Path(name).name}\n")
    (made / "qemu").write_text(PROGRAM)
    (made / "qemu").chmod(0o755)
    return made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A guest's own."""
    made = tmp_path / "guest"
    made.mkdir(mode=0o700)
    (made / "initramfs").write_text("initramfs\n")
    (made / "initramfs").chmod(0o600)  # as with a umask of 077
    return made


def words(cache: Path, directory: Path, version: tuple[int, ...], *, saved: bool) -> list[str]:
    """What the program says, and what is in the console."""
    emulator = Emulator(cache / "qemu", version, (cache / "data",))
    ram = Ram((cache / "ram0", cache / "ram1"), saved)
    qemu = Qemu(KERNEL, emulator, cache / "image", directory, ram)
    qemu._process.wait(DEADLINE_S)  # noqa: SLF001
    said = qemu.console_tail()
    qemu.close()
    return said


@needs_root
@pytest.mark.parametrize("version", [(7, 2), (10, 0)])
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_qemu_reads_what_it_needs_and_changes_nothing(
    version: tuple[int, ...],
    mode: int,
    cache: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though it is let into none of root's directories, and the image may be root's alone."""
    monkeypatch.setattr(running, "in_place_of_root", lambda _: NOBODY)
    (cache / "image").chmod(mode)
    said = words(cache, directory, version, saved=True)
    read = [word for word in said if "denied" not in word]
    assert read == ["65534", "firmware", "ram0", "ram1", "image", "console"]
    assert [(cache / name).read_text() for name in ("ram0", "ram1")] == ["ram0\n", "ram1\n"]
    assert cache.stat().st_mode & 0o777 == 0o700


@needs_root
def test_a_booting_qemu_reads_the_initramfs(
    cache: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the guest's directory, in which it can write to nothing but the console."""
    monkeypatch.setattr(running, "in_place_of_root", lambda _: NOBODY)
    assert words(cache, directory, (10, 0), saved=False)[-3:] == ["image", "initramfs", "console"]


def test_who_starts_qemu_as_himself_names_files_by_their_paths(
    cache: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As everybody can read them in a list of processes."""
    monkeypatch.setattr(running, "in_place_of_root", lambda _: None)
    monkeypatch.setenv("CONSOLE", str(directory / "console"))
    (cache / "qemu").write_text('#!/bin/sh\nid -u; echo "$*"; echo > "$CONSOLE"')
    uid, told, _ = words(cache, directory, (10, 0), saved=False)
    assert uid == str(os.geteuid())
    assert f"-kernel {cache}/image " in told
    assert f"-initrd {directory}/initramfs" in told
    assert "/proc/self/fd" not in told
