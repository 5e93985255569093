# SPDX-License-Identifier: GPL-2.0
"""Tests run in guests and on boards, each in a pytest there, whose reports are taken over.

A plugin of runs that name other kernels with `--kernel` (`plugins.kernels`, which registers it).
"""

import platform
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from functools import partial

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
from plugins.kernels import AUTO, HOST, MODULE, TEST, Place, place_of
from plugins.remote import GivenUp, NotStarted, RemoteSession, inside_nodeid

CONSOLE = "console of the guest"  # the title of a report's section
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

_SESSION = pytest.StashKey[RemoteSession]()


def places(words: Sequence[str], config: pytest.Config) -> list[Place]:
    """What `--kernel` names. Raises UsageError."""
    words = [newest_here() if word == AUTO else word for word in words]
    boards = [word for word in words if word.startswith(board.SCHEME)]
    emulated = [word for word in words if word not in {HOST, *boards}]

    def starting(
        start: Callable[..., AbstractContextManager[Guest]], what: object
    ) -> Callable[[], AbstractContextManager[Guest]]:
        return partial(start, what, config.rootpath)

    try:
        found = [
            *([Place(HOST)] if HOST in words else []),
            *(Place(board.name(word), starting(board.connect, word), word) for word in boards),
            *(
                Place(one.name, starting(session.start, one), _word(one))
                for one in _resolved(emulated, config)
            ),
        ]
    except (BoardError, CatalogueError) as error:
        raise pytest.UsageError(str(error)) from error
    names = [place.name for place in found]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise pytest.UsageError(f"--kernel: {', '.join(doubles)} named more than once")
    return found


def _resolved(words: Sequence[str], config: pytest.Config) -> list[Kernel]:
    option = config.option
    return sources.resolve(
        words,
        catalogue.load(option.kernel_catalogue),
        append=option.kernel_append,
        memory_mib=option.guest_memory,
        cpus=option.guest_cpus,
        nodes=option.guest_nodes,
    )


def _word(kernel: Kernel) -> str:
    """What --kernel calls a kernel: the name in a catalogue, or the path."""
    return str(kernel.path) if isinstance(kernel, LocalKernel) else kernel.name


def newest_here() -> str:
    """The newest ordinary kernel of the catalogue that has this machine's architecture."""
    arch = MACHINES.get(platform.machine(), "amd64")
    return next(one.name for one in catalogue.load().resolve("latest") if one.arch == arch)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test in its guest."""
    place = place_of(item)
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
            if place_of(one) is place
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
    return True if place_of(item).start else None


def _follower(item: pytest.Item, nextitem: pytest.Item | None, place: Place) -> str | None:
    """The id in the guest of the next test to run in the same one."""
    fresh = item.config.getoption("fresh_guest")
    if nextitem is None or place_of(nextitem) is not place or fresh == TEST:
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
