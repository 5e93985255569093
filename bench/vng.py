# SPDX-License-Identifier: GPL-2.0
"""virtme-ng, the yardstick of guests: one boot of a kernel to a trivial command, and its time.

vng is installed into a venv of its own in the cache. It boots the image that our guests boot, with
the same QEMU, accelerator, memory and processors, and mounts this machine's root directory, as it
does by default. Debian's cloud kernels have virtiofs but no 9p, so it needs virtiofsd; where that
is not installed, Debian's is fetched with the libraries it wants. No module is loaded: what vng
needs must be built in. microvm is out of reach, as Debian's kernels have virtio-mmio as a module.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.compare import CHECKOUT, BenchError
from bench.watched import Watched, watch
from guests.cache import cache_dir, locked
from guests.debian import Package, fetch
from guests.kernel import Kernel, KernelFiles
from guests.machines import MACHINES
from guests.qemu import Emulator, accelerator, find_emulator

VERSION = "1.42"
ARCH = "amd64"
MACHINE = "x86_64"  # of the kernel and of this machine: vng's fast init is for its own alone
INSTALL_TIMEOUT_S = 600
BOOT_TIMEOUT_S = 300
BUILT_IN = ("VIRTIO_PCI", "FUSE_FS", "VIRTIO_FS", "VIRTIO_CONSOLE")

VIRTIOFSD = "virtiofsd"
VIRTIOFSD_PLACES = ("/usr/libexec", "/usr/lib/virtiofsd", "/usr/lib")  # where vng looks, too
SUITE = "trixie"  # the first with the virtiofsd that vng can use
LIBRARIES = ("libc6", "libgcc-s1", "libseccomp2", "libcap-ng0")
LIBRARY_DIRECTORY = "usr/lib/x86_64-linux-gnu"
LOADER = "ld-linux-x86-64.so.2"

# vng learns a command's status by a port that its init finds only where udev runs. This reports it
# in any case, in the guest's shell alone, so that status 0 proves that the command was reached.
REPORT = (
    "for port in /sys/class/virtio-ports/*; do read -r name < $port/name; "
    '[ "$name" = virtme.ret ] && echo 0 > /dev/${port##*/}; done 2>/dev/null; true'
)
NOTHING = re.compile(rb"(?!)")


@dataclass(frozen=True)
class Vng:
    """What boots one kernel by vng, again and again."""

    venv: Path
    tools: Path  # goes in front of PATH
    kernel: Kernel
    files: KernelFiles
    emulator: Emulator

    def command(self) -> list[str]:
        """The command line."""
        machine = MACHINES[self.kernel.arch]
        append = f"{machine.append} {self.kernel.append}".split()
        options = [f"-L {shlex.quote(str(directory))}" for directory in self.emulator.data]
        # Else a QEMU that is not installed ends when it finds an installed one's modules.
        options.append("-audiodev none,id=none")
        return [
            *(str(self.venv / "bin/vng"), "--run", str(self.files.image), "--exec", REPORT),
            *("--skip-modules", "--disable-microvm"),
            *(() if accelerator(machine) == "kvm" else ("--disable-kvm",)),
            *("--qemu", str(self.emulator.binary)),
            *("--memory", f"{self.kernel.memory_mib}M", "--cpus", str(self.kernel.cpus)),
            *(("--append", " ".join(append)) if append else ()),
            f"--qemu-opts={' '.join(options)}",
        ]

    def boot(self) -> Watched:
        """Boot to a command and shut down. Raises BenchError."""
        path = os.pathsep.join(
            (str(self.tools), str(self.venv / "bin"), os.environ.get("PATH", os.defpath))
        )
        # vng reads settings of the user's from the home directory, which would be measured, too.
        own = {"PATH": path, "HOME": str(self.tools), "TMPDIR": str(self.tools)}
        command = self.command()
        run = watch(command, CHECKOUT, {**os.environ, **own}, BOOT_TIMEOUT_S, NOTHING)
        if run.timed_out or run.exit_code:
            how = f"took longer than {BOOT_TIMEOUT_S} s" if run.timed_out else "did not boot"
            raise BenchError(
                f"vng {how}: see what is amiss with `PATH={path} {shlex.join(command)} --verbose`"
                f"\n{run.tail}"
            )
        return run


@contextmanager
def prepared(kernel: Kernel) -> Iterator[Vng]:
    """A vng that boots `kernel`, with what is missing fetched.

    Raises BenchError, or what fetching the kernel, QEMU and virtiofsd raises.
    """
    if platform.machine() != MACHINE or kernel.arch != ARCH:
        raise BenchError(
            f"vng is measured with an {ARCH} kernel on an {MACHINE} machine, and this is "
            f"{kernel.name} ({kernel.arch}) on {platform.machine()}"
        )
    if not (shutil.which("file") or shutil.which("strings")):
        raise BenchError("vng finds a kernel's release with `file`: apt-get install file")
    files = kernel.files()
    if missing := not_built_in(files):
        raise BenchError(
            f"vng cannot boot {kernel.name} without modules, as {', '.join(missing)} are not built "
            "in: choose another one with --vng-kernel"
        )
    with tempfile.TemporaryDirectory(prefix="ksmtests-vng-") as directory:
        tools = Path(directory)
        _provide_virtiofsd(tools)
        yield Vng(install(), tools, kernel, files, find_emulator(kernel.arch))


def not_built_in(files: KernelFiles) -> list[str]:
    """What vng needs and the kernel has as modules or not at all, as CONFIG_ names."""
    text = files.config.read_text("utf-8", errors="replace") if files.config else ""
    return [f"CONFIG_{name}" for name in BUILT_IN if f"\nCONFIG_{name}=y\n" not in f"\n{text}\n"]


def install() -> Path:
    """The venv with vng in it. A killed process may leave half of one, without its mark."""
    home = cache_dir() / "bench"
    home.mkdir(mode=0o700, exist_ok=True)
    venv = home / f"vng-{VERSION}"
    complete = venv / "complete"
    with locked(home / "vng.lock", INSTALL_TIMEOUT_S):
        if not complete.exists():
            shutil.rmtree(venv, ignore_errors=True)
            python = str(venv / "bin/python")
            pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
            _run(sys.executable, "-m", "venv", "--without-pip", str(venv))
            _run(*pip, f"virtme-ng=={VERSION}")
            complete.touch()
    return venv


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(
            f"vng cannot be installed: `{shlex.join(command)}` took longer than "
            f"{INSTALL_TIMEOUT_S} s"
        ) from error
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-10:])
        raise BenchError(
            f"vng cannot be installed: `{shlex.join(command)}` exited with {done.returncode}. It "
            "needs pip >= 22.3 and an index of packages that pip reaches (`pip config list`):\n"
            f"{tail}"
        )


def _provide_virtiofsd(tools: Path) -> None:
    """Put a virtiofsd into `tools` where vng would find none. Raises what fetching raises."""
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), *VIRTIOFSD_PLACES))
    if shutil.which(VIRTIOFSD, path=places):
        return
    program = fetch(Package(VIRTIOFSD, SUITE, ARCH)) / "usr/libexec" / VIRTIOFSD
    libraries = [fetch(Package(name, SUITE, ARCH)) / LIBRARY_DIRECTORY for name in LIBRARIES]
    words = (
        *(str(libraries[0] / LOADER), "--library-path", ":".join(map(str, libraries))),
        str(program),
    )
    script = tools / VIRTIOFSD
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    try:
        subprocess.run((str(script), "--version"), capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchError(
            f"no virtiofsd is installed, and Debian's of {SUITE} does not run here ({error}): "
            "install the package virtiofsd (the one written in Rust)"
        ) from error
