# SPDX-License-Identifier: GPL-2.0
"""How long a test on an emulated kernel takes, beside a boot of a kernel by virtme-ng (vng).

For each kernel one quick test, which needs one process and no pass of ksmd, is run by
`pytest --kernel` as a user would run it:

cold    nothing is cached: packages, root image and QEMU are fetched and made; once
boot    all is cached, but no guest is saved: it boots, and is saved
resume  the saved guest goes on

Times are wall time of the whole process, from the command to the first test's result and to the
end. Boot, resume and vng take turns, so that their ratios do not depend on what else the machine
does. vng boots the amd64 kernel's image to a trivial command, with the same QEMU, accelerator,
memory and processors; its time is the whole command's, shutdown included.

The last line printed is a JSON object: {ARCHITECTURE: {"kernel", "cold": {"first", "end"}, "boot",
"resume", "vng", "resume_over_vng", "boot_over_vng"}}, in seconds, medians; the ratios are of the
first results. Exit status: 0 measured, 1 failed, 2 wrong usage.
"""

import argparse
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import vng
from bench.cli import count, end_on_signals
from bench.compare import CHECKOUT, BenchError, say
from bench.guest_times import Row, Times, line, table, times
from bench.watched import Watched, watch
from guests import catalogue
from guests.cache import CacheError, cache_dir, locked, workshop
from guests.catalogue import CatalogueError
from guests.debian import FetchError
from guests.image import ImageError, base_image
from guests.kernel import Kernel
from guests.packaged import PackagedKernel
from guests.patience import PatienceError
from guests.qemu import QemuError, find_emulator
from guests.wheels import NotInstalledError

KERNELS = ("7.2-amd64", "7.2-arm64", "7.2-armhf")
TEST = ("ksmtests/test_vma_flags.py", "-k", "plain")
RESULT = re.compile(rb"^\S+::.* PASSED\b", re.MULTILINE)
RUN_TIMEOUT_S = 900.0
COLD_TIMEOUT_S = 3600.0

FAILURES = (
    *(BenchError, CacheError, FetchError, ImageError, NotInstalledError, PatienceError, QemuError),
    OSError,
)


class Cache:
    """A cache in place of the user's own."""

    def __init__(self, directory: Path) -> None:
        """Make the directory."""
        self._base = directory
        self.home = directory / "ksmtests"
        self.home.mkdir(mode=0o700, parents=True)

    def share(self, other: Path) -> None:
        """Have all that the cache `other` has, but for saved guests."""
        for name in ("debian", "images"):
            (self.home / name).symlink_to(other / name)
        shutil.copytree(other / "kernels", self.home / "kernels")  # names what lies in debian/

    def forget_guests(self) -> None:
        """Have no saved guest."""
        shutil.rmtree(self.home / "states", ignore_errors=True)

    def guests(self) -> dict[str, int]:
        """Saved guests; one that is saved anew is another."""
        return {
            path.parent.name: path.stat().st_ino for path in self.home.glob("states/*/manifest")
        }

    def environment(self) -> dict[str, str]:
        """Of a pytest that uses it, and that writes what it says at once."""
        own = {"XDG_CACHE_HOME": str(self._base), "PYTHONUNBUFFERED": "1"}
        unwanted = {"PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS"}
        return {key: value for key, value in os.environ.items() if key not in unwanted} | own


