# SPDX-License-Identifier: GPL-2.0
"""Transparent huge pages: /sys/kernel/mm/transparent_hugepage.

Source: Documentation/admin-guide/mm/transhuge.rst.
"""

from pathlib import Path

from uapi.libc import PAGE_SIZE
from uapi.settings import Counter, Setting, SettingsDirectory


class Thp(SettingsDirectory):
    """Settings of huge pages."""

    default_root = Path("/sys/kernel/mm/transparent_hugepage")

    enabled = Setting(str)  # always, madvise, never
    defrag = Setting(str)
    hpage_pmd_size = Counter()  # bytes

    def pmd_pages(self) -> int:
        """Base pages in a huge page."""
        return self.hpage_pmd_size // PAGE_SIZE


class Khugepaged(SettingsDirectory):
    """Settings of the daemon that collapses."""

    default_root = Path("/sys/kernel/mm/transparent_hugepage/khugepaged")

    pages_to_scan = Setting(int)
    scan_sleep_millisecs = Setting(int)
    alloc_sleep_millisecs = Setting(int)
    max_ptes_none = Setting(int)  # empty or zero-page PTEs a collapse may fill
    max_ptes_shared = Setting(int)
    max_ptes_swap = Setting(int)
    full_scans = Counter()
    pages_collapsed = Counter()
