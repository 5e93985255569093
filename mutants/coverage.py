# SPDX-License-Identifier: GPL-2.0
"""Which lines of KSM the suite executes: the kernel's own gcov support, read out of a guest."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from guests import session, sources
from guests.catalogue import Catalogue
from guests.session import Guest
from mutants import kernel
from mutants.kernel import CHECKOUT, TARGETS, BuildError, Variant
from mutants.run import APPEND, MEMORY_MIB, NODES

# Objects that are profiled, and what counts of each file: all of it, or lines that mention a word.
OBJECTS = ("mm/ksm", "mm/memory", "mm/khugepaged", "fs/proc/base", "kernel/sys")
WHOLE = "mm/ksm.c"
WORD = "ksm"
VARIANT = Variant(
    "coverage",
    ("GCOV_KERNEL", "DEBUG_FS"),
    tuple(  # in its own directory: the boot loader of x86 has a memory.o, too
        f"GCOV_PROFILE_{name}.o=$(if $(filter {directory},$(obj)),y)"
        for directory, _, name in (each.rpartition("/") for each in OBJECTS)
    ),
)
DEBUGFS = "/sys/kernel/debug"


@dataclass(frozen=True)
class Line:
    """A line of the kernel that has code."""

    file: str
    number: int  # in the unedited source
    text: str
    count: int


def measure(
    arch: str, release: str, selection: Sequence[str], say: Callable[[str], object]
) -> list[Line]:
    """Build, run the suite, and read the counts. Raises BuildError, LostGuest and what they do."""
    output = kernel.build(arch, release, say, VARIANT)
    machine = sources.resolve(
        [str(output)], Catalogue(), append=APPEND, memory_mib=MEMORY_MIB, nodes=NODES
    )[0]
    with tempfile.TemporaryDirectory(prefix="ksmtests-coverage-") as directory:
        with session.start(machine, CHECKOUT) as guest:
            guest.run(["/bin/busybox", "mount", "-t", "debugfs", "none", DEBUGFS], bytes.hex)
            command = ["python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", *selection]
            guest.run(command, lambda data: say(data.decode(errors="replace").rstrip()))
            for name in OBJECTS:
                _fetch(guest, output / name, Path(directory))
        return [
            line
            for name in OBJECTS
            for line in _lines(arch, output.parent / "originals", Path(directory), name)
        ]


def _fetch(guest: Guest, path: Path, directory: Path) -> None:
    """Bring the counts of an object out, beside what the compiler wrote on it."""
    counts: list[bytes] = []
    guest.run(["/bin/busybox", "cat", f"{DEBUGFS}/gcov{path}.gcda"], counts.append)
    (directory / f"{path.name}.gcda").write_bytes(b"".join(counts))
    shutil.copy(path.with_suffix(".gcno"), directory)


def _lines(arch: str, originals: Path, directory: Path, name: str) -> list[Line]:
    compiler = TARGETS[arch].compiler
    gcov = f"{compiler}gcov" if shutil.which(f"{compiler}gcov") else "gcov"
    command = [gcov, "--json-format", "--stdout", f"{name.rpartition('/')[2]}.gcda"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        raise BuildError(f"`{' '.join(command)}` failed: {done.stderr}")
    found: dict[int, int] = {}
    for file in json.loads(done.stdout)["files"]:
        if file["file"].endswith(f"{name}.c"):
            for line in file["lines"]:
                number = line["line_number"] - 1  # an edited file includes one more
                found[number] = max(found.get(number, 0), line["count"])
    source = (originals / f"{name}.c").read_text("utf-8").splitlines()
    return [
        Line(f"{name}.c", number, source[number - 1].strip(), count)
        for number, count in sorted(found.items())
        if f"{name}.c" == WHOLE or WORD in source[number - 1].lower()
    ]
