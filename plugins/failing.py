# SPDX-License-Identifier: GPL-2.0
"""Allocations of the kernel that fail for tasks that a test has chosen, and for nobody else.

All is as it was before when the test ends, and by the end of the run when pytest is killed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import pytest

from lease import journal
from plugins.ksm import KsmAlone
from uapi.fault_injection import FAIL_PAGE_ALLOC, FAILSLAB, countdown, marked_to_fail
from uapi.ksm import ksmd_pid
from uapi.settings import read_value, write_value

MAY_FAIL = {
    f"{FAILSLAB}/ignore-gfp-wait": "N",  # almost all of KSM's may wait, and would be let through
    f"{FAILSLAB}/cache-filter": "N",
    f"{FAIL_PAGE_ALLOC}/ignore-gfp-wait": "N",
    f"{FAIL_PAGE_ALLOC}/ignore-gfp-highmem": "Y",
    f"{FAIL_PAGE_ALLOC}/min-order": "0",
}
# Every allocation of a marked task fails. In this order: without the filter, all tasks are meant.
MARKED_FAIL = (
    {f"{each}/task-filter": "Y" for each in journal.FAULTS},
    {f"{each}/verbose": "0" for each in journal.FAULTS}
    | {f"{each}/times": "-1" for each in journal.FAULTS}
    | {f"{each}/probability": "100" for each in journal.FAULTS},
)


class Failing:
    """Which allocations may fail, and ksmd's that do. Processes have mm.failing."""

    @cached_property
    def _ksmd(self) -> int:
        return ksmd_pid()

    def include_user_pages(self) -> None:
        """Have memory of processes fail, too; it counts page faults of the interpreter as well."""
        write_value(Path("/", FAIL_PAGE_ALLOC, "ignore-gfp-highmem"), "N")

    def nth_of_ksmd(self, nth: int) -> None:
        """Have the nth allocation of ksmd, which is stopped, fail; 0 for none."""
        write_value(countdown(self._ksmd), str(nth))

    def ksmd_reached_it(self) -> bool:
        """Whether ksmd has made so many allocations."""
        return read_value(countdown(self._ksmd)) == "0"

    @contextmanager
    def all_of_ksmd(self) -> Iterator[None]:
        """Have every allocation of ksmd fail."""
        write_value(marked_to_fail(self._ksmd), "1")
        yield
        write_value(marked_to_fail(self._ksmd), "0")


@pytest.fixture
def allocations(ksm_alone: KsmAlone) -> Iterator[Failing]:
    """Slabs and page tables may fail from now on, wherever a test says so."""
    before = journal.take()
    for values in (MAY_FAIL, *MARKED_FAIL):
        if problems := journal.apply(values):
            pytest.fail("allocations are not made to fail: " + "; ".join(problems), pytrace=False)
    yield Failing()
    if problems := journal.apply(journal.of_faults(before.values)):
        pytest.fail("fault injection not restored: " + "; ".join(problems), pytrace=False)
