# SPDX-License-Identifier: GPL-2.0
"""`--kernel`: the same tests on other kernels, in guests and on boards, in parallel.

Every test gets a dimension of kernels, `test_write_fault_unshares[7.2-arm64]`. pytest-xdist gives
a worker one kernel after another; `plugins.elsewhere` has it run the tests there.
"""

import argparse
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from plugins.requirements import requirements, why_not_here

if TYPE_CHECKING:
    from guests.guest import Guest

HOST = "host"
AUTO = "auto"
RUN, MODULE, TEST = "run", "module", "test"  # of --fresh-guest


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


@dataclass(frozen=True)
class Place:
    """Where tests run: this kernel where there is nothing to start."""

    name: str
    start: "Callable[[], AbstractContextManager[Guest]] | None" = None
    word: str = HOST  # what --kernel calls it where there is no other


class Kernels:
    """The kernels of a run; none where it has no such dimension."""

    def __init__(self, config: pytest.Config) -> None:
        """Raises UsageError where one is unknown."""
        words = list(dict.fromkeys(config.option.kernel))
        if AUTO in words and why_not_here() is None:
            words = [HOST if word == AUTO else word for word in words]
            words = [] if words == [HOST] else words
        self.here = not words or HOST in words
        self.places: list[Place] = []
        if words:
            from plugins import elsewhere  # noqa: PLC0415 - a run without guests is spared of them

            self.places = elsewhere.places(words, config)

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


_KERNELS = pytest.StashKey[Kernels]()


def kernels(config: pytest.Config) -> Kernels:
    """The kernels of this run. Raises UsageError where one is unknown."""
    if _KERNELS not in config.stash:
        config.stash[_KERNELS] = Kernels(config)
    return config.stash[_KERNELS]


def place_of(item: pytest.Item) -> Place:
    """Where a test runs, in a run that has that dimension. Raises LookupError."""
    place = kernels(item.config).of(item.nodeid)
    if place is None:
        raise LookupError(item.nodeid)
    return place


def without_kernel(nodeid: str, name: str) -> str:
    """A node id less the kernel it names."""
    if nodeid.endswith(f"[{name}]"):
        return nodeid.removesuffix(f"[{name}]")
    return nodeid.removesuffix(f"-{name}]") + "]"


def kernel_of(config: pytest.Config, nodeid: str) -> tuple[str, str]:
    """The kernel a node id names, "" in a run without that dimension, and the id without it."""
    place = kernels(config).of(nodeid) if "kernel" in config.option else None
    return (place.name, without_kernel(nodeid, place.name)) if place else ("", nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Find the kernels, or say which are meant, before anything is collected."""
    if kernels(config).elsewhere:
        from plugins import elsewhere  # noqa: PLC0415 - see Kernels

        config.pluginmanager.register(elsewhere)


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
        items.sort(key=lambda item: order.index(place_of(item).name))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """Keep a kernel's tests together."""
    if not kernels(config).elsewhere:
        return None
    from plugins.kernel_scheduling import KernelScheduling  # noqa: PLC0415 - xdist is optional

    return KernelScheduling(config, log, kernels(config))
