# SPDX-License-Identifier: GPL-2.0
"""Kernels to run on, from the command line: `python -m guests --help`."""

import argparse
import contextlib
import logging
import os
import select
import shlex
import shutil
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

from guests import bisect, catalogue, session, sources, states
from guests.bisect import BisectError, Step
from guests.cache import CacheError, cache_dir, locked
from guests.catalogue import Catalogue, CatalogueError
from guests.debian import FetchError
from guests.formats import FormatError
from guests.image import ImageError, base_image
from guests.kernel import Kernel
from guests.patience import PatienceError
from guests.qemu import QemuError, find_emulator
from guests.wheels import NotInstalledError

CHECKOUT = Path(__file__).resolve().parent.parent
FAILED = 1
USAGE = 2
LOST = 3  # the guest, not what ran in it, failed; pytest's own "internal error"
SHELL = ["/bin/busybox", "sh", "-l"]
ERRORS = (
    *(CacheError, FetchError, FormatError, ImageError, NotInstalledError, PatienceError),
    OSError,  # of the disk that guests are made on, mostly: it is full
)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _pass_on(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def list_kernels(known: Catalogue, kernels: list[Kernel], _: argparse.Namespace) -> int:
    """Show the catalogue and what of it is in the cache."""
    width = max(len(one.name) for one in kernels)
    for one in kernels:
        cached = one.at_hand()
        _say(f"{one.name:<{width}}  {one.origin:<18}  {cached.release if cached else '-'}")
    for name, patterns in {catalogue.ALL: ("*",), **known.groups}.items():
        _say(f"{name:<{width}}  group of {', '.join(patterns)}")
    return 0


def fetch(_: Catalogue, kernels: list[Kernel], __: argparse.Namespace) -> int:
    """Fetch kernels and make their root images, so that a boot needs no network."""
    for one in kernels:
        files = one.fetch()
        base_image(one.arch)
        find_emulator(one.arch)
        _say(f"{one.name}: {files.release or files.image}")
    return 0


def boot(_: Catalogue, kernels: list[Kernel], arguments: argparse.Namespace) -> int:
    """Boot or resume each kernel until its agent answers."""
    for one in kernels:
        with session.start(one, arguments.checkout, fresh=arguments.fresh) as guest:
            how = "resumed" if guest.resumed else "booted"
            _say(f"{one.name}: {guest.release} {how}, ready after {guest.ready_seconds:.1f} s")
    return 0


def run(_: Catalogue, kernels: list[Kernel], arguments: argparse.Namespace) -> int:
    """Run pytest in each kernel, one after another; the highest of its exit statuses is ours."""
    statuses = []
    for one in kernels:
        with session.start(one, arguments.checkout, fresh=arguments.fresh) as guest:
            _say(f"{one.name}: {guest.release}")
            command = ["python3", "-m", "pytest", *arguments.pytest]
            statuses.append(guest.run(command, _pass_on))
    return max(statuses)


def shell(_: Catalogue, kernels: list[Kernel], arguments: argparse.Namespace) -> int:
    """Run a shell in the guest, at this terminal; its end is the guest's."""
    if len(kernels) != 1:
        raise CatalogueError(f"a shell is in one kernel, not in {len(kernels)}: name one")
    with (
        session.start(kernels[0], arguments.checkout, fresh=arguments.fresh) as guest,
        _raw_terminal(),
    ):
        terminal = os.isatty(0)
        guest.start(SHELL, env={"TERM": os.environ.get("TERM", "dumb")}, terminal=terminal)
        return _converse(guest)


def _converse(guest: session.Guest) -> int:
    source: int | None = 0
    while True:
        status = guest.step(_pass_on, also=source)
        if status is not None:
            return status
        if source is not None and select.select([source], (), (), 0)[0]:
            data = os.read(source, 4096)
            guest.write(data)
            source = source if data else None


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Leave every key to the guest's terminal."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def clean(_: Catalogue, __: list[Kernel], ___: argparse.Namespace) -> int:
    """Remove fetched packages, root images and saved guests. What runs keeps running."""
    cache = cache_dir()
    with contextlib.ExitStack() as locks:
        for lock in (*cache.glob("debian/apt/*/lock"), *cache.glob("images/*.lock")):
            locks.enter_context(locked(lock))
        images = [path for path in cache.glob("images/*") if path.is_dir()]
        for directory in (cache / "debian/trees", cache / "kernels", *images):
            shutil.rmtree(directory, ignore_errors=True)
    states.clean()
    return 0


def bisect_tree(_: Catalogue, __: list[Kernel], arguments: argparse.Namespace) -> int:
    """Print the commands that find the commit which made a test fail; or run them."""
    tree, build = arguments.tree.resolve(), (arguments.build or arguments.tree).resolve()
    config = bisect.prepared(build)
    step = Step(
        arguments.test, tree, build, config, arguments.checkout.resolve(), _for_pytest(arguments)
    )
    commands = bisect.recipe(step, arguments.good, arguments.bad)
    for command in commands:
        _say(shlex.join(command))
    _say(f"# in the end: git -C {tree} bisect reset")
    return bisect.search(commands) if arguments.run else 0


def bisect_step(_: Catalogue, __: list[Kernel], arguments: argparse.Namespace) -> int:
    """Build, boot and test what is checked out, for `git bisect run`: exit status 0, 1 or 125."""
    step = Step(
        *(arguments.test, arguments.tree, arguments.build, arguments.config, arguments.checkout),
        _for_pytest(arguments),
    )
    status, why = step.run(_say)
    _say(f"bisect: {status}: {why}")
    return status


def _for_pytest(arguments: argparse.Namespace) -> list[str]:
    """More arguments for pytest: those for it, and what the machine is to be."""
    told = {
        "--kernel-append": arguments.append,
        "--guest-memory": arguments.memory,
        "--guest-cpus": arguments.cpus,
    }
    return [*(f"{name}={value}" for name, value in told.items() if value), *arguments.pytest]


Command = Callable[[Catalogue, list[Kernel], argparse.Namespace], int]
COMMANDS: dict[str, Command] = {
    "list": list_kernels,
    "fetch": fetch,
    "boot": boot,
    "run": run,
    "shell": shell,
    "clean": clean,
    "bisect": bisect_tree,
    "bisect-step": bisect_step,
}
KERNEL = "name, group or glob; or the path of an image or of a tree it was built in"
OF_ALL = ("list", "fetch", "boot")  # by default


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m guests", description="Emulated kernels to run the suite on."
    )
    parser.add_argument("--catalogue", type=Path, help="a file of your own kernels (kernels.toml)")
    parser.add_argument("--checkout", type=Path, default=CHECKOUT, help="what is run inside")
    parser.add_argument("--append", default="", help="more for the kernel's command line")
    parser.add_argument("--memory", type=int, metavar="MIB", help="of the guest")
    parser.add_argument("--cpus", type=int, metavar="NUMBER", help="of the guest")
    parser.add_argument("--fresh", action="store_true", help="boot, whatever was saved")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function in COMMANDS.items():
        text = (function.__doc__ or "").partition("\n")[0]
        one = commands.add_parser(name, help=text, description=text)
        if name in OF_ALL:
            one.add_argument("kernels", nargs="*", default=[catalogue.ALL], help=KERNEL)
        elif name in {"bisect", "bisect-step"}:
            _add_bisection(one, is_step=name == "bisect-step")
        elif name != "clean":
            one.add_argument("kernels", nargs=1, help=KERNEL)
        if name == "run":
            one.add_argument("pytest", nargs=argparse.REMAINDER, help="arguments of pytest")
    return parser


