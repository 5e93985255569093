# SPDX-License-Identifier: GPL-2.0
"""`python -m reports`: a record of a run, which `--record` wrote, for other systems."""

import argparse
import json
import sys
from pathlib import Path

from reports.kcidb import ORIGIN, kcidb
from reports.lava import lava
from reports.records import RecordError, read
from reports.tmt import tmt


def _origin(text: str) -> str:
    if not ORIGIN.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: small letters, digits and _ make an origin")
    return text


def _build(text: str) -> str:
    if not ORIGIN.fullmatch(text.partition(":")[0]) or ":" not in text:
        raise argparse.ArgumentTypeError(f"{text!r}: it is ORIGIN:ID")
    return text


def main(argv: list[str] | None = None) -> int:
    """Print it; returns the exit status."""
    parser = argparse.ArgumentParser("python -m reports", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("kcidb", help="JSON of kcidb-io's schema 5.3")
    one.add_argument("record", type=Path, metavar="RUN.jsonl")
    one.add_argument("--origin", type=_origin, default="ksmtests", help="your CI system's name")
    one.add_argument("--build", type=_build, metavar="ORIGIN:ID", help="what was tested")
    two = commands.add_parser("tmt", help="results.json of a tmt test")
    two.add_argument("record", type=Path, metavar="RUN.jsonl")
    three = commands.add_parser("lava", help="a name and a result in each line")
    three.add_argument("record", type=Path, metavar="RUN.jsonl")
    options = parser.parse_args(argv)
    try:
        run = read(options.record)
    except RecordError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.command == "lava":
        sys.stdout.writelines(f"{line}\n" for line in lava(run))
        return 0
    made = tmt(run) if options.command == "tmt" else kcidb(run, options.origin, options.build or "")
    sys.stdout.write(json.dumps(made, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
