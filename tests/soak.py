# SPDX-License-Identifier: GPL-2.0
"""How long the suite goes without a flake or a trace: `python -m tests.soak --kills 200 …`.

Parts whose number is 0 are left out. Each part is a command of its own, which is shown, and whose
last line is JSON; the last line printed here is one object of all of them.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.cli import ENDS_WITH_US

CHECKOUT = Path(__file__).resolve().parent.parent
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
WORKERS = 4
NEIGHBOUR_MIB = 16
# As many of each as there are processors, which is what 0 means to stress-ng.
STRESS = ("stress-ng", "--quiet", "--cpu", "0", "--vm", "0", "--vm-bytes", "64M")
IN_GUESTS = ("--kernel=7.2-amd64", "--kernel=7.2-arm64", "--kernel=7.2-armhf")


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    for name, text in (
        ("kills", "runs that are killed at random moments"),
        ("repeats", f"runs of the suite with {WORKERS} workers, alone"),
        ("loaded", "runs beside stress-ng and another program that uses KSM"),
        ("guests", "runs on an emulated kernel of each architecture"),
    ):
        parser.add_argument(f"--{name}", type=_number, default=0, metavar="N", help=text)
    parser.add_argument("tests", nargs="*", default=["ksmtests"], help="of the repeated runs")
    options = parser.parse_args(words)
    if options.loaded and not shutil.which(STRESS[0]):
        parser.error(f"--loaded needs {STRESS[0]}: apt-get install {STRESS[0]}")
    if options.loaded and AUTOGROUP.exists() and AUTOGROUP.read_text().strip() != "0":
        parser.error(
            "--loaded: with autogroups, ksmd, which is at nice 5 and in none, waits for seconds "
            f"beside stress: echo 0 > {AUTOGROUP}"
        )
    return options


def repeat(times: int, *words: str) -> list[str]:
    """The command that repeats the suite."""
    return ["bench.repeat", f"--times={times}", f"--workers={WORKERS}", *words]


def run(command: Sequence[str]) -> tuple[int, object]:
    """Exit status of a module, and what its last line says; all of its lines are shown."""
    sys.stdout.write(f"python -m {' '.join(command)}\n")
    sys.stdout.flush()
    last = ""
    with subprocess.Popen(
        [*ENDS_WITH_US, sys.executable, "-m", *command],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            last = line
            sys.stdout.write(line)
            sys.stdout.flush()
    try:
        return process.returncode, json.loads(last)
    except ValueError:
        return process.returncode, {"last line": last.strip()}


@contextlib.contextmanager
def stressed() -> Iterator[None]:
    """Keep processors and memory busy."""
    process = subprocess.Popen([*ENDS_WITH_US, *STRESS])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def main(words: Sequence[str]) -> int:
    """Run the parts; 1 where one of them failed."""
    options = _options(words)
    done: dict[str, object] = {}
    statuses = []

    def part(name: str, command: Sequence[str]) -> None:
        status, said = run(command)
        statuses.append(status)
        done[name] = said

    if options.kills:
        part("kills", ["tests.soak_kills", f"--kills={options.kills}"])
    if options.repeats:
        part("repeats", repeat(options.repeats, *options.tests))
    if options.loaded:
        with stressed():
            part(
                "loaded",
                repeat(options.loaded, f"--neighbour={NEIGHBOUR_MIB}", *options.tests),
            )
    if options.guests:
        part("guests", repeat(options.guests, "--", *IN_GUESTS, *options.tests))
    sys.stdout.write(json.dumps({"failed": sum(map(bool, statuses)), **done}) + "\n")
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
