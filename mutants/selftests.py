# SPDX-License-Identifier: GPL-2.0
"""The kernel's own C tests of KSM against injected bugs, for comparison.

They are built from the source that the kernel is built of, and run in a guest as
tools/testing/selftests/mm/run_vmtests.sh runs them, timed ones excepted: `ksm_tests` once for each
of its tests, and `ksm_functional_tests`. A result that was "ok" without a bug and is not with it
kills the bug, and so does a guest that is lost.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path

from guests import session, sources
from guests.catalogue import Catalogue
from guests.debian import Package, fetch
from guests.kernel import Kernel
from guests.patience import scaled
from guests.session import Guest, LostGuest, RefusedError
from mutants.kernel import TARGETS, BuildError
from mutants.run import BROKEN, KILLED, NODES, SURVIVED, UNREACHED, Result, Target

FUNCTIONAL = "./ksm_functional_tests"
COMMANDS = (
    "./ksm_tests -M -p 10",
    "./ksm_tests -U",
    "./ksm_tests -Z -p 10 -z 0",
    "./ksm_tests -Z -p 10 -z 1",
    "./ksm_tests -N -m 1",
    "./ksm_tests -N -m 0",
    FUNCTIONAL,
)
CLEAN_RUNS = 10  # of a test that fails one time in four, which must not pass for a killer
COMMAND_S = 40  # a command that takes longer has failed; all together take 7 where two guests run
SCRIPT_S = 2 * COMMAND_S  # and one that takes this long hangs in the kernel
SHELL = ("/bin/busybox", "sh", "-c")
SELECTED, HITS = "/sys/kernel/mm/ksm_mutant", "/sys/kernel/mm/ksm_mutant_hits"
SHARED = ("vm_util", "thp_settings", "hugepage_settings")  # what there is of these is linked
PACKAGE = "programs"  # a checkout is packages, so the programs are made to look like one
MULTIARCH = {"x86": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu", "arm": "arm-linux-gnueabihf"}

_RESULT = re.compile(
    r"^(?P<ok>ok|not ok) \d+ (?P<name>.*?)(?: # (?P<directive>\w+).*)?$", re.MULTILINE
)


class Selftests:
    """The C tests on a kernel."""

    def __init__(self, kernel: Path, programs: Path) -> None:
        """`kernel` is an image or where one was built, `programs` what build() returned."""
        self._kernel: Kernel = sources.resolve([str(kernel)], Catalogue(), nodes=NODES)[0]
        self._programs = programs
        self._expected: Mapping[str, Set[str]] | None = None

    def try_bug(self, bug: Target) -> Result:
        """Run the tests while the bug is selected, up to the first command that tells of it."""
        begun = time.monotonic()
        try:
            with self._guest(bug.id) as guest:
                missing = self._first_missing(guest)
                hits = _shell(guest, f"cat {HITS}").strip()
        except LostGuest as error:
            return Result.of(bug, KILLED, begun, (error.why,), -1)
        except RefusedError as error:
            return Result.of(bug, BROKEN, begun, detail=str(error))
        reached = int(hits) if hits.isdecimal() else 0
        if missing:
            return Result.of(bug, KILLED, begun, missing, reached)
        return Result.of(bug, SURVIVED if reached else UNREACHED, begun, hits=reached)

    def _first_missing(self, guest: Guest) -> list[str]:
        for command, expected in self.expected.items():
            if missing := expected - _passed(guest, command):
                return sorted(missing)
        return []

    @property
    def expected(self) -> Mapping[str, Set[str]]:
        """What always passes without a bug, by command; `ksm_tests -N` fails now and then."""
        if self._expected is None:
            clean = [self._all_passed() for _ in range(CLEAN_RUNS)]
            self._expected = {
                command: set.intersection(*(passed[command] for passed in clean))
                for command in COMMANDS
            }
        return self._expected

    def _all_passed(self) -> dict[str, set[str]]:
        with self._guest(0) as guest:
            return {command: _passed(guest, command) for command in COMMANDS}

    @contextmanager
    def _guest(self, number: int) -> Iterator[Guest]:
        with session.start(self._kernel, self._programs) as guest:
            _shell(guest, f"cd {PACKAGE} && chmod +x ksm_*; echo {number} > {SELECTED}")
            yield guest


def _passed(guest: Guest, command: str) -> set[str]:
    """The results of a command that are ok."""
    printed = _shell(guest, f"cd {PACKAGE} && /bin/busybox timeout {COMMAND_S} {command}")
    return results(command, printed)


def results(command: str, printed: str) -> set[str]:
    """Names of the results in TAP that are ok and were not skipped."""
    return {
        f"{command}: {match['name'].strip()}"
        for match in _RESULT.finditer(printed)
        if match["ok"] == "ok" and match["directive"] != "SKIP"
    }


def _shell(guest: Guest, script: str) -> str:
    """What a script prints. Raises LostGuest where it cannot even be killed."""
    output: list[bytes] = []
    end = time.monotonic() + scaled(SCRIPT_S)
    guest.start([*SHELL, script])
    guest.write(b"")
    while guest.step(output.append) is None:
        if time.monotonic() > end:
            raise guest.lost(f"`{script}` cannot be ended")
    return b"".join(output).decode(errors="replace")


def build(arch: str, tree: Path, output: Path, say: Callable[[str], object]) -> Path:
    """Build the programs, statically, into a directory of their own. Raises BuildError."""
    target = TARGETS[arch]
    numa = fetch(Package("libnuma-dev", "bookworm", target.guest))
    cross = target.compiler if shutil.which(f"{target.compiler}gcc") else ""
    headers = output / "headers"
    say(f"building the kernel's selftests of KSM for {arch}")
    _run(["make", "-C", str(tree), f"O={headers}", f"ARCH={arch}", "headers"])
    programs = output / "selftests"
    with tempfile.TemporaryDirectory(dir=output) as work:
        place = Path(work) / PACKAGE
        place.mkdir()
        (place / "__init__.py").touch()
        for name in ("ksm_tests", "ksm_functional_tests"):
            _run(_compile(f"{cross}gcc", arch, tree, headers, numa, place / name))
        shutil.rmtree(programs, ignore_errors=True)
        Path(work).rename(programs)
        Path(work).mkdir()  # for its owner to remove
    return programs


def _compile(
    compiler: str, arch: str, tree: Path, headers: Path, numa: Path, program: Path
) -> list[str]:
    selftests = tree / "tools/testing/selftests"
    return [
        *(compiler, "-static", "-O2", "-w", "-o", str(program)),
        *("-isystem", str(headers / "usr/include"), "-isystem", str(numa / "usr/include")),
        *("-I", str(tree), "-I", str(tree / "tools/include"), "-I", str(selftests)),
        str(selftests / "mm" / f"{program.name}.c"),
        *(str(path) for name in SHARED for path in selftests.glob(f"mm/{name}.c")),
        str(numa / "usr/lib" / MULTIARCH[arch] / "libnuma.a"),
    ]


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ,
        check=False,
    )
    if done.returncode:
        raise BuildError(
            f"`{' '.join(command)}` failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
