# SPDX-License-Identifier: GPL-2.0
"""What a test makes in the kernel: groups of processes, swap, memory that goes bad or offline.

All of it is taken down when the test ends, and by the end of the run when pytest is killed.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from lease.belongings import belonging, note
from lease.membership import Membership
from uapi import cgroup as cgroups
from uapi import zram
from uapi.cgroup import Cgroup

_serial = itertools.count()

SWAP_PAGES = 8192  # the device holds no more than what is written to it


class Swap:
    """A device that is swapped to, before all others, from start() to stop()."""

    def __init__(self, number: int) -> None:
        self._number = number
        zram.prepare(number, SWAP_PAGES)

    def start(self) -> None:
        """swapon(2)."""
        zram.swap_on(self._number)

    def stop(self) -> None:
        """swapoff(2): all comes back."""
        zram.swap_off(self._number)


@pytest.fixture
def cgroup(lease: None, membership: Membership) -> Iterator[Cgroup]:
    """A group of processes of the test's own, with memory and cpuset controllers if there are."""
    top = cgroups.root()
    if top is None:
        pytest.fail("no cgroup2 hierarchy is mounted")
    for name in cgroups.missing_controllers(top):
        note(membership.directory, "controller", name)
    group = Cgroup(top / f"ksmtests-{os.getpid()}-{next(_serial)}")
    with belonging(membership.directory, "cgroup", str(group.path)):
        group.create()
        yield group


@pytest.fixture
def swap(lease: None, membership: Membership) -> Iterator[Swap]:
    """A device to swap to, which the test starts."""
    number = zram.create()
    with belonging(membership.directory, "swap device", str(number)):
        yield Swap(number)


@pytest.fixture
def condemn(lease: None, membership: Membership) -> Iterator[Callable[[int], None]]:
    """Tell of a page frame that is about to go bad: it is made good again.

    That needs the processes that map it to be gone: ask for this fixture before any process.
    """
    with ExitStack() as stack:
        yield lambda frame: stack.enter_context(
            belonging(membership.directory, "page frame", str(frame))
        )


@pytest.fixture
def offline(lease: None, membership: Membership) -> Iterator[Callable[[int], None]]:
    """Tell of a block of movable memory that is about to go offline: it is brought back."""
    with ExitStack() as stack:
        yield lambda block: stack.enter_context(
            belonging(membership.directory, "memory block", str(block))
        )