def run_test(kernel: Kernel, cache: Cache, timeout_s: float = RUN_TIMEOUT_S) -> Watched:
    """Run the test on a kernel."""
    pytest = (sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider")
    command = (*pytest, "--kernel", kernel.name, *TEST)
    return watch(command, CHECKOUT, cache.environment(), timeout_s, RESULT)


def boot(kernel: Kernel, cache: Cache) -> Times:
    """Run the test in a guest that boots. Raises BenchError, also where it was not saved."""
    cache.forget_guests()
    run = run_test(kernel, cache)
    measured = times(run)
    if not cache.guests():
        raise BenchError(
            f"the guest of {kernel.name} was not saved when it had booted:\n{run.tail}"
        )
    return measured


def resume(kernel: Kernel, cache: Cache) -> Times:
    """Run the test in the guest that was saved. Raises BenchError, also where it was not used."""
    before = cache.guests()
    run = run_test(kernel, cache)
    measured = times(run)
    if cache.guests() != before:
        raise BenchError(f"the saved guest of {kernel.name} was not resumed:\n{run.tail}")
    return measured


def measure(row: Row, work: Path, yardstick: vng.Vng, runs: int, *, cold: bool) -> None:
    """Fill a row, reporting each run. Raises BenchError."""
    name = row.kernel.name
    if cold:
        with workshop(work / "cold") as directory:
            row.cold = times(run_test(row.kernel, Cache(directory), COLD_TIMEOUT_S))
        say(f"{name}  cold    {line(row.cold)}")
    with workshop(work / "warm") as directory:
        cache = Cache(directory)
        cache.share(cache_dir())
        steps: Mapping[str, tuple[Callable[[Kernel, Cache], Times], list[Times]]] = {
            "boot": (boot, row.boot),
            "resume": (resume, row.resume),
        }
        for turn in range(1, runs + 1):
            for word, (step, measured) in steps.items():
                measured.append(step(row.kernel, cache))
                say(f"{name}  {word:6}  {line(measured[-1])}  {turn}/{runs}")
            row.vng.append(yardstick.boot().end_s)
            say(f"{name}  vng     {'':13}  end {row.vng[-1]:7.2f} s  {turn}/{runs}")


def choose(names: Sequence[str]) -> list[PackagedKernel]:
    """The kernels of these names, one of each architecture. Raises CatalogueError."""
    known = catalogue.load()
    chosen = [kernel for name in names for kernel in known.resolve(name)]
    archs = [kernel.arch for kernel in chosen]
    for arch in archs:
        if archs.count(arch) > 1:
            doubles = ", ".join(kernel.name for kernel in chosen if kernel.arch == arch)
            raise CatalogueError(f"{doubles} are all for {arch}: choose one of each architecture")
    return chosen


def choose_yardstick(name: str | None, chosen: Sequence[PackagedKernel]) -> PackagedKernel:
    """The kernel vng boots: the one named, the amd64 one of those chosen, else the default's."""
    if name is None:
        name = next((kernel.name for kernel in chosen if kernel.arch == vng.ARCH), KERNELS[0])
    found = catalogue.load().resolve(name)
    if len(found) > 1:
        raise CatalogueError(f"--vng-kernel {name} is {len(found)} kernels: name one")
    return found[0]


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory for caches, on the disk of the user's own. Raises CacheError.

    What a killed run left there is removed by the next one.
    """
    home = cache_dir() / "bench"
    home.mkdir(mode=0o700, exist_ok=True)
    with locked(home / "guests.lock", 0), workshop(home / "guests") as work:
        yield work


def run(options: argparse.Namespace) -> list[Row]:
    """Prepare and measure. Raises CatalogueError or one of FAILURES."""
    chosen = choose(options.kernels)
    with workplace() as work, vng.prepared(choose_yardstick(options.vng_kernel, chosen)) as boots:
        for kernel in chosen:
            say(f"{kernel.name}: fetching what is not cached")
            kernel.files()
            base_image(kernel.arch)
            find_emulator(kernel.arch)
        say(f"vng {vng.VERSION} boots {boots.kernel.name}")
        rows = [Row(kernel) for kernel in chosen]
        for row in rows:
            measure(row, work, boots, options.runs, cold=options.cold)
    return rows


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.guests",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kernels", nargs="*", default=KERNELS, help=f"default: {' '.join(KERNELS)}")
    parser.add_argument(
        "--runs", type=count, default=3, help="of boot, resume and vng (default: 3)"
    )
    parser.add_argument(
        "--no-cold", dest="cold", action="store_false", help="leave out what fetches everything"
    )
    parser.add_argument("--vng-kernel", metavar="KERNEL", help="boot this one by vng")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report."""
    options = _options(arguments)
    end_on_signals()
    load = os.getloadavg()[0]
    say(
        f"load {load:.1f} on {os.cpu_count()} processors: under load, ratios tell more than seconds"
    )
    try:
        rows = run(options)
    except CatalogueError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2
    except FAILURES as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    say("\n".join(table(rows)))
    say(json.dumps({row.kernel.arch: row.figures() for row in rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
