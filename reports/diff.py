# SPDX-License-Identifier: GPL-2.0
"""What differs between two runs, kernel by kernel.

A test is slower beyond noise where it took SLOWER_S and SLOWER_TIMES longer than before, and where
that stands out of the kernel's other tests of the same two runs: the logarithm of the ratio of its
two durations is more than DEVIATIONS standard deviations above their median. The deviation is
estimated by the median of absolute deviations, which outliers do not move. So a machine that was
busier makes no test slower, and a noisy one asks for more. Fewer than LEAST tests are not judged.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from reports.history import FAILING, alike, gist, place
from reports.records import Outcome, Run
from reports.shown import line

SLOWER_S = 0.2
SLOWER_TIMES = 1.5
DEVIATIONS = 5
MAD = 1.4826  # the standard deviation of normal noise over its median absolute deviation
LEAST = 10

Tests = dict[str, Outcome]


@dataclass(frozen=True)
class Slower:
    """A test, s before and now, and how many times longer the kernel's tests took in the median."""

    test: str
    before: float
    now: float
    others: float


@dataclass
class Difference:
    """What became of one kernel's tests."""

    kernel: str
    releases: tuple[str, str]
    failing: list[tuple[Outcome | None, Outcome]] = field(default_factory=list)  # before and now
    fixed: list[tuple[Outcome, Outcome]] = field(default_factory=list)
    expected: list[Outcome] = field(default_factory=list)
    skipped: list[Outcome] = field(default_factory=list)
    gone: list[Outcome] = field(default_factory=list)
    new: list[Outcome] = field(default_factory=list)
    slower: list[Slower] = field(default_factory=list)
    same: int = 0

    def lines(self) -> Iterator[str]:
        """For people; nothing where nothing differs."""
        old, new = map(line, self.releases)
        parts = [
            ("new failures", [self._failure(*pair) for pair in self.failing]),
            ("fixed", [f"{line(now.test)} (was {before.result})" for before, now in self.fixed]),
            ("newly expected to fail", [_told(one) for one in self.expected]),
            ("newly skipped", [_told(one) for one in self.skipped]),
            ("gone", [f"{line(one.test)} (was {one.result})" for one in self.gone]),
            ("new tests", [f"{line(one.test)} ({one.result})" for one in self.new]),
            ("slower beyond noise", list(map(_slow, self.slower))),
        ]
        if any(told for _, told in parts):
            releases = f"{old} -> {new}" if old != new else old
            yield f"{line(self.kernel)} ({releases}), {self.same} tests as before"
        for title, told in parts:
            if told:
                yield f"  {title}: {len(told)}"
                yield from (f"    {text}" for text in told)

    def _failure(self, before: Outcome | None, now: Outcome) -> str:
        was = f"was {before.result}" if before else "a new test"
        return f"{_told(now)} ({was})"


def _told(outcome: Outcome) -> str:
    said = line(gist(outcome), 160)
    return line(outcome.test) + (f": {said}" if said else "")


def _slow(one: Slower) -> str:
    return (
        f"{line(one.test)}: {one.before:.2f} s -> {one.now:.2f} s, "
        f"{one.now / one.before:.1f} times; others {one.others:.1f}"
    )


def differences(before: Run, now: Run) -> list[Difference]:
    """Of each kernel; where both runs have but one, these are compared, whatever their names."""
    old, new = _by_kernel(before), _by_kernel(now)
    pairs = [(kernel, kernel) for kernel in dict.fromkeys((*new, *old))]
    if len(old) == len(new) == 1:
        pairs = [(next(iter(old)), next(iter(new)))]
    return [_difference(a, b, old.get(a, {}), new.get(b, {})) for a, b in pairs]


def _by_kernel(run: Run) -> dict[str, Tests]:
    found: dict[str, Tests] = {}
    for outcome in run.tests:
        found.setdefault(place(outcome), {})[outcome.test] = outcome
    return found


def _difference(a: str, b: str, old: Tests, new: Tests) -> Difference:
    kernel = a if a == b else f"{a} -> {b}"
    found = Difference(kernel, (_release(old), _release(new)))
    for test in sorted(old.keys() | new.keys()):
        _take(found, old.get(test), new.get(test))
    found.slower = slower(old, new)
    return found


def _release(tests: Tests) -> str:
    return next((one.kernel_release for one in tests.values() if one.kernel_release), "not run")


def _take(found: Difference, before: Outcome | None, now: Outcome | None) -> None:
    failed = before is not None and before.result in FAILING
    if now is None:
        if before:
            found.gone.append(before)
    elif now.result in FAILING:
        if failed:
            found.same += 1
        else:
            found.failing.append((before, now))
    elif before is None:
        found.new.append(now)
    elif now.result == "skip":
        _sort(
            found, now, found.skipped, is_new=before.result != "skip" or alike(before) != alike(now)
        )
    elif now.result == "xfail":
        _sort(found, now, found.expected, is_new=before.result != "xfail")
    elif failed or (before.result == "xfail" and now.result in {"pass", "xpass"}):
        found.fixed.append((before, now))
    else:
        found.same += 1


def _sort(found: Difference, now: Outcome, into: list[Outcome], *, is_new: bool) -> None:
    if is_new:
        into.append(now)
    else:
        found.same += 1


def slower(old: Tests, new: Tests) -> list[Slower]:
    """The tests that took longer beyond noise, worst first."""
    ratios = {
        test: math.log(new[test].duration / old[test].duration)
        for test in old.keys() & new.keys()
        if _ran(old[test]) and _ran(new[test])
    }
    if len(ratios) < LEAST:
        return []
    middle = median(ratios.values())
    deviation = MAD * median(abs(ratio - middle) for ratio in ratios.values())
    limit = middle + max(DEVIATIONS * deviation, math.log(SLOWER_TIMES))
    found = [
        Slower(test, old[test].duration, new[test].duration, math.exp(middle))
        for test, ratio in ratios.items()
        if ratio > limit and new[test].duration - old[test].duration > SLOWER_S
    ]
    return sorted(found, key=lambda one: one.before / one.now)


def _ran(outcome: Outcome) -> bool:
    return outcome.result != "skip" and outcome.duration > 0


def summary(found: Sequence[Difference]) -> str:
    """The last line: which kernels have new failures."""
    bad = [f"{line(one.kernel)} ({len(one.failing)})" for one in found if one.failing]
    total = sum(len(one.failing) for one in found)
    return f"{total} new failures: {', '.join(bad)}" if bad else "no new failures"
