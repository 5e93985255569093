# SPDX-License-Identifier: GPL-2.0
"""The comparison: the kernel's C test and this suite, in turn, without and with a neighbour."""

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import busy_neighbour
from bench.cprogram import PROGRAM
from bench.settings import Settings, restored
from bench.stopwatch import Run, measure

CHECKOUT = Path(__file__).resolve().parent.parent
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
PORTED = (*PYTEST, "ksmtests/test_functional_port.py")  # the C program's ten tests
SUITE = (*PYTEST, "-n", "auto", "ksmtests")

C_TIMEOUT_S = 60.0  # beside a busy neighbour it may never end; this is then taken for its time
OURS_TIMEOUT_S = 600.0
C_LAST_LINE = "# Totals:"  # what the program prints when it ran to its end (kselftest.h)

Runs = Mapping[str, Sequence[Run]]  # by contestant: "C", "ported", "suite", "busy C", "busy ported"


class BenchError(Exception):
    """A program did not do what is to be measured; the message has the end of its output."""


@dataclass(frozen=True)
class Ratio:
    """Our time over the C program's, by their medians."""

    key: str  # in the JSON line
    ours: str
    theirs: str
    quantity: str  # attribute of Run
    aim: float | None = None  # at most

    def of(self, runs: Runs) -> float:
        """Return the ratio, to three significant digits."""
        ours, theirs = (median(runs[name], self.quantity) for name in (self.ours, self.theirs))
        return float(f"{ours / theirs:.3g}")


RATIOS = (
    Ratio("wall_ratio", "ported", "C", "wall_s", aim=0.5),
    Ratio("cpu_ratio", "ported", "C", "cpu_s"),
    Ratio("suite_wall_ratio", "suite", "C", "wall_s", aim=10),
    Ratio("busy_wall_ratio", "busy ported", "busy C", "wall_s", aim=0.1),
)


def median(runs: Sequence[Run], quantity: str) -> float:
    """Return the median of a quantity of `runs`, in seconds."""
    values: list[float] = [getattr(run, quantity) for run in runs]
    return statistics.median(values)


def run_c(directory: Path, settings: Settings, timeout_s: float = C_TIMEOUT_S) -> Run:
    """Run the C program in `directory`, where it lies. Its tests may fail, but it must run."""
    with restored(settings):
        run = measure([f"./{PROGRAM}"], directory, timeout_s)
    if not run.timed_out and C_LAST_LINE not in run.output:
        raise BenchError(f"the C program ended early, with {run.exit_code}:\n{run.tail}")
    return run


def run_ours(command: Sequence[str], settings: Settings, timeout_s: float = OURS_TIMEOUT_S) -> Run:
    """Run tests of this suite, which must pass, from the checkout's root."""
    with restored(settings):
        run = measure(command, CHECKOUT, timeout_s)
    if run.timed_out or run.exit_code:
        how = f"took longer than {timeout_s:.0f} s" if run.timed_out else f"gave {run.exit_code}"
        raise BenchError(f"`{' '.join(command)}` {how}:\n{run.tail}")
    return run


def compare(program: Path, pairs: int, busy_pairs: int) -> Runs:
    """Run the contestants in turn, reporting each run, and return all runs."""
    runs: dict[str, list[Run]] = defaultdict(list)
    settings = Settings.save()  # once: our own suite may be late in putting them back
    quiet: dict[str, Callable[[], Run]] = {
        "C": lambda: run_c(program, settings),
        "ported": lambda: run_ours(PORTED, settings),
        "suite": lambda: run_ours(SUITE, settings),
    }
    busy = {f"busy {name}": quiet[name] for name in ("C", "ported")}
    _take_turns(quiet, pairs, runs)
    with busy_neighbour.running():
        _take_turns(busy, busy_pairs, runs)
    return runs


def say(line: str) -> None:
    """Write a line to stdout at once, whoever reads it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _take_turns(
    contestants: Mapping[str, Callable[[], Run]], rounds: int, runs: Mapping[str, list[Run]]
) -> None:
    for turn in range(1, rounds + 1):
        for name, start in contestants.items():
            run = start()
            runs[name].append(run)
            say(f"{turn}/{rounds}  {run_line(name, run)}")


def run_line(name: str, run: Run) -> str:
    """Return a line about one run."""
    remark = "  timed out" if run.timed_out else ""
    return f"{name:12}  wall {run.wall_s:7.3f} s  cpu {run.cpu_s:7.3f} s{remark}"


def summary(runs: Runs) -> list[str]:
    """Return the lines about all runs: medians, then ratios beside what they are to be."""
    lines = ["medians:"]
    for name, of_one in runs.items():
        wall_s, cpu_s = median(of_one, "wall_s"), median(of_one, "cpu_s")
        lines.append(f"  {name:12}  wall {wall_s:7.3f} s  cpu {cpu_s:7.3f} s  ({len(of_one)} runs)")
    lines.append("ratios:")
    for ratio in RATIOS:
        value = ratio.of(runs)
        lines.append(
            f"  {ratio.key:17} {value:<7g} {ratio.ours} / {ratio.theirs}{_verdict(ratio, value)}"
        )
    return lines


def _verdict(ratio: Ratio, value: float) -> str:
    if ratio.aim is None:
        return ""
    return f"  (aim <= {ratio.aim:g}: {'met' if value <= ratio.aim else 'missed'})"


def ratios(runs: Runs) -> dict[str, float]:
    """Return what the JSON line holds."""
    return {ratio.key: ratio.of(runs) for ratio in RATIOS}
