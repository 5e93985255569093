# SPDX-License-Identifier: GPL-2.0
"""QEMU: which binary, and with what command line."""

import functools
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from guests.agent import PORT
from guests.debian import Package, fetch
from guests.kernel import Kernel
from guests.machines import MACHINES, Machine

BACKPORTS = "bookworm-backports"  # has QEMU 10
DATA = ("qemu-system-data", "usr/share/qemu")
PROBE_TIMEOUT_S = 30
CONSOLE = "console"  # in the directory of a guest
READS_MEMORY = (8, 2)  # first version that maps a file privately without opening it to be written
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
# By default QEMU advises MADV_MERGEABLE: guests would take part in tests of this kernel.
UNMERGED = "mem-merge=off"


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
            f"Install {machine.emulator}, which also brings the libraries it needs (Debian's "
            f"package {machine.package}; bookworm has some in qemu-system-misc)"
        ) from error


def _unpacked(machine: Machine) -> Emulator:
    host = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    if host is None:
        raise QemuError(f"none is known for {platform.machine()}")
    tree = fetch(Package(machine.package, BACKPORTS, host))
    wanted = [DATA, machine.firmware] if machine.firmware else [DATA]
    data = tuple(fetch(Package(name, BACKPORTS)) / place for name, place in wanted)
    return _probe(tree / "usr/bin" / machine.emulator, data)


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


@dataclass(frozen=True)
class Ram:
    """Files that are the guest's memory, one for each of its NUMA nodes."""

    paths: tuple[Path, ...]
    saved: bool = False  # it is that of a saved guest, to be resumed: others resume it, too


def _with_memory(machine: str, ram: Ram) -> str:
    """The machine, and its memory unless that belongs to NUMA nodes."""
    return (
        f"{machine},memory-backend=ram,{UNMERGED}"
        if len(ram.paths) == 1
        else f"{machine},{UNMERGED}"
    )


def _memory(kernel: Kernel, emulator: Emulator, ram: Ram) -> Iterator[str]:
    """The memory, and the nodes where there are several."""
    share = "off" if ram.saved else "on"
    if ram.saved and emulator.version >= READS_MEMORY:
        share += ",readonly=on,rom=off"
    names = ["ram"] if kernel.nodes == 1 else [f"ram{node}" for node in range(kernel.nodes)]
    for name, path in zip(names, ram.paths, strict=True):
        backing = f"id={name},size={kernel.node_mib}M,mem-path={path}"
        yield from ("-object", f"memory-backend-file,{backing},share={share},merge=off")
        if kernel.nodes > 1:
            yield from ("-numa", f"node,memdev={name}")


def command(
    kernel: Kernel,
    emulator: Emulator,
    image: Path,
    directory: Path,
    ram: Ram,
    *,
    channel: int,
    monitor: int,
) -> list[str]:
    """The command line: `directory` has the initramfs and gets the console; the ints are fds."""
    machine = MACHINES[kernel.arch]
    accel = accelerator(machine)
    append = f"console={machine.console} quiet panic=-1 {machine.append} {kernel.append}"
    return [
        str(emulator.binary),
        *_firmware(emulator.data),
        *(("-bios", machine.bios) if machine.bios and emulator.data else ()),
        *(("-sandbox", SANDBOX) if emulator.sandbox else ()),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", _with_memory(kernel.machine or machine.machine, ram), "-accel", accel),
        *("-cpu", kernel.cpu or ("max" if accel == "kvm" else machine.cpu)),
        *("-smp", str(kernel.cpus), "-m", f"{kernel.memory_mib}M"),
        *_memory(kernel, emulator, ram),
        *("-serial", f"file:{directory / CONSOLE}"),
        *("-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "monitor,mode=control"),
        *("-device", machine.channel, "-chardev", f"socket,id=channel,fd={channel}"),
        *("-device", f"virtserialport,chardev=channel,name={PORT}"),
        *("-kernel", str(image), "-append", " ".join(append.split())),
        *(("-incoming", "defer") if ram.saved else ("-initrd", str(directory / "initramfs"))),
    ]
