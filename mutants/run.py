# SPDX-License-Identifier: GPL-2.0
"""The suite against one bug after another, each in a guest of its own.

A bug that is switched off again leaves wrong counts behind, so every one gets a fresh guest: a
saved one of the kernel without a bug, which takes a second or two. What the suite says of it:

    killed      a test failed, or the guest was lost
    survived    every test passed, though the bug's code was reached
    unreached   every test passed, and the bug's code was never reached
    broken      nothing could be said: pytest could not run, or ran no test
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

from guests import launcher

CHECKOUT = Path(__file__).resolve().parent.parent
TESTS = "ksmtests"
KILLED, SURVIVED, UNREACHED, BROKEN = "killed", "survived", "unreached", "broken"
TEST_S = 60  # a bug that hangs a test is noticed after so many seconds
RUN_S = 1800
NODES = 2  # of NUMA, or its tests are skipped
MEMORY_MIB = 2048
APPEND = "movablecore=1024M"  # or there is no memory to go offline
PASSED, FAILED = 0, 1  # pytest's exit statuses
LAST_WORDS = 2000  # characters


class RunError(Exception):
    """Bugs cannot be told from a kernel that fails anyhow."""


@dataclass(frozen=True)
class Target:
    """A bug of a kernel, as its catalogue describes it."""

    id: int
    name: str
    kind: str
    description: str
    killers: tuple[str, ...] = ()
    equivalent: str = ""


@dataclass(frozen=True)
class Result:
    """What became of a bug."""

    id: int
    name: str
    kind: str
    result: str
    killers: tuple[str, ...]  # tests that failed; the first one, unless every one was asked for
    hits: int
    seconds: float
    detail: str = ""

    @classmethod
    def of(
        cls,
        bug: Target,
        result: str,
        begun: float,
        killers: Sequence[str] = (),
        hits: int = 0,
        detail: str = "",
    ) -> "Result":
        """The result of an attempt that began at a time of time.monotonic()."""
        seconds = round(time.monotonic() - begun, 1)
        return cls(bug.id, bug.name, bug.kind, result, tuple(killers), hits, seconds, detail)


def read_catalogue(path: Path) -> list[Target]:
    """The bugs of a kernel. Raises RunError."""
    try:
        return [
            Target(
                *(int(one["id"]), str(one["name"])),
                *(str(one.get("class", "")), str(one.get("description", ""))),
                *(tuple(one.get("killers", ())), str(one.get("equivalent", ""))),
            )
            for one in json.loads(path.read_text("utf-8"))
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path} is no catalogue of bugs: {error!r}") from error


class Suite:
    """This suite on a kernel."""

    def __init__(
        self,
        kernel: Path,
        selection: Sequence[str] = (),
        *,
        every: bool = False,
        known: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        """`selection` are arguments for pytest; with `every`, no test is left out after a kill.

        `known` are tests (MODULE::FUNCTION) that killed a bug before, by its name.
        """
        self._kernel = kernel
        self._selection = selection
        self._every = every
        self._known = known
        self._kills: Counter[str] = Counter()  # by module

    def try_bug(self, bug: Target) -> Result:
        """Run the tests while the bug is selected: modules that killed it before, then all."""
        begun = time.monotonic()
        for tests_of in self._selections(bug):
            result = self._try(bug, tests_of, begun)
            if result.result == KILLED:
                break
        return result

    def _selections(self, bug: Target) -> Iterator[Sequence[str]]:
        """To collect all tests takes longer in a guest than most bugs live."""
        if not self._every and not self._selection:
            modules = {test.partition("::")[0] for test in self._known.get(bug.name, ())}
            files = [CHECKOUT / TESTS / f"{module}.py" for module in sorted(modules)]
            if known := [str(file) for file in files if file.is_file()]:
                yield known
        yield self._selection or (TESTS,)

    def _try(self, bug: Target, selection: Sequence[str], begun: float) -> Result:
        directory = Path(tempfile.mkdtemp(prefix="ksmtests-mutant-"))
        try:
            report = directory / "report.xml"
            status, printed = _run(self.command(bug, report, selection), directory)
            tests, failed, hits = read_report(report)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        if status not in {PASSED, FAILED} or not tests:
            why = f"no end after {RUN_S} s" if status is None else printed
            return Result.of(bug, BROKEN, begun, hits=hits, detail=why)
        if failed:
            self._kills[failed[0].partition("::")[0]] += 1
            return Result.of(bug, KILLED, begun, failed, hits)
        return Result.of(bug, SURVIVED if hits else UNREACHED, begun, hits=hits)

    def command(self, bug: Target, report: Path, selection: Sequence[str]) -> list[str]:
        """Nothing is known of a foreign bug: modules that killed most come first."""
        likely = [
            *(test.partition("::")[2] for test in self._known.get(bug.name, ())),
            *(bug.killers or (module for module, _ in self._kills.most_common())),
        ]
        first = [f"--first={name}" for name in likely]
        return [
            *(sys.executable, "-m", "pytest", "-p", "mutants.first", "-p", "no:cacheprovider"),
            *("-q", f"--kernel={self._kernel}", f"--mutant={bug.id}", f"--junitxml={report}"),
            *(f"--guest-nodes={NODES}", f"--guest-memory={MEMORY_MIB}"),
            f"--kernel-append={APPEND}",
            *(f"--timeout={TEST_S}", *([] if self._every else ["-x"]), *first),
            *selection,
        ]


def _run(command: Sequence[str], directory: Path) -> tuple[int | None, str]:
    """Run a command that ends with this process: its status, None if it had none, and its words."""
    output = directory / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            launcher.command(str(directory), command),
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        with process:
            try:
                process.wait(RUN_S)
            except subprocess.TimeoutExpired:
                process.kill()  # and what it runs dies with it
                return None, ""
    return process.returncode, output.read_text("utf-8", errors="replace")[-LAST_WORDS:]


def read_report(path: Path) -> tuple[int, tuple[str, ...], int]:
    """From pytest's JUnit file: how many tests ran, which failed, and the hits of the bug."""
    if not path.exists():
        return 0, (), 0
    tests, hits = 0, 0
    failed: list[str] = []
    for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314 - pytest here wrote it
        if case.find("skipped") is None:
            tests += 1
        if case.find("failure") is not None or case.find("error") is not None:
            module = (case.get("classname") or "").rpartition(".")[2]
            failed.append(f"{module}::{(case.get('name') or '').partition('[')[0]}")
        for one in case.iter("property"):
            if one.get("name") == "mutant_hits":
                hits = int(one.get("value") or 0)
    return tests, tuple(dict.fromkeys(failed)), hits


