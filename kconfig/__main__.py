# SPDX-License-Identifier: GPL-2.0
"""`python -m kconfig check PATH`: what a kernel's configuration lacks for the suite."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kconfig import ConfigurationError
from kconfig.configuration import read
from kconfig.fragment import ARCHITECTURES, EVERY_TEST, Need, architecture_of, lacking
from kconfig.marks import MarksError, tests_by_feature

NOTHING_LACKS, SOMETHING_LACKS, NOT_CHECKED = range(3)
SUITE = Path(__file__).parent.parent / "ksmtests"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kconfig", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="check")
    check = commands.add_parser(
        "check",
        help="print the symbols that a configuration lacks; exit with 1 if there are any",
        epilog="kconfig/config and kconfig/config.MACHINE, merged, set all of them",
    )
    check.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="a .config, plain or gzipped; a build tree; or a kernel image with CONFIG_IKCONFIG=y",
    )
    check.add_argument(
        "--arch", choices=ARCHITECTURES, help="its architecture, by default what it says itself"
    )
    check.add_argument("--tests", action="store_true", help="also name the tests that are skipped")
    return parser.parse_args(arguments)


def _needed_by(needs: Sequence[Need]) -> str:
    """The features, those that need the symbol for another one's sake after the others."""
    groups: dict[str, list[str]] = {}
    for need in needs:
        groups.setdefault(need.through, []).append(need.feature)
    return "; ".join(
        f"by {', '.join(features)}" + (f" through {through}" if through else "")
        for through, features in groups.items()
    )


def _skipped(needs: Sequence[Need], tests: dict[str, list[str]]) -> list[str]:
    names = {name for need in needs for name in tests.get(need.feature, ())}
    everything = any(need.feature == EVERY_TEST for need in needs)
    return [] if everything else [f"    skips {name}\n" for name in sorted(names)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _arguments(arguments)
    try:
        configuration = read(options.path)
        architecture = options.arch or architecture_of(configuration)
        tests = tests_by_feature(SUITE) if options.tests else {}
    except (ConfigurationError, MarksError) as error:
        sys.stderr.write(f"{error}\n")
        return NOT_CHECKED
    status = NOTHING_LACKS
    for reason, needs in lacking(configuration, architecture):
        sys.stdout.write(f"{reason}: needed {_needed_by(needs)}\n")
        sys.stdout.writelines(_skipped(needs, tests))
        status = SOMETHING_LACKS
    if status == NOTHING_LACKS:
        sys.stdout.write(f"{configuration.source} lacks nothing that {architecture} can have\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
