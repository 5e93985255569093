# SPDX-License-Identifier: GPL-2.0
"""Kill runs of the suite at random moments, again and again: `python -m tests.soak_kills`.

Each run has a random third of the suite's modules, because one that lost a single process goes on
to its end. The last line of output, after Ctrl-C too, is JSON: how often the settings came back by
themselves, how often it took the next run, what was left over, and who was killed.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lease.membership import DIRECTORY, Membership
from tests.suite_run import (
    CHECKOUT,
    NotYet,
    Role,
    SuiteRun,
    differences,
    kill,
    machine_to_ourselves,
    nobody_running,
    settings_between_sessions,
    wait_until,
)

GONE_DEADLINE = 30.0  # s for a guardian or an orphan to end
MODULES = sorted(CHECKOUT.glob("ksmtests/test_*.py"))
PARTS = 3  # of the suite, of which a run has one


@dataclass
class Tally:
    """What became of the runs."""

    kills: int = 0
    restored: int = 0  # by the guardian or the last member
    restored_by_next_run: int = 0
    leftovers: list[str] = field(default_factory=list)  # settings, processes, and what they made
    slowest_restore_s: float = 0.0
    victims: Counter[str] = field(default_factory=Counter)


def kill_group(run: SuiteRun) -> bool:
    """All but the guardian."""
    run.kill_group()
    return True


def kill_everything(run: SuiteRun) -> bool:
    """The guardian too."""
    run.kill_everything()
    return True


def kill_one(role: Role) -> Callable[[SuiteRun], bool]:
    """One process of that role, if there is one at the moment."""

    def kill_it(run: SuiteRun) -> bool:
        pids = run.pids(role)
        if pids:
            kill(random.choice(pids))  # noqa: S311 no secret
        return bool(pids)

    return kill_it


VICTIMS = {
    **{role.value: kill_one(role) for role in Role},
    "all but the guardian": kill_group,
    "everything": kill_everything,
}


def unused(paths: Iterable[Path]) -> Iterator[Path]:
    """Those that no process was told of: guests of other runs go on."""
    told = b"".join(map(_proc_file, Path("/proc").glob("[0-9]*/cmdline")))
    return (path for path in paths if str(path).encode() not in told)


def _proc_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has ended
        return b""


def traces() -> set[str]:
    """What tests make besides settings, and may leave: of every run that goes on."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return {
        *(f"mount {line}" for line in mounts if "ksmtests" in line),
        *(f"swap {line.split()[0]}" for line in Path("/proc/swaps").read_text().splitlines()[1:]),
        *(f"device {path.name}" for path in Path("/sys/block").glob("zram*")),
        *(f"cgroup {path}" for path in Path("/sys/fs/cgroup").rglob("ksmtests-*")),
        *(f"file {path}" for path in unused(Path(tempfile.gettempdir()).glob("ksmtests-*"))),
        *(f"directory {path}" for path in (DIRECTORY,) if path.exists()),
    }


def duration(directory: Path) -> float:
    """How long a run of the whole suite takes, s, whether it passes or not."""
    start = time.monotonic()
    suite_run(directory, MODULES).wait()
    return time.monotonic() - start


def suite_run(directory: Path, modules: Sequence[Path]) -> SuiteRun:
    """A run of these modules, two at a time."""
    return SuiteRun(directory / "output", "-n", "2", *map(str, modules))


def kill_at_random(run: SuiteRun, longest: float) -> str | None:
    """Kill a random victim at a random moment; None where the run was faster."""
    name = random.choice(list(VICTIMS))  # noqa: S311 no secret
    with suppress(subprocess.TimeoutExpired):
        run.popen.wait(random.uniform(0, longest))  # noqa: S311 no secret
    killed = False
    while run.popen.poll() is None and not killed:
        killed = VICTIMS[name](run)
    return name if killed else None


def settle(run: SuiteRun, before: dict[str, str], tally: Tally) -> str:
    """Count how the settings came back; returns it in words."""
    try:
        seconds = run.seconds_to_restore(before)
    except NotYet as reason:
        tally.leftovers += Membership().leave()
        try:
            run.seconds_to_restore(before)
        except NotYet as problem:
            tally.leftovers.append(str(problem))
            return f"never: {problem}"
        tally.restored_by_next_run += 1
        return f"by the next run ({reason})"
    tally.restored += 1
    tally.slowest_restore_s = max(tally.slowest_restore_s, round(seconds, 3))
    return f"{seconds:.3f} s after the end"


def clean_up(run: SuiteRun, tally: Tally) -> None:
    """No process of the run may be left; those that are get killed."""
    try:
        wait_until(run.is_gone, "end of all processes", GONE_DEADLINE)
    except NotYet:
        tally.leftovers += [f"process {pid}" for pid in sorted(run.processes())]
    run.kill_everything()


def traces_left(before: set[str]) -> set[str]:
    """What is there besides, when nobody runs."""
    with nobody_running():
        return traces() - before - {f"directory {DIRECTORY}"}


def kill_one_run(directory: Path, longest: float, tally: Tally) -> None:
    """One run, one kill, if the run is not over before."""
    with machine_to_ourselves():
        before = settings_between_sessions()
        with nobody_running():
            traces_before = traces() - {f"directory {DIRECTORY}"}  # which the lock lies in
        run = suite_run(directory, random.sample(MODULES, len(MODULES) // PARTS))
        try:
            victim = kill_at_random(run, longest)
            if victim:
                tally.kills += 1
                tally.victims[victim] += 1
                how = settle(run, before, tally)
                sys.stdout.write(f"{tally.kills}: {victim}, restored {how}\n")
                clean_up(run, tally)
                tally.leftovers += sorted(traces_left(traces_before))
        finally:
            run.end()


def soak(kills: int, tally: Tally) -> None:
    """Kill so many runs, each once."""
    before = settings_between_sessions()
    with tempfile.TemporaryDirectory() as name:
        longest = duration(Path(name)) / PARTS
        while tally.kills < kills:
            kill_one_run(Path(name), longest, tally)
    tally.leftovers += differences(settings_between_sessions(), before)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of victims and moments")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("the suite changes settings that are root's: run as root")
    random.seed(options.seed)
    tally = Tally()
    with suppress(KeyboardInterrupt):
        soak(options.kills, tally)
    sys.stdout.write(f"{json.dumps(vars(tally))}\n")
    return 1 if tally.leftovers else 0


if __name__ == "__main__":
    sys.exit(main())
