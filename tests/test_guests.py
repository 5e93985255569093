# SPDX-License-Identifier: GPL-2.0
"""Emulated kernels: command lines, archives, a channel nobody can be trusted on, and real boots."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from guests import catalogue, cpio, launcher, qemu, wheels
from guests.checkout import checkout_files
from guests.machines import MACHINES
from guests.packaged import PackagedKernel
from guests.patience import scaled
from guests.qemu import Emulator, QemuError
from guests.session import LostGuest, boot

CHECKOUT = Path(__file__).resolve().parent.parent
DEADLINE_S = 20
PRIVATE = "share=off,readonly=on,rom=off,merge=off"  # memory of a saved guest
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


# Command lines


def command_line(arch: str, *, saved: bool = False) -> list[str]:
    """The command for a kernel of the architecture, by a QEMU that is installed."""
    emulator = Emulator(Path("/usr/bin/qemu"), (10, 0, 2), sandbox=True)
    tested = PackagedKernel("tested", arch, "linux-image-tested", "sid", append="slab_nomerge")
    places = (Path("/vmlinuz"), Path("/guest"), qemu.Ram((Path("/ram"),), saved))
    return qemu.command(tested, emulator, *places, channel=7, monitor=8)


@pytest.mark.parametrize(
    ("arch", "machine", "cpu", "append"),
    [
        ("amd64", "q35", "max", "console=ttyS0 quiet panic=-1 no_timer_check slab_nomerge"),
        ("arm64", "virt", "cortex-a76", "console=ttyAMA0 quiet panic=-1 slab_nomerge"),
        ("armhf", "virt,highmem=off", "cortex-a15", "console=ttyAMA0 quiet panic=-1 slab_nomerge"),
        ("ppc64el", "pseries,x-vof=on", "power9", "console=hvc0 quiet panic=-1 slab_nomerge"),
    ],
)
def test_command_line(
    monkeypatch: pytest.MonkeyPatch, arch: str, machine: str, cpu: str, append: str
) -> None:
    """What QEMU is told, whole: no network, no display, a sandbox, and a channel without a name."""
    monkeypatch.setattr(qemu, "accelerator", lambda _: "tcg")
    assert command_line(arch) == [
        *("/usr/bin/qemu", "-sandbox", qemu.SANDBOX),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", f"{machine},memory-backend=ram,mem-merge=off", "-accel", "tcg", "-cpu", cpu),
        *("-smp", "1", "-m", "512M"),
        *("-object", "memory-backend-file,id=ram,size=512M,mem-path=/ram,share=on,merge=off"),
        *("-serial", "file:/guest/console"),
        *("-chardev", "socket,id=monitor,fd=8", "-mon", "monitor,mode=control"),
        *("-device", "virtio-serial-pci", "-chardev", "socket,id=channel,fd=7"),
        *("-device", "virtserialport,chardev=channel,name=ksmtests"),
        *("-kernel", "/vmlinuz", "-append", append, "-initrd", "/guest/initramfs"),
    ]


def test_the_channel_hangs_on_the_machines_own_bus() -> None:
    """PCI is not everywhere."""
    assert "virtio-serial-pci" in command_line("riscv64")
    assert "virtio-serial-ccw" in command_line("s390x")


def test_a_saved_guest_is_told_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for its memory, which others resume as well, and where the rest comes from."""
    monkeypatch.setattr(qemu, "accelerator", lambda _: "tcg")
    told = command_line("arm64", saved=True)
    assert [word for word in told if word not in command_line("arm64")] == [
        f"memory-backend-file,id=ram,size=512M,mem-path=/ram,{PRIVATE}",
        *("-incoming", "defer"),
    ]


@pytest.mark.parametrize("saved", [False, True])
def test_nodes_share_the_memory_equally(saved: bool) -> None:
    """Each has a file of its own, mapped as that of any guest is."""
    node = PackagedKernel("numa", "arm64", "linux-image-numa", "sid", memory_mib=1024, nodes=2)
    ram = qemu.Ram((Path("/ram0"), Path("/ram1")), saved)
    places = (Path("/vmlinuz"), Path("/guest"), ram)
    told = qemu.command(node, Emulator(Path("/qemu"), (10,)), *places, channel=7, monitor=8)
    rest = PRIVATE if saved else "share=on,merge=off"
    memory = told.index("-m")
    assert told[memory : memory + 10] == [
        *("-m", "1024M"),
        *("-object", f"memory-backend-file,id=ram0,size=512M,mem-path=/ram0,{rest}"),
        *("-numa", "node,memdev=ram0"),
        *("-object", f"memory-backend-file,id=ram1,size=512M,mem-path=/ram1,{rest}"),
        *("-numa", "node,memdev=ram1"),
    ]
    assert told[told.index("-machine") + 1] == "virt,mem-merge=off"


