# SPDX-License-Identifier: GPL-2.0
"""QEMU: which binary, with what command line, and for how long."""

import functools
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from guests import launcher
from guests.agent import PORT
from guests.debian import Package, fetch
from guests.kernel import Kernel
from guests.machines import MACHINES, Machine

BACKPORTS = "bookworm-backports"  # has QEMU 10
DATA_PACKAGES = ("qemu-system-data", "seabios")
PROBE_TIMEOUT_S = 30
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
CONSOLE_TAIL = 40  # lines
CONSOLE_READ = 1 << 16  # bytes at the end of the console that are looked at
END_S = 10  # for QEMU to end once it is killed


class QemuError(Exception):
    """There is no QEMU that can run the guest, and what to do about it."""


@dataclass(frozen=True)
class Emulator:
    """A QEMU binary."""

    binary: Path
    version: tuple[int, ...]
    data: tuple[Path, ...] = ()  # directories of firmware, for one that is not installed
    sandbox: bool = False


def parse_version(text: str) -> tuple[int, ...]:
    """The version in what `qemu --version` prints. Raises QemuError."""
    found = re.match(r"QEMU emulator version (\d+(?:\.\d+)+)", text)
    if not found:
        raise QemuError(f"no version of QEMU in {text[:80]!r}")
    return tuple(int(part) for part in found[1].split("."))


def refusal(machine: Machine, emulator: Emulator) -> str | None:
    """Why this binary is not used for this machine; None where it is."""
    if emulator.version[:2] >= machine.least_qemu:
        return None
    return (
        f"{emulator.binary} is QEMU {_dotted(emulator.version)}, and {_dotted(machine.least_qemu)} "
        f"is needed: {machine.why_least}"
    )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@functools.cache
def find_emulator(arch: str) -> Emulator:
    """The installed QEMU if it is good enough, else a newer one of Debian's, unpacked.

    Raises QemuError, or FetchError.
    """
    machine = MACHINES[arch]
    installed = shutil.which(machine.emulator)
    why = f"{machine.emulator} is not installed"
    if installed:
        emulator = _probe(Path(installed), ())
        why = refusal(machine, emulator) or ""
        if not why:
            return emulator
    try:
        return _unpacked(machine)
    except QemuError as error:
        raise QemuError(
            f"{why}; Debian's newer one does not run here: {error}. "
            f"Install {machine.package}, which also brings the libraries it needs"
        ) from error


def _unpacked(machine: Machine) -> Emulator:
    host = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    if host is None:
        raise QemuError(f"none is known for {platform.machine()}")
    tree = fetch(Package(machine.package, BACKPORTS, host))
    data = [fetch(Package(name, BACKPORTS)) for name in DATA_PACKAGES]
    return _probe(
        tree / "usr/bin" / machine.emulator,
        (data[0] / "usr/share/qemu", data[1] / "usr/share/seabios"),
    )


def _probe(binary: Path, data: tuple[Path, ...]) -> Emulator:
    return Emulator(
        binary, parse_version(_output(binary, "--version")), data, sandbox=_sandboxes(binary, data)
    )


def _sandboxes(binary: Path, data: tuple[Path, ...]) -> bool:
    """Whether it is built with seccomp: it says so only when it is told to use it."""
    try:
        _output(
            binary,
            *(*_firmware(data), "-sandbox", SANDBOX, "-machine", "none", "-nodefaults"),
            *("-display", "none", "-monitor", "stdio"),
            say="quit\n",
        )
    except QemuError:
        return False
    return True


def _output(binary: Path, *arguments: str, say: str = "") -> str:
    try:
        return subprocess.run(
            (str(binary), *arguments),
            input=say,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            check=True,
        ).stdout
    except OSError as error:
        raise QemuError(f"cannot run {binary}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise QemuError(f"{binary} did not end within {PROBE_TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        raise QemuError(f"{binary}: {error.stderr.strip()}") from error


def _firmware(data: tuple[Path, ...]) -> list[str]:
    return [word for directory in data for word in ("-L", str(directory))]


def accelerator(machine: Machine, modules: Path = Path("/sys/module")) -> str:
    """KVM where it is known to be faster than QEMU's own translation, which runs everywhere."""
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK)
    return "kvm" if usable and any((modules / name).is_dir() for name in machine.kvm) else "tcg"


def command(
    kernel: Kernel, emulator: Emulator, image: Path, directory: Path, channel: int
) -> list[str]:
    """The command line: `directory` has the initramfs and gets the console, `channel` is a fd."""
    machine = MACHINES[kernel.arch]
    accel = accelerator(machine)
    append = f"console={machine.console} quiet panic=-1 {machine.append} {kernel.append}"
    return [
        str(emulator.binary),
        *_firmware(emulator.data),
        *(("-sandbox", SANDBOX) if emulator.sandbox else ()),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", machine.machine, "-accel", accel),
        *("-cpu", "max" if accel == "kvm" else machine.cpu),
        *("-smp", str(kernel.cpus), "-m", str(kernel.memory_mib)),
        *("-serial", f"file:{directory / 'console'}"),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=channel,fd={channel}"),
        *("-device", f"virtserialport,chardev=channel,name={PORT}"),
        *("-kernel", str(image), "-initrd", str(directory / "initramfs")),
        *("-append", " ".join(append.split())),
    ]


class Qemu:
    """A running QEMU. It ends with close(), and at the latest with this process."""

    program = "QEMU"

    def __init__(self, kernel: Kernel, emulator: Emulator, image: Path, directory: Path) -> None:
        """Start it; the directory becomes its own."""
        self.directory = directory
        self.channel, theirs = socket.socketpair()
        with theirs, (directory / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(
                (
                    *(sys.executable, "-I", launcher.__file__, str(directory)),
                    *command(kernel, emulator, image, directory, theirs.fileno()),
                ),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a Ctrl-C is ours to act on
            )
        self._log = (directory / "qemu.log").open("rb")
        self._console_path = directory / "console"
        self._last_words: list[str] = []

    @property
    def pid(self) -> int:
        """Of the launcher, whose only child QEMU is."""
        return self._process.pid

    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def console_tail(self, lines: int = CONSOLE_TAIL) -> list[str]:
        """The last lines of the console, and what QEMU itself complained of before them."""
        if self._console_path.is_file():
            self._last_words = self._read()
        return self._last_words[-lines:]

    def _read(self) -> list[str]:
        with self._console_path.open("rb") as stream:
            stream.seek(max(0, self._console_path.stat().st_size - CONSOLE_READ))
            console = stream.read()
        self._log.seek(0)
        complaints = self._log.read(CONSOLE_READ)
        text = (complaints + console).decode("utf-8", errors="replace").replace("\r", "")
        return ["".join(c if c.isprintable() else "?" for c in line) for line in text.splitlines()]

    def close(self) -> None:
        """End it, remember the console's end, and remove the directory."""
        self.channel.close()
        self.console_tail()
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # QEMU goes with it
            self._process.wait()
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def private_directory() -> Path:
    """A new directory that only this user can look into."""
    return Path(tempfile.mkdtemp(prefix="ksmtests-guest-"))
