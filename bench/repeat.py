# SPDX-License-Identifier: GPL-2.0
"""Run the suite again and again, and count the failures: `python -m bench.repeat --times 50`.

Each run has an order of its own. The last line printed is a JSON object; exit status 1 if a run
failed.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time

from bench import busy_neighbour
from bench.cli import ENDS_WITH_US
from bench.compare import CHECKOUT, PYTEST


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.repeat", description=__doc__)
    parser.add_argument("--times", type=int, default=50, help="runs (default: 50)")
    parser.add_argument("--workers", default="4", help="pytest's -n (default: 4)")
    parser.add_argument(
        "--neighbour", type=int, default=0, metavar="MIB", help="keep so much memory mergeable"
    )
    parser.add_argument("tests", nargs="*", default=["ksmtests"])
    return parser.parse_args()


def main() -> int:
    """Repeat, and report every run that failed with the end of its output."""
    options = _options()
    shuffle = ("-p", "random_order", "--random-order", "--random-order-bucket=global")
    command = [*ENDS_WITH_US, *PYTEST, "-n", options.workers, *shuffle, *options.tests]
    failed = []
    begin = time.monotonic()
    beside = (
        busy_neighbour.running(options.neighbour) if options.neighbour else contextlib.nullcontext()
    )
    with beside:
        for seed in range(options.times):
            run = subprocess.run(
                [*command, f"--random-order-seed={seed}"],
                cwd=CHECKOUT,
                capture_output=True,
                text=True,
                check=False,
            )
            lines = run.stdout.splitlines()
            sys.stdout.write(f"{seed}: {lines[-1] if lines else run.stderr}\n")
            if run.returncode:
                failed.append(seed)
                sys.stdout.write("\n".join(lines[-60:]) + "\n")
            sys.stdout.flush()
    seconds = round(time.monotonic() - begin)
    sys.stdout.write(
        json.dumps({"times": options.times, "failed": failed, "seconds": seconds}) + "\n"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
