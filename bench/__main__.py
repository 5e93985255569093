# SPDX-License-Identifier: GPL-2.0
"""Compare the speed of this suite with that of the kernel's own C test of KSM.

The two are run in turn, first on the machine as it is, then beside a program that keeps KSM busy.
The last line printed is a JSON object of the ratios of our times to the C program's. The C program
is built from Debian's kernel source, which is fetched the first time. KSM's settings are put back
after each run. Exit status: 0 measured, 1 failed, 2 not possible here or wrong usage.
"""

import argparse
import json
import os
import signal
import sys

from bench import compare
from bench.busy_neighbour import NeighbourError
from bench.cli import count, end_on_signals
from bench.cprogram import SOURCE_PACKAGE, BuildError, build
from bench.settings import SYSFS, SettingsError
from guests.cache import CacheError
from guests.debian import FetchError

FAILURES = (
    BuildError,
    CacheError,
    FetchError,
    NeighbourError,
    SettingsError,
    compare.BenchError,
    OSError,
)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--pairs", type=count, default=5, help="runs of each on the quiet machine (default: 5)"
    )
    parser.add_argument(
        "--busy-pairs", type=count, default=2, help="runs of each when KSM is busy (default: 2)"
    )
    parser.add_argument(
        "--source",
        default=SOURCE_PACKAGE,
        metavar="PACKAGE",
        help=f"Debian package of the kernel source (default: {SOURCE_PACKAGE})",
    )
    return parser.parse_args()


def _obstacle() -> str | None:
    """Return why nothing can be measured here, if so."""
    if not SYSFS.is_dir():
        return f"there is no {SYSFS}: this kernel has no KSM (CONFIG_KSM), or /sys is not mounted"
    if os.geteuid() != 0:
        return f"KSM's settings need root, but this is uid {os.geteuid()}: run it with sudo"
    return None


def other_users() -> str | None:
    """Return a remark when KSM is at work already: its other users make the times differ."""
    run, shared = ((SYSFS / name).read_text().strip() for name in ("run", "pages_shared"))
    if run != "1" and shared == "0":
        return None
    return f"note: KSM is in use (run {run}, pages_shared {shared}), so the times are of both uses"


def main() -> int:
    """Build, measure and report."""
    options = _options()
    obstacle = _obstacle()
    if obstacle:
        sys.stderr.write(f"bench: {obstacle}\n")
        return 2
    # Compiled modules are kept from one run to the next, as they are wherever tests run twice.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    end_on_signals()
    try:
        if remark := other_users():
            compare.say(remark)
        compare.say(f"building the C program from {options.source}, unless cached")
        program = build(options.source)
        runs = compare.compare(program, options.pairs, options.busy_pairs)
    except FAILURES as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    compare.say("\n".join(compare.summary(runs)))
    compare.say(json.dumps(compare.ratios(runs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
