# SPDX-License-Identifier: GPL-2.0
"""How reliably guests boot and resume: python -m tests.soak_guests --boots 50 --resumes 50 NAME…

Two at a time; --load adds processes that only keep processors busy. The last line printed is JSON:
for each kernel and way to start, how many were tried, reached their first program, did so only at a
second attempt (a resumed one: by booting), or failed; processor seconds of each on average, and the
median of the seconds until it was ready.
"""

import argparse
import contextlib
import json
import logging
import resource
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from guests import catalogue, session, sources
from guests.kernel import Kernel
from guests.session import LostGuest

CHECKOUT = Path(__file__).resolve().parent.parent
AT_ONCE = 2
BUSY = "while True: pass"
PROGRAM = ["python3", "-c", "import sys; sys.exit(7)"]

log = logging.getLogger(__name__)


@dataclass
class Tally:
    """What became of the guests that were started in one way."""

    tried: int = 0
    reached: int = 0
    retried: int = 0
    failed: int = 0
    cpu_s: float = 0.0
    ready_s: float = 0.0
    seconds: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Numbers alone."""
        whole = asdict(self)
        del whole["seconds"]
        return whole


class Retries(logging.Handler):
    """Remembers which threads were warned that a guest is started another time."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._threads: set[int] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a warning down."""
        self._threads.add(record.thread or 0)

    def taken(self) -> bool:
        """Whether this thread was warned since it was last asked."""
        ident = threading.get_ident()
        warned = ident in self._threads
        self._threads.discard(ident)
        return warned


def attempt(kernel: Kernel, retries: Retries, *, fresh: bool) -> tuple[bool, float | None]:
    """Start a guest and a program in it: whether it took a second attempt; None if it was lost."""
    retries.taken()
    try:
        with session.start(kernel, CHECKOUT, fresh=fresh) as guest:
            status = guest.run(PROGRAM, sys.stderr.buffer.write)
            seconds = guest.ready_seconds if status == 7 else None
    except LostGuest as error:
        log.error("%s", error)  # noqa: TRY400 - it says where it was lost
        seconds = None
    return retries.taken(), seconds


def soak(kernel: Kernel, number: int, retries: Retries, *, fresh: bool) -> Tally:
    """Start a kernel so many times."""
    tally = Tally()
    before = cpu_seconds()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        attempts = [pool.submit(attempt, kernel, retries, fresh=fresh) for _ in range(number)]
        for future in attempts:
            retried, seconds = future.result()
            tally.tried += 1
            tally.retried += retried and seconds is not None
            tally.failed += seconds is None
            tally.reached += seconds is not None
            tally.seconds += [] if seconds is None else [seconds]
    tally.cpu_s = round((cpu_seconds() - before) / number, 2)
    tally.ready_s = round(statistics.median(tally.seconds or [0.0]), 2)
    return tally


def cpu_seconds() -> float:
    """Of this process and of all that it started and that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@contextlib.contextmanager
def load(processes: int) -> Iterator[None]:
    """Keep processors busy."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()


def main(words: list[str]) -> int:
    """Soak; 1 where a guest failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak_guests", description=__doc__)
    parser.add_argument("--boots", type=int, default=0, metavar="N")
    parser.add_argument("--resumes", type=int, default=0, metavar="N")
    parser.add_argument("--load", type=int, default=0, metavar="PROCESSES")
    parser.add_argument("kernel", nargs="+", help="name, group, glob or path")
    arguments = parser.parse_args(words)
    logging.basicConfig(format="%(message)s")
    retries = Retries()
    logging.getLogger("guests").addHandler(retries)
    tallies: dict[str, dict[str, Tally]] = {}
    with load(arguments.load):
        for kernel in sources.resolve(arguments.kernel, catalogue.load()):
            ways = tallies[kernel.name] = {}
            if arguments.boots:
                ways["boots"] = soak(kernel, arguments.boots, retries, fresh=True)
            if arguments.resumes:
                attempt(kernel, retries, fresh=False)  # saves it
                ways["resumes"] = soak(kernel, arguments.resumes, retries, fresh=False)
            done = {way: tally.summary() for way, tally in ways.items()}
            sys.stderr.write(f"{kernel.name}: {json.dumps(done)}\n")
    summaries = {
        name: {way: tally.summary() for way, tally in ways.items()}
        for name, ways in tallies.items()
    }
    sys.stdout.write(json.dumps({"load": arguments.load, "kernels": summaries}) + "\n")
    return any(tally.failed for ways in tallies.values() for tally in ways.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
