# SPDX-License-Identifier: GPL-2.0
"""khugepaged for one test: started when the test says so, and as it was before afterwards."""

import time
from collections.abc import Callable, Iterator

import pytest

from lease import journal
from plugins.ksm import KsmAlone
from uapi.thp import Khugepaged, Thp

PASSES = 20  # khugepaged needs one; a page just locked or isolated makes it come back
STALL_DEADLINE = 60.0  # s without a pass
POLL = 0.002  # s


class KhugepagedStalled(Exception):
    """khugepaged does not advance."""


class KhugepagedAlone:
    """khugepaged, hurried."""

    def __init__(self) -> None:
        self.settings = Khugepaged()

        self.stop()
        self.settings.pages_to_scan = 1 << 20
        self.settings.alloc_sleep_millisecs = 10
        self.settings.scan_sleep_millisecs = 1

    def start(self, *, max_ptes_none: int) -> None:
        """Let it collapse ranges with so many PTEs that are empty or map the zero page."""
        self.settings.max_ptes_none = max_ptes_none

    def stop(self) -> None:
        """Let it collapse no range that has such a PTE; it scans on, as a new mm wakes it anyway.

        MADV_COLLAPSE does not ask for max_ptes_none.
        """
        self.settings.max_ptes_none = 0

    def wait_until(self, done: Callable[[], bool], passes: int = PASSES) -> bool:
        """Wait until `done()`, for at most so many passes. Raises KhugepagedStalled."""
        last = self.settings.full_scans
        final = last + passes + 1
        stalled_at = time.monotonic() + STALL_DEADLINE
        while not done():
            current = self.settings.full_scans
            if current >= final:
                return done()
            if current != last:
                last, stalled_at = current, time.monotonic() + STALL_DEADLINE
            elif time.monotonic() > stalled_at:
                raise KhugepagedStalled(
                    f"khugepaged has not finished a pass for {STALL_DEADLINE:.0f} s: "
                    f"{self.settings.values()}"
                )
            time.sleep(POLL)
        return True

    def wait_for_passes(self, passes: int = 2) -> None:
        """Let it pass over all memory."""
        self.wait_until(lambda: False, passes)


@pytest.fixture
def khugepaged(ksm_alone: KsmAlone) -> Iterator[KhugepagedAlone]:
    """khugepaged, held back until it is started; `enabled` is madvise meanwhile."""
    before = journal.take()
    Thp().enabled = "madvise"
    yield KhugepagedAlone()
    settings = {name: value for name, value in before.values.items() if journal.THP in name}
    if problems := journal.apply(settings):
        pytest.fail("settings of huge pages not restored: " + "; ".join(problems), pytrace=False)