def _add_bisection(command: argparse.ArgumentParser, *, is_step: bool) -> None:
    command.add_argument("--test", required=True, metavar="NODEID", help="without a kernel")
    command.add_argument("--tree", type=Path, required=True, metavar="DIR", help="git's work tree")
    command.add_argument(
        "--build",
        type=Path,
        required=is_step,
        metavar="DIR",
        help="what make builds in, with a .config (O=); the tree where it is left out",
    )
    if is_step:
        command.add_argument("--config", type=Path, required=True, metavar="FILE")
    else:
        command.add_argument("--good", required=True, metavar="COMMIT", help="where it passes")
        command.add_argument("--bad", default="HEAD", metavar="COMMIT", help="where it fails")
        command.add_argument("--run", action="store_true", help="do it, and not only print it")
    command.add_argument("pytest", nargs="*", help="more for pytest, behind --")


def main(words: list[str]) -> int:
    """Do what the words say; errors with a remedy are shown without a traceback."""
    arguments = _parser().parse_args(words)
    logging.basicConfig(format="%(message)s")
    try:
        known = catalogue.load(arguments.catalogue)
        kernels = sources.resolve(
            getattr(arguments, "kernels", ()),
            known,
            append=arguments.append,
            memory_mib=arguments.memory,
            cpus=arguments.cpus,
        )
        return COMMANDS[arguments.command](known, kernels, arguments)
    except (BisectError, CatalogueError) as error:
        sys.stderr.write(f"{error}\n")
        return USAGE
    except (*ERRORS, QemuError, session.RefusedError) as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    except session.LostGuest as error:
        sys.stderr.write(f"{error}\n")
        return LOST
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
