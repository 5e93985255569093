# SPDX-License-Identifier: GPL-2.0
"""The kernel's own functional test of KSM, a C program, built from Debian's kernel source.

Only what the program needs is unpacked from the source. What is built is cached under the hash of
what went into it; nothing of the kernel becomes a part of this project.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from guests.cache import cache_dir, locked, publish, workshop
from guests.debian import Package, fetch

SOURCE_PACKAGE = "linux-source-7.2"
SUITE = "sid"
PROGRAM = "ksm_functional_tests"
SELFTESTS = "tools/testing/selftests"
BUILD_TIMEOUT_S = 600

# What the build needs, and the Debian package that has it.
COMMANDS = {"gcc": "gcc", "make": "make"}
C_HEADERS, C_HEADERS_PACKAGE = Path("/usr/include/stdio.h"), "libc6-dev"

# What `make headers` reads, besides arch/, and what the program includes.
MEMBERS = (
    "Makefile",
    "Kbuild",
    "scripts/",
    "usr/include/",
    "include/uapi/",
    "include/asm-generic/",
    "tools/include/",
    f"{SELFTESTS}/kselftest.h",
    f"{SELFTESTS}/mm/{PROGRAM}.c",
    f"{SELFTESTS}/mm/vm_util.",
)
# Likewise below arch/ARCHITECTURE/.
ARCHITECTURE_MEMBERS = (
    "Makefile",
    "include/",
    "entry/syscalls/",
    "kernel/syscalls/",
    "kernel/Makefile.syscalls",
    "tools/",
)
# The kernel's directory in arch/ by what uname calls the machine (scripts/subarch.include).
ARCHITECTURES = {
    r"i.86|x86_64": "x86",
    r"aarch64.*": "arm64",
    r"arm.*": "arm",
    r"ppc.*": "powerpc",
    r"riscv.*": "riscv",
    r"s390x?": "s390",
    r"loongarch.*": "loongarch",
}
# What the calling make or a kernel developer's shell would have the kernel's make do.
FOREIGN_VARIABLES = frozenset(
    ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEFILES", "O", "KBUILD_OUTPUT", "CROSS_COMPILE", "LLVM")
)


class BuildError(Exception):
    """The C program cannot be built; the message says what is missing or what the tool said."""


def build(source_package: str = SOURCE_PACKAGE) -> Path:
    """Return the directory with the C program, building it unless it is cached.

    It must be run from that directory, because it executes itself as ``./ksm_functional_tests``.
    Raises BuildError, or what guests.debian.fetch() raises.
    """
    _require_tools()
    source = fetch(Package(source_package, SUITE))
    built = cache_dir() / "bench"
    built.mkdir(mode=0o700, exist_ok=True)
    final = built / f"{PROGRAM}-{_fingerprint(source)}"
    with locked(built / "lock"):
        if not final.is_dir():
            with workshop(built / "building") as work:
                _compile(unpack(source, work), work / "done")
                publish(work / "done", final)
    return final


def _require_tools() -> None:
    missing = [package for command, package in COMMANDS.items() if not shutil.which(command)]
    if not C_HEADERS.exists():
        missing.append(C_HEADERS_PACKAGE)
    if missing:
        raise BuildError(
            f"the kernel's C test cannot be built without {', '.join(missing)}: "
            f"`apt-get install {' '.join(missing)}`, or what your distribution calls them"
        )


def _fingerprint(source: Path) -> str:
    """Return a hash of all that decides what the program is: its source, compiler and options."""
    compiler = _run(["gcc", "--version"], source)
    parts = (source.name, compiler, platform.machine(), *_compiler_options(Path()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _architecture() -> str:
    machine = platform.machine()
    for pattern, architecture in ARCHITECTURES.items():
        if re.fullmatch(pattern, machine):
            return architecture
    raise BuildError(
        f"no directory of the kernel's arch/ is known for the machine {machine}: "
        f"add it to ARCHITECTURES in {__file__}"
    )


def unpack(source: Path, work: Path) -> Path:
    """Unpack what the build needs from the package's tarball and return the kernel tree."""
    wanted = MEMBERS + tuple(f"arch/{_architecture()}/{name}" for name in ARCHITECTURE_MEMBERS)
    tarballs = list(source.glob("usr/src/linux-source-*.tar.xz"))
    if len(tarballs) != 1:
        raise BuildError(f"expected one usr/src/linux-source-*.tar.xz in {source}, got {tarballs}")
    with tarfile.open(tarballs[0], "r|xz") as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python >= 3.11.4 has it
        for member in tar:
            _, _, member.name = member.name.partition("/")  # below linux-source-7.2/
            if member.name.startswith(wanted):
                tar.extract(member, work / "linux")
    return work / "linux"


def _compile(tree: Path, directory: Path) -> None:
    """Install the tree's headers inside the tree, and compile the program to `directory`."""
    headers = ["make", f"-j{os.cpu_count() or 1}", f"ARCH={_architecture()}", "headers"]
    _run(headers, tree)
    directory.mkdir()
    options = [*_compiler_options(tree), "-o", str(directory / PROGRAM)]
    _run(["gcc", *options, f"{PROGRAM}.c", "vm_util.c"], tree / SELFTESTS / "mm")


def _compiler_options(tree: Path) -> tuple[str, ...]:
    return (
        *("-O2", "-Wall"),
        *("-isystem", str(tree / "usr/include")),
        *("-I", str(tree / "tools/include")),
        *("-I", str(tree / SELFTESTS)),
    )


def _run(command: list[str], directory: Path) -> str:
    """Return what `command` prints. Raises BuildError with its last lines when it fails."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env={**kept, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"`{' '.join(command)}` took longer than {error.timeout:.0f} s") from error
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise BuildError(f"`{' '.join(command)}` exited with {done.returncode}:\n{tail}")
    return done.stdout