def test_kvm_is_used_where_it_is_fast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other implementations of /dev/kvm may emulate every instruction."""
    monkeypatch.setattr(os, "access", lambda *_: True)
    (tmp_path / "kvm_pvm").mkdir()
    assert qemu.accelerator(MACHINES["amd64"], tmp_path) == "tcg"
    (tmp_path / "kvm_intel").mkdir()
    assert qemu.accelerator(MACHINES["amd64"], tmp_path) == "kvm"
    assert qemu.accelerator(MACHINES["arm64"], tmp_path) == "tcg"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright", (7, 2, 22)),
        ("QEMU emulator version 11.0", (11, 0)),
    ],
)
def test_version(text: str, version: tuple[int, ...]) -> None:
    """Distributions add words."""
    assert qemu.parse_version(text) == version


@pytest.mark.parametrize("text", ["", "QEMU emulator version x", "busybox"])
def test_no_version(text: str) -> None:
    """What is no QEMU is not taken for one."""
    with pytest.raises(QemuError, match="no version of QEMU"):
        qemu.parse_version(text)


def test_old_qemu_is_refused_for_x86_with_the_reason() -> None:
    """ARM guests are fine with it."""
    old = Emulator(Path("/usr/bin/qemu"), (7, 2, 22))
    refused = qemu.refusal(MACHINES["amd64"], old)
    assert refused == (
        "/usr/bin/qemu is QEMU 7.2.22, and 8.0 is needed: "
        "7.2 lets guests oops at random and hang under load"
    )
    assert qemu.refusal(MACHINES["arm64"], old) is None
    assert qemu.refusal(MACHINES["amd64"], Emulator(Path("/usr/bin/qemu"), (10, 0, 2))) is None


def test_a_newer_qemu_is_unpacked_with_its_firmware(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its data are named by -L, as it looks for them where it would be installed."""
    monkeypatch.setattr(qemu, "fetch", lambda package: tmp_path / package.name)
    monkeypatch.setattr(qemu, "_output", lambda *_, **__: "QEMU emulator version 10.0.2")
    unpacked = qemu._unpacked(MACHINES["amd64"])  # noqa: SLF001
    assert unpacked.binary == tmp_path / "qemu-system-x86/usr/bin/qemu-system-x86_64"
    assert unpacked.data == (
        tmp_path / "qemu-system-data/usr/share/qemu",
        tmp_path / "seabios/usr/share/seabios",
    )


# QEMU ends with whoever started it


def starter(directory: Path, ids: Sequence[int]) -> "subprocess.Popen[str]":
    """A process that has the launcher run a sleep and says its and the launcher's pid."""
    script = (
        "import subprocess, sys, time\n"
        "launched = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)\n"
        "print(launched.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    return subprocess.Popen(
        (
            *(sys.executable, "-c", script),
            *launcher.command(str(directory), ["sleep", "600"], ids),
        ),
        stdout=subprocess.PIPE,
        text=True,
    )