def try_all(
    targets: Iterable[Target],
    attempt: Callable[[Target], Result],
    jobs: int,
    store: "Store",
    say: Callable[[str], object],
) -> list[Result]:
    """Try bugs, several at once, but for those whose result is kept.

    What is kept of another catalogue, in which a number is another bug's, does not count.
    """
    targets = list(targets)
    kept = store.results()
    names = {one.id: one.name for one in targets}
    known = {number: one for number, one in kept.items() if one.name == names.get(number)}
    todo = [one for one in targets if one.id not in known]
    with ThreadPoolExecutor(jobs) as pool:
        tried = [pool.submit(attempt, one) for one in todo]
        for number, future in enumerate(as_completed(tried), start=1):
            result = future.result()
            known[result.id] = result
            store.keep(result)
            by = f" by {result.killers[0]}" if result.killers else ""
            say(
                f"{number}/{len(todo)} {result.name}: {result.result}{by} "
                f"({result.seconds:.0f} s, {result.hits} hits)"
            )
    return [known[one.id] for one in targets]


class Store:
    """Results so far, one JSON object per line, of one kernel: a run that was cut short goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def results(self) -> dict[int, Result]:
        """What is kept, by number."""
        if not self._path.exists():
            return {}
        found: dict[int, Result] = {}
        for line in self._path.read_text("utf-8").splitlines():
            data = json.loads(line)
            found[data["id"]] = Result(**{**data, "killers": tuple(data["killers"])})
        return found

    def keep(self, result: Result) -> None:
        """Add a result."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")

    def forget(self) -> None:
        """Begin anew."""
        self._path.unlink(missing_ok=True)


def identity(image: Path, catalogue: Path, suite: str) -> str:
    """A name for the results of a kernel, its catalogue and a suite."""
    digest = hashlib.sha256()
    for path in (image, catalogue):
        digest.update(path.read_bytes())
    return f"{suite}-{digest.hexdigest()[:16]}"


def summary(results: Sequence[Result], targets: Sequence[Target], begun: float) -> dict[str, Any]:
    """What the last line of a run says."""
    excused = {one.id for one in targets if one.equivalent}

    def ids(result: str) -> list[int]:
        return [one.id for one in results if one.result == result]

    return {
        "mutants": len(results),
        "killed": len(ids(KILLED)),
        "survived": ids(SURVIVED),
        "unreached": ids(UNREACHED),
        "broken": ids(BROKEN),
        "equivalent": sorted(excused),
        "seconds": round(time.monotonic() - begun, 1),
    }


def default_jobs() -> int:
    """One guest for each processor."""
    return os.cpu_count() or 1


def counts(results: Iterable[Result]) -> dict[str, int]:
    """How many bugs of each result."""
    found = dict.fromkeys((KILLED, SURVIVED, UNREACHED, BROKEN), 0)
    for one in results:
        found[one.result] += 1
    return found
