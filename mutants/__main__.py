# SPDX-License-Identifier: GPL-2.0
"""Injected bugs from the command line: `python -m mutants --help`."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from guests.cache import CacheError, cache_dir
from guests.debian import FetchError
from mutants import coverage, kernel, run, selftests
from mutants.catalogue import CatalogueError, bugs, version
from mutants.edits import AnchorError
from mutants.kernel import CATALOGUE, SUITES, TARGETS, BuildError
from mutants.results import PAGE, killers, load, page, record
from mutants.run import Result, RunError, Store, Suite, Target
from mutants.selftests import Selftests

ERRORS = (AnchorError, BuildError, CacheError, CatalogueError, FetchError, RunError)
SURVIVORS, FAILED = 1, 2
OURS, KSFT = "ours", "ksft"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def build(arguments: argparse.Namespace) -> int:
    """Build a kernel with all bugs."""
    _say(str(kernel.build(arguments.arch, arguments.release, _say)))
    return 0


def run_bugs(arguments: argparse.Namespace) -> int:
    """Run a suite against each bug."""
    begun = time.monotonic()
    if arguments.image:
        image, catalogue = arguments.image, arguments.catalogue
        if catalogue is None:
            raise RunError("--image needs --catalogue: which bugs does that kernel have?")
    else:
        built = kernel.build(arguments.arch, arguments.release, _say)
        image, catalogue = built, built / CATALOGUE
    targets = _selected(run.read_catalogue(catalogue), arguments.bug)
    file = image / TARGETS[arguments.arch].path if image.is_dir() else image
    attempt = _attempt(arguments, image.resolve())
    name = run.identity(file, catalogue, arguments.suite)
    place = cache_dir() / "mutants/results" / f"{name}.jsonl"
    store = Store(arguments.results or place)
    if arguments.again:
        store.forget()
    if not arguments.trust:
        _refuse_failing(attempt)
    results = run.try_all(targets, attempt, arguments.jobs, store, _say)
    if arguments.record:
        record(f"{arguments.suite} {arguments.arch} {arguments.release}", results)
    said = run.summary(results, targets, begun)
    _say(json.dumps(said))
    alive = {*said["survived"], *said["unreached"], *said["broken"]} - set(said["equivalent"])
    return SURVIVORS if alive else 0


def _attempt(arguments: argparse.Namespace, image: Path) -> Callable[[Target], Result]:
    """What a suite says of one bug. Raises BuildError."""
    if arguments.suite == OURS:
        known = killers(load())
        suite = Suite(image, arguments.pytest, every=arguments.every_killer, known=known)
        return suite.try_bug
    output = cache_dir() / "mutants" / arguments.release / arguments.arch
    tree = kernel.source(arguments.release, _say)
    programs = selftests.build(arguments.arch, tree, output, _say)
    return Selftests(image, programs).try_bug


def coverage_of(arguments: argparse.Namespace) -> int:
    """Tell which lines of KSM the suite executes."""
    lines = coverage.measure(arguments.arch, arguments.release, arguments.pytest, _say)
    for line in lines:
        if not line.count:
            _say(f"{line.file}:{line.number}: {line.text}")
    files = sorted({line.file for line in lines})
    counted = {
        file: [
            sum(one.file == file and one.count > 0 for one in lines),
            sum(one.file == file for one in lines),
        ]
        for file in files
    }
    _say(json.dumps({"executed": counted}))
    return 0


def table(_: argparse.Namespace) -> int:
    """Make docs/mutants.md of the results that were recorded."""
    newest = max(map(version, SUITES))
    PAGE.write_text(page(bugs(newest), load()), encoding="utf-8")
    return 0


def _refuse_failing(attempt: Callable[[Target], Result]) -> None:
    """Raise RunError where tests fail though no bug is selected."""
    _say("the kernel without a bug comes first")
    result = attempt(Target(0, "none", "", ""))
    if result.result in {run.KILLED, run.BROKEN}:
        raise RunError(
            "the kernel fails without a bug: "
            + ", ".join(result.killers or (f"\n{result.detail}",))
        )
    _say(f"passed in {result.seconds:.0f} s")


def _selected(targets: Sequence[Target], patterns: Sequence[str]) -> list[Target]:
    if not patterns:
        return list(targets)
    found = [
        one
        for one in targets
        if any(fnmatchcase(one.name, each) or each == str(one.id) for each in patterns)
    ]
    if not found:
        raise RunError(f"no bug has a name or number that matches {', '.join(patterns)}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    actions = {"build": build, "run": run_bugs, "coverage": coverage_of, "table": table}
    for name, action in actions.items():
        command = commands.add_parser(name, help=action.__doc__, description=action.__doc__)
        command.set_defaults(action=action)
        if action is table:
            continue
        command.add_argument("--arch", choices=TARGETS, default="x86")
        command.add_argument("--release", choices=SUITES, default=next(iter(SUITES)))
        if action is run_bugs:
            _add_run_options(command)
        if action is not build:
            command.add_argument("pytest", nargs="*", help="for pytest; ksmtests by default")
    parsed = parser.parse_args(arguments)
    try:
        return int(parsed.action(parsed))
    except ERRORS as error:
        sys.stderr.write(f"{error}\n")
        return FAILED


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--suite", choices=(OURS, KSFT), default=OURS, help="this, or the kernel's"
    )
    command.add_argument("--jobs", type=int, default=run.default_jobs(), metavar="N")
    command.add_argument(
        "--bug", action="append", default=[], metavar="NAME", help="these alone: name, glob, number"
    )
    command.add_argument("--image", type=Path, help="another kernel with ksm_mutant")
    command.add_argument("--catalogue", type=Path, metavar="FILE", help="the bugs of that kernel")
    command.add_argument("--results", type=Path, metavar="FILE", help="where results are kept")
    command.add_argument("--record", action="store_true", help="in results.json of this room")
    command.add_argument("--again", action="store_true", help="forget what is kept")
    command.add_argument("--every-killer", action="store_true", help="do not stop at the first one")
    command.add_argument(
        "--trust", action="store_true", help="do not run the suite without a bug first"
    )


if __name__ == "__main__":
    sys.exit(main())