def child_of(pid: int) -> int:
    """The only child, once it runs the program."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_for(lambda: children.read_text().split() != [])
    child = int(children.read_text())
    wait_for(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
    return child


def wait_for(done: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + scaled(DEADLINE_S)
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Whether the process has ended, reaped or not."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("victim", ["starter", "launcher"])
@pytest.mark.parametrize("ids", [(), pytest.param((65534, 65534), marks=needs_root)])
def test_what_was_launched_dies_with_a_killed(
    victim: str, ids: tuple[int, ...], tmp_path: Path
) -> None:
    """SIGKILL of either is the end of the program; its directory goes when the starter does."""
    directory = tmp_path / "guest"
    directory.mkdir()
    process = starter(directory, ids)
    assert process.stdout is not None
    launched = int(process.stdout.readline())
    program = child_of(launched)
    os.kill(process.pid if victim == "starter" else launched, signal.SIGKILL)
    wait_for(lambda: is_gone(program))
    if victim == "starter":
        wait_for(lambda: not directory.exists())
    process.kill()
    process.communicate()


def test_launcher_exits_as_the_program_did(tmp_path: Path) -> None:
    """And leaves the directory to its starter, who reads the console in it."""
    command = launcher.command(str(tmp_path), ["sh", "-c", "exit 7"])
    with subprocess.Popen(command, stdin=subprocess.PIPE) as launched:
        assert launched.wait(DEADLINE_S) == 7
    assert tmp_path.is_dir()


# Archives


def test_archive_is_what_cpio_takes_for_one(tmp_path: Path) -> None:
    """Parents come first; everything is root's; links and modes are kept."""
    source = tmp_path / "source/deep"
    source.mkdir(parents=True)
    (source / "script").write_bytes(b"#!/bin/sh\n")
    (source / "script").chmod(0o755)
    (source / "link").symlink_to("script")
    stream = io.BytesIO()
    with cpio.Writer(stream) as writer:
        writer.tree(tmp_path / "source", at="/opt")
        writer.file("/boot/config", b"CONFIG_KSM=y\n")
    assert len(stream.getvalue()) % cpio.BLOCK == 0
    command = ("cpio", "--list", "--verbose", "--numeric-uid-gid", "--quiet")
    listed = subprocess.run(command, input=stream.getvalue(), capture_output=True, check=True)
    lines = [line.split() for line in listed.stdout.decode().splitlines()]
    assert [(line[0], line[2], line[3], " ".join(line[8:])) for line in lines] == [
        ("drwxr-xr-x", "0", "0", "opt"),
        ("drwxr-xr-x", "0", "0", "opt/deep"),
        ("lrwxrwxrwx", "0", "0", "opt/deep/link -> script"),
        ("-rwxr-xr-x", "0", "0", "opt/deep/script"),
        ("drwxr-xr-x", "0", "0", "boot"),
        ("-rw-r--r--", "0", "0", "boot/config"),
    ]


def test_archive_is_left_by_no_path() -> None:
    """`..` is refused."""
    with pytest.raises(ValueError, match="leads out of the archive"):
        cpio.Writer(io.BytesIO()).file("../etc/passwd", b"")


def test_only_the_suite_goes_into_a_guest(tmp_path: Path) -> None:
    """Packages, compiled modules too, and the files beside them; no virtual environment."""
    for name in ("uapi/__init__.py", "uapi/__pycache__/x.pyc", "uapi/data/x", ".venv/x.py", "a.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "pyproject.toml").touch()
    found = [str(path.relative_to(tmp_path)) for path in checkout_files(tmp_path)]
    assert found == [
        *("pyproject.toml", "uapi/__init__.py"),
        *("uapi/__pycache__/x.pyc", "uapi/data/x"),
    ]


def test_wheels_come_with_what_they_require() -> None:
    """pytest brings pluggy; packages for other systems are left out."""
    found = {package.name for package in wheels.closure(("pytest",))}
    assert {"pytest", "pluggy", "iniconfig", "packaging"} <= found
    assert "colorama" not in found


def test_a_missing_wheel_is_named() -> None:
    """With what to do."""
    with pytest.raises(wheels.NotInstalledError, match="pip install no-such-package"):
        wheels.closure(("no-such-package",))


# Boots


@pytest.mark.guest
@pytest.mark.network
@pytest.mark.parametrize("name", ["7.2-arm64", "6.1-amd64", "6.12-armhf-lpae"])
def test_a_kernel_boots_and_runs_pytest(name: str) -> None:
    """Its release is the catalogue's, and a test of the suite passes in it."""
    (wanted,) = catalogue.load().resolve(name)
    output = bytearray()
    with boot(wanted, CHECKOUT) as guest:
        assert guest.release.startswith(name.partition("-")[0] + ".")
        command = ["python3", "-m", "pytest", "-q", "ksmtests", "-k", "test_unmerge_discarded"]
        status = guest.run(command, output.extend)
    assert status == 0, output.decode()
    assert b" passed" in output


@pytest.mark.guest
@pytest.mark.network
def test_a_panic_is_shown() -> None:
    """The guest is lost with the console's tail."""
    (wanted,) = catalogue.load().resolve("7.2-arm64")
    with boot(wanted, CHECKOUT) as guest, pytest.raises(LostGuest) as lost:
        guest.run(["sh", "-c", "echo c > /proc/sysrq-trigger"], lambda _: None)
    assert "Kernel panic - not syncing: sysrq triggered crash" in str(lost.value)
    assert "QEMU ended" in str(lost.value)
