# SPDX-License-Identifier: GPL-2.0
"""The copy-on-write count of delay accounting, as a witness of its own."""

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from lease.membership import Membership
from mm.process import Process
from plugins.features import release_numbers

CopyCount: TypeAlias = Callable[[Process], int]
OLDEST_PYROUTE2 = "0.9"  # the first with AsyncTaskStats


@pytest.fixture(scope="session")
def copy_count(membership: Membership) -> Iterator[CopyCount]:
    """wpcopy_count of a process's only thread: pages it copied in write faults since its birth."""
    found = importlib.metadata.version("pyroute2")
    if release_numbers(found) < release_numbers(OLDEST_PYROUTE2):
        pytest.skip(f"wpcopy_count is read by pyroute2 {OLDEST_PYROUTE2}; this is {found}")
    # Netlink takes as long to import as all else together, and few tests ask for it.
    taskstats = importlib.import_module("uapi.taskstats")
    with taskstats.DelaySocket() as delays:
        delays.bind()
        yield lambda process: int(taskstats.copy_on_write_count(delays, process.pid))
