# SPDX-License-Identifier: GPL-2.0
"""Allocations of the kernel that are made to fail: of slabs by failslab, of pages by
fail_page_alloc.

Source: Documentation/fault-injection/fault-injection.rst.
"""

from pathlib import Path

# Below the root, each a directory of settings.
FAILSLAB = "sys/kernel/debug/failslab"
FAIL_PAGE_ALLOC = "sys/kernel/debug/fail_page_alloc"


def countdown(pid: int) -> Path:
    """The task's file that counts its allocations down to the one that fails; 0 where none is to.

    It counts those alone that the settings let fail.
    """
    return Path(f"/proc/{pid}/fail-nth")


def marked_to_fail(pid: int) -> Path:
    """The task's file that holds 1 where failures by chance are for it, 0 elsewhere."""
    return Path(f"/proc/{pid}/make-it-fail")
