# SPDX-License-Identifier: GPL-2.0
"""How many copies of KSM pages the kernel counts (cow_ksm of vmstat) while a test makes some.

The count is the system's: copies that other programs make meanwhile come on top, and nothing takes
any away.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise

from mm.region import Region, unique_tokens
from uapi.vmstat import read_vmstat

MOST_ROUNDS = 20

Step = Callable[[], object]


def writes(region: Region) -> list[Step]:
    """A write to each page of the region."""
    tokens = unique_tokens(region.pages)
    return [partial(region.write, page, token) for page, token in enumerate(tokens)]


def copies_of_each(steps: Iterable[Step]) -> list[int]:
    """How many copies the system makes during each of the steps."""
    counts = [read_vmstat()["cow_ksm"]]
    for step in steps:
        step()
        counts.append(read_vmstat()["cow_ksm"])
    return [after - before for before, after in pairwise(counts)]


def assert_copies_of_each(steps_of_a_round: Callable[[], list[Step]], expected: list[int]) -> None:
    """Each step makes so many copies, in the round in which others make the fewest meanwhile."""
    least = copies_of_each(steps_of_a_round())
    for _ in range(MOST_ROUNDS - 1):
        if least == expected:
            break
        least = list(map(min, least, copies_of_each(steps_of_a_round())))
    assert least == expected, f"the least of {MOST_ROUNDS} rounds"
