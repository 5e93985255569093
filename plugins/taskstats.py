# SPDX-License-Identifier: GPL-2.0
"""The copy-on-write count of delay accounting, as a witness of its own."""

import importlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from lease.membership import Membership
from mm.process import Process

CopyCount: TypeAlias = Callable[[Process], int]


@pytest.fixture(scope="session")
def copy_count(membership: Membership) -> Iterator[CopyCount]:
    """wpcopy_count of a process's only thread: pages it copied in write faults since its birth."""
    # Netlink takes as long to import as all else together, and few tests ask for it.
    taskstats = importlib.import_module("uapi.taskstats")
    with taskstats.DelaySocket() as delays:
        delays.bind()
        yield lambda process: int(taskstats.copy_on_write_count(delays, process.pid))
