# SPDX-License-Identifier: GPL-2.0
"""`python -m reports`: what is made of records of runs, which `--record` wrote."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from reports import diff, flaky
from reports.kcidb import ORIGIN, kcidb
from reports.lava import lava
from reports.records import RecordError, Run, read
from reports.tmt import tmt

NEW_FAILURES, UNUSABLE = 1, 2
Runs = Sequence[Run]


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def to_kcidb(runs: Runs, options: argparse.Namespace) -> int:
    """JSON of kcidb-io's schema 5.3."""
    _say(json.dumps(kcidb(runs[0], options.origin, options.build or ""), indent=1))
    return 0


def to_tmt(runs: Runs, _: argparse.Namespace) -> int:
    """results.json of a tmt test."""
    _say(json.dumps(tmt(runs[0]), indent=1))
    return 0


def to_lava(runs: Runs, _: argparse.Namespace) -> int:
    """A name and a result in each line."""
    sys.stdout.writelines(f"{line}\n" for line in lava(runs[0]))
    return 0


def to_html(runs: Runs, options: argparse.Namespace) -> int:
    """Pages that need no server: kernels, tests, failures, times."""
    try:
        # Not before it is asked for.
        from reports.html import OutputError, write  # noqa: PLC0415
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"{error.name} is not installed: `pip install --group html`, or python3-jinja2\n"
        )
        return UNUSABLE
    try:
        _say(str(write(runs, options.output)))
    except OutputError as error:
        sys.stderr.write(f"{error}\n")
        return UNUSABLE
    return 0


def to_diff(runs: Runs, options: argparse.Namespace) -> int:
    """What differs between two runs; exit status 1 where tests fail that did not."""
    for path, run in zip(options.record, runs, strict=True):
        if run.status is None:
            sys.stderr.write(f"{path}: the run was cut short, and has not all tests\n")
    found = diff.differences(*runs)
    for one in found:
        for text in one.lines():
            _say(text)
    _say(diff.summary(found))
    return NEW_FAILURES if any(one.failing for one in found) else 0


def to_flaky(runs: Runs, _: argparse.Namespace) -> int:
    """Tests with mixed results over runs, and how likely they fail."""
    for text in flaky.lines(flaky.mixed(runs), len(runs)):
        _say(text)
    return 0


Command = Callable[[Runs, argparse.Namespace], int]
COMMANDS: dict[str, tuple[Command, int | str]] = {
    "kcidb": (to_kcidb, 1),
    "tmt": (to_tmt, 1),
    "lava": (to_lava, 1),
    "html": (to_html, "+"),
    "diff": (to_diff, 2),
    "flaky": (to_flaky, "+"),
}


def _origin(text: str) -> str:
    if not ORIGIN.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: small letters, digits and _ make an origin")
    return text


def _build(text: str) -> str:
    if not ORIGIN.fullmatch(text.partition(":")[0]) or ":" not in text:
        raise argparse.ArgumentTypeError(f"{text!r}: it is ORIGIN:ID")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m reports", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (function, records) in COMMANDS.items():
        one = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        one.add_argument("record", type=Path, nargs=records, metavar="RUN.jsonl")
        if name == "kcidb":
            one.add_argument("--origin", type=_origin, default="ksmtests", help="your CI system")
            one.add_argument("--build", type=_build, metavar="ORIGIN:ID", help="what was tested")
        if name == "html":
            one.add_argument(
                *("-o", "--output"), type=Path, required=True, metavar="DIR", help="a new directory"
            )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Do it; returns the exit status."""
    options = _parser().parse_args(argv)
    function, _ = COMMANDS[options.command]
    try:
        runs = [read(path) for path in options.record]
    except RecordError as error:
        sys.stderr.write(f"{error}\n")
        return UNUSABLE
    return function(runs, options)


if __name__ == "__main__":
    sys.exit(main())
