# SPDX-License-Identifier: GPL-2.0
"""The copy-on-write count of delay accounting, as a witness of its own."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from lease.membership import Membership
from mm.process import Process

CopyCount: TypeAlias = Callable[[Process], int]


@pytest.fixture(scope="session")
def copy_count(membership: Membership) -> Iterator[CopyCount]:
    """wpcopy_count of a process's only thread: pages it copied in write faults since its birth."""
    # Netlink is slow to import, and few tests ask for it.
    from uapi.taskstats import DelaySocket, copy_on_write_count

    with DelaySocket() as delays:
        delays.bind()
        yield lambda process: copy_on_write_count(delays, process.pid)
