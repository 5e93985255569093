# SPDX-License-Identifier: GPL-2.0
"""Delay accounting of a task over netlink (Documentation/accounting/taskstats.rst).

pyroute2 knows version 15 of struct taskstats alone in full, so the one number that is wanted is
taken from its place in the struct, which is the same on all architectures.
"""

import struct
from typing import Any

from pyroute2.netlink import nla
from pyroute2.netlink.taskstats import AsyncTaskStats, TaskStats, taskstatsmsg

OLDEST_VERSION = 13  # the first with wpcopy_count; Linux 6.0
WPCOPY_COUNT = 400  # offsetof(struct taskstats, wpcopy_count)
# Version 15 put a maximum and a minimum behind each of the six totals before; 16 moved them away.
WPCOPY_COUNT_OF_15 = WPCOPY_COUNT + 6 * 2 * 8


class DelayMessage(taskstatsmsg):  # type: ignore[misc]  # pyroute2 has no types
    """A reply whose struct taskstats stays as it came."""

    class aggr_pid(nla):  # type: ignore[misc]  # noqa: N801 pyroute2 looks it up
        """The reply's nest for one task."""

        nla_map = (
            ("TASKSTATS_TYPE_UNSPEC", "none"),
            ("TASKSTATS_TYPE_PID", "uint32"),
            ("TASKSTATS_TYPE_TGID", "uint32"),
            ("TASKSTATS_TYPE_STATS", "cdata"),
        )


class AsyncDelaySocket(AsyncTaskStats):  # type: ignore[misc]
    """The netlink socket that decodes DelayMessage."""

    async def bind(self) -> None:
        """Look the family TASKSTATS up. Raises pyroute2's NetlinkError without CONFIG_TASKSTATS."""
        await super(AsyncTaskStats, self).bind("TASKSTATS", DelayMessage)


class DelaySocket(TaskStats):  # type: ignore[misc]
    """Delay accounting of tasks, in the calling thread."""

    async_class = AsyncDelaySocket


def copies_in(message: Any) -> int:
    """wpcopy_count of a reply. Raises ValueError for a kernel that does not count."""
    statistics = message.get_attr("TASKSTATS_TYPE_AGGR_PID").get_attr("TASKSTATS_TYPE_STATS")
    (version,) = struct.unpack_from("=H", statistics)
    if version < OLDEST_VERSION:
        raise ValueError(
            f"struct taskstats is version {version}; wpcopy_count came with {OLDEST_VERSION}"
        )
    place = WPCOPY_COUNT_OF_15 if version == 15 else WPCOPY_COUNT
    return int(struct.unpack_from("=Q", statistics, place)[0])


def copy_on_write_count(socket: DelaySocket, tid: int) -> int:
    """wpcopy_count: pages the task copied in write-protection faults.

    Counted only for tasks started with kernel.task_delayacct=1.
    """
    (message,) = socket.get_pid_stat(tid)
    return copies_in(message)
