# SPDX-License-Identifier: GPL-2.0
"""KSM's interface: /sys/kernel/mm/ksm, /proc/PID/ksm_stat and /proc/PID/ksm_merging_pages.

Sources: Documentation/admin-guide/mm/ksm.rst, mm/ksm.c, fs/proc/base.c.
"""

import contextlib
import os
import re
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from uapi.settings import Counter, Setting, SettingsDirectory, switch

PROC = Path("/proc")
_RMAP_ITEMS = re.compile(rb"ksm_rmap_items (\d+)")
_ZERO_PAGES = re.compile(rb"ksm_zero_pages (-?\d+)")


class RunState(IntEnum):
    """Values of /sys/kernel/mm/ksm/run."""

    STOP = 0  # keep what is merged
    MERGE = 1  # scan and merge
    UNMERGE = 2  # unmerge every process's pages, then stop


class Ksm(SettingsDirectory):
    """/sys/kernel/mm/ksm: settings are assignable, counters are not."""

    default_root = Path("/sys/kernel/mm/ksm")

    run = Setting(lambda text: RunState(int(text)), lambda state: str(int(state)))
    sleep_millisecs = Setting(int)  # ms between batches
    pages_to_scan = Setting(int)  # pages in a batch; EINVAL while an advisor is on
    use_zero_pages = switch()
    max_page_sharing = Setting(int)  # PTEs per KSM page, >= 2; EBUSY while pages are shared
    merge_across_nodes = switch()  # EBUSY while pages are shared; CONFIG_NUMA
    stable_node_chains_prune_millisecs = Setting(int)
    smart_scan = switch()  # 6.7
    advisor_mode = Setting(str)  # none, scan-time; 6.8
    advisor_max_cpu = Setting(int)  # percent
    advisor_min_pages_to_scan = Setting(int)
    advisor_max_pages_to_scan = Setting(int)
    advisor_target_scan_time = Setting(int)  # s

    full_scans = Counter()  # run=2 sets it back to 0
    pages_shared = Counter()
    pages_sharing = Counter()
    pages_unshared = Counter()
    pages_volatile = Counter()
    pages_scanned = Counter()  # 6.6
    pages_skipped = Counter()  # 6.7
    ksm_zero_pages = Counter()  # 6.6
    general_profit = Counter()  # bytes, may be negative; 6.4
    stable_node_chains = Counter()
    stable_node_dups = Counter()

    def rmap_items(self) -> int:
        """Items of all mms: shown nowhere, but each is counted in one of these four."""
        return self.pages_shared + self.pages_sharing + self.pages_unshared + self.pages_volatile


class ProcessStat(NamedTuple):
    """/proc/PID/ksm_stat, pages unless said otherwise; None where the kernel has no such line."""

    rmap_items: int | None
    zero_pages: int | None  # 6.6
    merging_pages: int | None
    process_profit: int | None  # bytes; 6.4


def parse_process_stat(text: str) -> ProcessStat:
    """Parse ksm_stat; `ksm_merge_any: yes` and the like are left out.

    Raises ValueError for a line that is neither form.
    """
    values: dict[str, int] = {}
    for line in text.splitlines():
        name, value = line.split()
        if not name.endswith(":"):
            values[name] = int(value)
    return ProcessStat(
        values.get("ksm_rmap_items"),
        values.get("ksm_zero_pages"),
        values.get("ksm_merging_pages"),
        values.get("ksm_process_profit"),
    )


def process_stat(pid: int) -> ProcessStat:
    """KSM's account of one mm. Raises OSError once the process is gone."""
    return parse_process_stat(Path(PROC, str(pid), "ksm_stat").read_text())


def merging_pages(pid: int) -> int:
    """/proc/PID/ksm_merging_pages: pages of the mm that share a KSM page (5.19)."""
    return int(Path(f"/proc/{pid}/ksm_merging_pages").read_text())


def ksmd_pid() -> int:
    """The number of ksmd.

    Raises LookupError where ksmd is not to be seen, in a PID namespace for instance.
    """
    for path in PROC.glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text() == "ksmd\n" and not (path.parent / "cmdline").read_bytes():
                return int(path.parent.name)
    raise LookupError("no kernel thread is called ksmd")


def ksmd_clock() -> int:
    """The clock of the processor time ksmd has spent: for time.clock_gettime_ns().

    Raises LookupError where ksmd is not to be seen.
    """
    # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel's posix-timers.h.
    return ~ksmd_pid() << 3 | 2


def zero_pages_of_others(own: frozenset[int]) -> int:
    """KSM-placed zero pages in every mm but those of `own`: what the others add to the total.

    Threads and CLONE_VM siblings share an mm; the sum counts a vfork child twice while it lives.
    """
    total = 0
    for name in os.listdir("/proc"):  # noqa: PTH208 read for every assertion: bytes, not objects
        if name.isdigit() and int(name) not in own:
            match = _ZERO_PAGES.search(_read_at_once(f"/proc/{name}/ksm_stat"))
            total += int(match[1]) if match else 0
    return total


class Share(NamedTuple):
    """What some processes have in the system's books, pages."""

    rmap_items: int
    merging_pages: int  # of these


def share_of_others(own: frozenset[int]) -> Share:
    """The share of every mm but those of `own`; threads and CLONE_VM siblings count once each."""
    items = merging = 0
    for name in os.listdir("/proc"):  # noqa: PTH208 as above
        if name.isdigit() and int(name) not in own:
            match = _RMAP_ITEMS.search(_read_at_once(f"/proc/{name}/ksm_stat"))
            if match and int(match[1]):
                items += int(match[1])
                merging += int(_read_at_once(f"/proc/{name}/ksm_merging_pages") or 0)
    return Share(items, merging)


def _read_at_once(path: str) -> bytes:
    """A small file's content; nothing for a kernel thread, or a process that is gone."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, ProcessLookupError):
        return b""
    try:
        return os.read(fd, 4096)
    except ProcessLookupError:
        return b""
    finally:
        os.close(fd)
