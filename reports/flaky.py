# SPDX-License-Identifier: GPL-2.0
"""Tests that now pass and now fail, on one kernel of one release.

The probability of a failure is the share of failures; the interval is Wilson's, of 95 %, which is
honest for few runs and shares near 0 and 1 (E. B. Wilson, JASA 22, 1927).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reports.history import place
from reports.records import Run
from reports.shown import line

Z = 1.959964  # of 95 %, two-sided
FAILS = frozenset(("fail", "error", "xfail"))
PASSES = frozenset(("pass", "xpass"))


@dataclass(frozen=True)
class Mixed:
    """A test with both results."""

    kernel: str
    release: str
    test: str
    failed: int
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        """Where the probability of a failure lies."""
        return wilson(self.failed, self.total)


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Wilson's score interval of a share."""
    share, square = hits / total, Z * Z
    middle = (share + square / (2 * total)) / (1 + square / total)
    spread = math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    half = Z * spread / (1 + square / total)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def mixed(runs: Sequence[Run]) -> list[Mixed]:
    """The tests with mixed results, by kernel and the likeliest to fail first.

    A guest that could not be had tells nothing of a test: such a result has no release.
    """
    counts: dict[tuple[str, str, str], list[bool]] = {}
    for run in runs:
        for one in run.tests:
            if one.kernel_release and one.result in FAILS | PASSES:
                key = place(one), one.kernel_release, one.test
                counts.setdefault(key, []).append(one.result in FAILS)
    found = [
        Mixed(*key, failed=sum(results), total=len(results))
        for key, results in counts.items()
        if any(results) and not all(results)
    ]
    return sorted(
        found, key=lambda one: (one.kernel, one.release, -one.failed / one.total, one.test)
    )


def lines(found: Sequence[Mixed], runs: int) -> Iterator[str]:
    """For people."""
    last = ("", "")
    for one in found:
        if (one.kernel, one.release) != last:
            last = (one.kernel, one.release)
            yield f"{line(one.kernel)} ({line(one.release)})"
        low, high = one.interval
        yield (
            f"  {one.failed:3} of {one.total:3} failed, {one.failed / one.total:4.0%} "
            f"({low:.0%} to {high:.0%}): {line(one.test)}"
        )
    yield f"{len(found)} tests with mixed results in {runs} runs"
