# SPDX-License-Identifier: GPL-2.0
"""Delay accounting of a task over netlink (Documentation/accounting/taskstats.rst).

pyroute2 decodes version 15 of struct taskstats alone in full. Its maximum and minimum delays lie
between the older fields only there: 13 and 14 have none yet, 16 and 17 moved them to the end.
"""

import struct
from typing import Any

from pyroute2.netlink import nla_struct
from pyroute2.netlink.taskstats import AsyncTaskStats, TaskStats, TStatsBase, taskstatsmsg

INTERLEAVED_VERSION = 15
OLDEST_VERSION = 13  # the first with wpcopy_count; Linux 6.0

_TAIL = (
    ("freepages_count", "Q"),
    ("freepages_delay_total", "Q"),
    ("thrashing_count", "Q"),
    ("thrashing_delay_total", "Q"),
    ("ac_btime64", "Q"),
    ("compact_count", "Q"),
    ("compact_delay_total", "Q"),
    ("ac_tgid", "I"),
    ("ac_tgetime", "Q"),
    ("ac_exe_dev", "Q"),
    ("ac_exe_inode", "Q"),
    ("wpcopy_count", "Q"),
    ("wpcopy_delay_total", "Q"),
)


class AppendedStats(nla_struct):  # type: ignore[misc]  # pyroute2 has no types
    """struct taskstats of versions 13, 14, 16 and 17 up to wpcopy_delay_total."""

    fields = TStatsBase.tstats_vB.fields + _TAIL


def _layout(_message: Any, *_: object, data: bytes, offset: int, **__: object) -> type[nla_struct]:
    """The layout of an attribute, whose payload begins with the version as a 16-bit number."""
    version = struct.unpack_from("H", data, offset + struct.calcsize("HH"))[0]
    if version < OLDEST_VERSION:
        raise ValueError(
            f"struct taskstats is version {version}; wpcopy_count came with {OLDEST_VERSION}"
        )
    return TStatsBase.tstats_v15 if version == INTERLEAVED_VERSION else AppendedStats


class DelayMessage(taskstatsmsg):  # type: ignore[misc]
    """A reply whose statistics are decoded by their version."""

    class aggr_pid(taskstatsmsg.aggr_pid):  # type: ignore[misc]  # noqa: N801 pyroute2 looks it up
        """The reply's nest for one task."""

        versioned_stats = staticmethod(_layout)


class AsyncDelaySocket(AsyncTaskStats):  # type: ignore[misc]
    """The netlink socket that decodes DelayMessage."""

    async def bind(self) -> None:
        """Look the family TASKSTATS up. Raises pyroute2's NetlinkError without CONFIG_TASKSTATS."""
        await super(AsyncTaskStats, self).bind("TASKSTATS", DelayMessage)


class DelaySocket(TaskStats):  # type: ignore[misc]
    """Delay accounting of tasks, in the calling thread."""

    async_class = AsyncDelaySocket


def copy_on_write_count(socket: DelaySocket, tid: int) -> int:
    """wpcopy_count: pages the task copied in write-protection faults.

    Counted only for tasks started with kernel.task_delayacct=1.
    """
    (message,) = socket.get_pid_stat(tid)
    aggregate = message.get_attr("TASKSTATS_TYPE_AGGR_PID")
    return int(aggregate.get_attr("TASKSTATS_TYPE_STATS")["wpcopy_count"])
