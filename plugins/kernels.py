# SPDX-License-Identifier: GPL-2.0
"""`--kernel`: the same tests on other kernels, in guests and on boards, in parallel.

Every test gets a dimension of kernels, `test_write_fault_unshares[7.2-arm64]`. pytest-xdist gives
a worker one kernel after another; the worker boots it for the first of its tests, runs them in a
pytest inside and takes over the reports.
"""

import argparse
import platform
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from guests import board, catalogue, session, sources
from guests.board import BoardError
from guests.cache import CacheError
from guests.catalogue import CatalogueError
from guests.debian import FetchError
from guests.formats import FormatError
from guests.image import ImageError
from guests.kernel import Kernel
from guests.local import LocalKernel
from guests.patience import PatienceError
from guests.qemu import QemuError
from guests.session import Guest, LostGuest, RefusedError
from guests.wheels import NotInstalledError
from plugins.fingerprint import PROPERTY, fingerprint
from plugins.remote import GivenUp, NotStarted, RemoteSession, inside_nodeid, without_kernel
from plugins.requirements import requirements, why_not_here

HOST = "host"
CONSOLE = "console of the guest"  # the title of a report's section
AUTO = "auto"
RUN, MODULE, TEST = "run", "module", "test"  # of --fresh-guest
MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "armhf",
    "armv8l": "armhf",
    "riscv64": "riscv64",
    "s390x": "s390x",
    "ppc64le": "ppc64el",
}
CANNOT_START = (
    *(BoardError, CacheError, CatalogueError, FetchError, FormatError, ImageError),
    *(NotInstalledError, PatienceError, QemuError, GivenUp),
    OSError,  # of the disk that guests are made on, mostly: it is full
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options on kernels."""
    group = parser.getgroup("kernels")
    group.addoption(
        "--kernel",
        action="append",
        default=[],
        metavar="KERNEL",
        help="run on this kernel (repeatable): a name, group or glob of `python -m guests list`, "
        "a kernel image, a build tree, `ssh:[user@]board`, `host`, or `auto`: this one where it "
        "can be tested, else the newest emulated one of this architecture",
    )
    group.addoption("--kernel-append", default="", metavar="WORDS", help="for the command line")
    group.addoption("--kernel-catalogue", type=Path, metavar="FILE", help="kernels of your own")
    group.addoption("--guest-memory", type=_positive, metavar="MIB", help="of each guest")
    group.addoption("--guest-cpus", type=_positive, metavar="N", help="of each guest")
    group.addoption("--guest-nodes", type=_positive, metavar="N", help="of each guest, for NUMA")
    group.addoption(
        "--fresh-guest",
        choices=(RUN, MODULE, TEST),
        default=RUN,
        help="what begins with a pristine kernel: the run (default), each module, each test",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


Started: TypeAlias = AbstractContextManager[Guest]


@dataclass(frozen=True)
class Place:
    """Where tests run: this kernel where there is nothing to start."""

    name: str
    start: Callable[[], Started] | None = None
    word: str = HOST  # what --kernel calls it where there is no other


class Kernels:
    """The kernels of a run; none where it has no such dimension."""

    def __init__(self, config: pytest.Config) -> None:
        """Raises CatalogueError."""
        self._option = config.option
        self._checkout = config.rootpath
        words = list(dict.fromkeys(config.option.kernel))
        if AUTO in words and why_not_here() is None:
            words = [HOST if word == AUTO else word for word in words]
            words = [] if words == [HOST] else words
        words = [newest_here() if word == AUTO else word for word in words]
        self.here = not words or HOST in words
        boards = [word for word in words if word.startswith(board.SCHEME)]
        emulated = [word for word in words if word not in {HOST, *boards}]
        self.places = [
            *([Place(HOST)] if HOST in words else []),
            *(Place(board.name(word), self._start(board.connect, word), word) for word in boards),
            *(
                Place(one.name, self._start(session.start, one), word_for(one))
                for one in self._resolve(emulated)
            ),
        ]
        _refuse_doubles(self.places)

    def _start(self, start: Callable[..., Started], what: object) -> Callable[[], Started]:
        return partial(start, what, self._checkout)

    def _resolve(self, words: Sequence[str]) -> list[Kernel]:
        option = self._option
        return sources.resolve(
            words,
            catalogue.load(option.kernel_catalogue),
            append=option.kernel_append,
            memory_mib=option.guest_memory,
            cpus=option.guest_cpus,
            nodes=option.guest_nodes,
        )

    def of(self, nodeid: str) -> Place | None:
        """The place a node id names."""
        named = [
            place
            for place in self.places
            if nodeid.endswith((f"[{place.name}]", f"-{place.name}]"))
        ]
        return max(named, key=lambda place: len(place.name), default=None)

    @property
    def elsewhere(self) -> list[Place]:
        """The places that are not this kernel."""
        return [place for place in self.places if place.start]


def word_for(kernel: Kernel) -> str:
    """What --kernel calls a kernel: the name in a catalogue, or the path."""
    return str(kernel.path) if isinstance(kernel, LocalKernel) else kernel.name


def _refuse_doubles(places: Sequence[Place]) -> None:
    names = [place.name for place in places]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise CatalogueError(f"--kernel: {', '.join(doubles)} named more than once")


def newest_here() -> str:
    """The newest ordinary kernel of the catalogue that has this machine's architecture."""
    arch = MACHINES.get(platform.machine(), "amd64")
    return next(one.name for one in catalogue.load().resolve("latest") if one.arch == arch)


_KERNELS = pytest.StashKey[Kernels]()
_SESSION = pytest.StashKey[RemoteSession]()


def kernels(config: pytest.Config) -> Kernels:
    """The kernels of this run. Raises UsageError where one is unknown."""
    if _KERNELS not in config.stash:
        try:
            config.stash[_KERNELS] = Kernels(config)
        except (BoardError, CatalogueError) as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[_KERNELS]


def kernel_of(config: pytest.Config, nodeid: str) -> tuple[str, str]:
    """The kernel a node id names, "" in a run without that dimension, and the id without it."""
    place = kernels(config).of(nodeid) if "kernel" in config.option else None
    return (place.name, without_kernel(nodeid, place.name)) if place else ("", nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Find the kernels, or say which are meant, before anything is collected."""
    kernels(config)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say where tests run."""
    found = kernels(config)
    if not found.places:  # `auto` means this kernel
        return requirements(config).heading() if config.option.kernel else None
    names = ", ".join(place.name for place in found.places)
    return f"kernels: {names}" + (f"; {requirements(config).heading()}" if found.here else "")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Print the table of `--features` for each kernel but this one."""
    found = kernels(config)
    if not config.option.features or found.here:
        return None
    status = 0
    for place in found.places:
        if place.start:
            _show(f"{place.name}: ".encode())
            with place.start() as guest:
                command = ["python3", "-m", "pytest", "--features"]
                status = max(status, guest.run(command, _show))
    return status


def _show(data: bytes) -> None:
    sys.stdout.write(data.decode(errors="replace"))
    sys.stdout.flush()


# The dimension


@pytest.fixture(scope="session")
def kernel(request: pytest.FixtureRequest) -> str:
    """The name of the kernel a test runs on."""
    return str(request.param)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Add the dimension last, so that the rest of the id is the one inside a guest."""
    names = [place.name for place in kernels(metafunc.config).places]
    if names:
        metafunc.fixturenames.append("kernel")
        metafunc.parametrize("kernel", names, indirect=True, scope="session")


@pytest.hookimpl(hookwrapper=True, tryfirst=True)  # pytest 7.2 has no other wrappers
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, None]:
    """Run one kernel's tests after the other's, whoever else sorts them."""
    found = kernels(config)
    for item in items if found.places else ():
        if found.of(item.nodeid) is None:
            raise pytest.UsageError(
                f"{item.nodeid} is no test function, and cannot be run on other kernels"
            )
    yield
    if found.places:
        order = [place.name for place in found.places]
        items.sort(key=lambda item: order.index(_place(item).name))


def _place(item: pytest.Item) -> Place:
    place = kernels(item.config).of(item.nodeid)
    if place is None:
        raise LookupError(item.nodeid)
    return place


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """Keep a kernel's tests together."""
    if not kernels(config).elsewhere:
        return None
    from plugins.kernel_scheduling import KernelScheduling  # noqa: PLC0415 - xdist is optional

    return KernelScheduling(config, log, kernels(config))


# Running


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test in its guest."""
    if not kernels(item.config).places:
        return None
    place = _place(item)
    remote = item.config.stash.get(_SESSION, None)
    if remote and remote.name != place.name:
        _close(item.config)
        remote = None
    if place.start is None:
        return None
    if remote is None:
        modules = {
            inside_nodeid(one, place.name).partition("::")[0]
            for one in item.session.items
            if _place(one) is place
        }
        remote = RemoteSession(item.config, place.name, place.start, sorted(modules))
        item.config.stash[_SESSION] = remote
    follows = _follower(item, nextitem, place)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(remote, item, follows):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    if follows is None:
        remote.close()
    return True


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item) -> bool | None:
    """No timer here for a test in a guest: its time begins there, once it has booted."""
    found = kernels(item.config)
    return True if found.places and _place(item).start else None


def _follower(item: pytest.Item, nextitem: pytest.Item | None, place: Place) -> str | None:
    """The id in the guest of the next test to run in the same one."""
    fresh = item.config.getoption("fresh_guest")
    if nextitem is None or _place(nextitem) is not place or fresh == TEST:
        return None
    if fresh == MODULE and nextitem.path != item.path:
        return None
    return inside_nodeid(nextitem, place.name)


def _reports(
    remote: RemoteSession, item: pytest.Item, follows: str | None
) -> Generator[pytest.TestReport]:
    """The reports of a test; its failure where the guest is lost with it or cannot be had."""
    try:
        yield from remote.run(item, follows)
    except LostGuest as error:
        when = "setup" if isinstance(error, NotStarted) else "call"
        defect = fingerprint(error.console)
        why = f"{remote.name}: {error.why}" + (f"\nfingerprint: {defect}" if defect else "")
        report = _failure(item, when, why, "\n".join(error.console) or "(nothing)")
        report.user_properties += [(PROPERTY, defect)] if defect else []
        yield report
    except RefusedError as error:
        yield _failure(item, "setup", f"{remote.name}: {error}")
    except CANNOT_START as error:
        yield _failure(item, "setup", f"{remote.name} cannot be tested: {error}")


def _failure(item: pytest.Item, when: str, why: str, console: str = "") -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed",
        longrepr=why,
        when=when,  # type: ignore[arg-type]
        sections=[(CONSOLE, console)] if console else [],
    )


def _close(config: pytest.Config) -> None:
    if remote := config.stash.get(_SESSION, None):
        remote.close()
        del config.stash[_SESSION]


def pytest_unconfigure(config: pytest.Config) -> None:
    """No guest outlives the run."""
    _close(config)
