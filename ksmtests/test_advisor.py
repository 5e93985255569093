# SPDX-License-Identifier: GPL-2.0
"""The scan-time advisor: it sets pages_to_scan after each pass (ksm.rst, "Advisor").

What it computes is scan_time_advisor() of mm/ksm.c, done again in `Advisor` from what its
tracepoint tells of scan time and processor time. Where ksm.rst says more than the code does (a
lower limit for pages_to_scan), the documentation is taken, and the test marked as a known bug.
"""

import errno
import time
from dataclasses import dataclass

import pytest

from ksmtests.ksm_events import KsmEvent, named, only
from mm import scanning
from mm.region import Region, unique_tokens
from plugins.ksm import KsmAlone
from plugins.processes import RegionFactory
from uapi import ksm, tracefs
from uapi.ksm import Ksm, RunState
from uapi.libc import lib

pytestmark = [
    pytest.mark.scanning,
    pytest.mark.needs("ksm_advisor", "pages_scanned"),
]

DEFAULT_BATCH = 100  # pages; what pages_to_scan is without an advisor
EWMA_WEIGHT = 30  # percent, of the last change in the average of changes
LEAST_CPU = 10  # percent
FEW, MANY = 60, 2000  # pages; many are more than the advisor comes to while a pass rests
SLACK = 2  # percent; ksmd takes a little time after it has told of it


@dataclass
class Advisor:
    """The advisor, done again."""

    batch: int  # pages_to_scan now
    most: int
    target: int  # s
    most_cpu: int  # percent
    change: int = 0
    last_time: int = 0  # s

    def after(self, scan_time: int, cpu_percent: int) -> int:
        """pages_to_scan after a pass."""
        factor = self.target * 100 // scan_time or 1
        change = scan_time * 100 // (self.last_time or scan_time) or 1
        self.change = ((100 - EWMA_WEIGHT) * self.change + EWMA_WEIGHT * change) // 100
        self.last_time = scan_time
        pages = self.batch * 100 // factor * self.change // 100
        cost = self.batch // cpu_percent or 1
        self.batch = min(max(min(pages, cost * self.most_cpu), cost * LEAST_CPU), self.most)
        return self.batch


def advice(trace: tracefs.Instance) -> list[KsmEvent]:
    """What the advisor told so far."""
    return named(trace.events(), "ksm_advisor")


def to_scan(ksm_alone: KsmAlone, region: RegionFactory, pages: int) -> Ksm:
    """KSM stopped at the end of a pass, with so many pages to scan and no advisor."""
    different: Region = region(pages)
    different.fill(unique_tokens(different.pages))
    different.advise(lib.MADV_MERGEABLE)
    ksm_alone.stop()
    ksm_alone.pass_once()
    return ksm_alone.settings


@pytest.fixture
def settings(ksm_alone: KsmAlone, region: RegionFactory) -> Ksm:
    """A pass takes next to nothing."""
    return to_scan(ksm_alone, region, FEW)


@pytest.fixture
def with_many_pages(ksm_alone: KsmAlone, region: RegionFactory) -> Ksm:
    """A pass has many batches."""
    return to_scan(ksm_alone, region, MANY)


def pass_in_batches(settings: Ksm, pause: float = 0) -> None:
    """Have ksmd end a pass, batch by batch, and rest once for `pause` seconds within it."""
    passes = settings.full_scans
    scanning.batch_once(settings)
    time.sleep(pause)
    while settings.full_scans == passes:
        scanning.batch_once(settings)


def test_advisor_begins_with_its_minimum(settings: Ksm) -> None:
    """advisor_min_pages_to_scan is the initial value (ksm.rst, "Advisor")."""
    for least in (500, 7):
        settings.advisor_min_pages_to_scan = least
        settings.advisor_mode = "scan-time"
        assert settings.pages_to_scan == least
        settings.advisor_mode = "none"
        assert settings.pages_to_scan == DEFAULT_BATCH


def test_choosing_the_same_advisor_again_changes_nothing(settings: Ksm) -> None:
    """Neither pages_to_scan that was set without one, nor what the advisor has come to."""
    settings.pages_to_scan = 777
    settings.advisor_mode = "none"
    assert settings.pages_to_scan == 777
    settings.advisor_mode = "scan-time"
    pass_in_batches(settings)
    advised = settings.pages_to_scan
    assert advised != 500
    settings.advisor_mode = "scan-time"
    assert settings.pages_to_scan == advised


def test_advisor_keeps_pages_to_scan_to_itself(settings: Ksm) -> None:
    """pages_to_scan cannot be changed if advisor_mode has been set to scan-time (ksm.rst)."""
    settings.advisor_mode = "scan-time"
    advised = settings.pages_to_scan
    for value in (advised, 100):
        with pytest.raises(OSError) as refused:
            settings.pages_to_scan = value
        assert refused.value.errno == errno.EINVAL
    assert settings.pages_to_scan == advised
    settings.advisor_mode = "none"
    settings.pages_to_scan = 123
    assert settings.pages_to_scan == 123


def test_settings_of_the_advisor_wait_for_the_next_pass(settings: Ksm) -> None:
    """Its bounds change pages_to_scan at the end of a pass, and not when they are written."""
    settings.advisor_mode = "scan-time"
    settings.advisor_max_pages_to_scan = 20
    settings.advisor_min_pages_to_scan = 10
    settings.advisor_target_scan_time = 1
    assert settings.pages_to_scan == 500
    pass_in_batches(settings)
    assert settings.pages_to_scan == 20


def test_advisor_stays_below_its_maximum(settings: Ksm, ksm_alone: KsmAlone) -> None:
    """pages_to_scan grows with every pass that takes but a moment, and ends at the maximum."""
    ksm_alone.skip_beside_others("the time of a pass")
    settings.advisor_min_pages_to_scan = 3
    settings.advisor_max_pages_to_scan = 1000
    settings.advisor_target_scan_time = 1
    settings.advisor_mode = "scan-time"
    seen = [settings.pages_to_scan]
    for _ in range(20):
        pass_in_batches(settings)
        seen.append(settings.pages_to_scan)
    assert seen[0] == 3
    assert max(seen) == seen[-1] == 1000, seen
    settings.advisor_max_pages_to_scan = 50
    pass_in_batches(settings)
    assert settings.pages_to_scan == 50


def test_no_advisor_changes_nothing(settings: Ksm) -> None:
    """With none, pages_to_scan is what was set, however many passes are made."""
    settings.pages_to_scan = 17
    for _ in range(3):
        pass_in_batches(settings)
    assert settings.pages_to_scan == 17


@pytest.mark.needs("ksm_events", "ksmd_time")
@pytest.mark.parametrize(
    ("least", "most", "target", "most_cpu", "pauses"),
    [
        pytest.param(10, 10**6, 1, 70, (0, 6, 0, 0), id="slower, then faster"),
        pytest.param(1000, 10**6, 1, 11, (0, 0, 1.1, 0), id="little CPU"),
        pytest.param(50, 200, 200, 70, (0, 0, 0), id="few pages"),
    ],
)
def test_advice_follows_from_time_and_cpu(
    least: int,
    most: int,
    target: int,
    most_cpu: int,
    pauses: tuple[float, ...],
    with_many_pages: Ksm,
    trace: tracefs.Instance,
) -> None:
    """After each pass pages_to_scan is what mm/ksm.c computes from what the pass took."""
    settings = with_many_pages
    settings.advisor_min_pages_to_scan = least
    settings.advisor_max_pages_to_scan = most
    settings.advisor_target_scan_time = target
    settings.advisor_max_cpu = most_cpu
    settings.advisor_mode = "scan-time"
    advisor = Advisor(least, most, target, most_cpu)
    clock, spent = ksm.ksmd_clock(), 0
    for number, pause in enumerate(pauses):
        began = time.monotonic()
        pass_in_batches(settings, pause)
        took = time.monotonic() - began
        told = advice(trace)
        assert len(told) == number + 1, told
        last = told[-1]
        assert max(1, int(pause)) <= last.seconds <= max(1, took), f"pass {number}: {last}"
        before, spent = spent, time.clock_gettime_ns(clock)
        percent = (spent - before) * 100 // 10**9 // last.seconds
        if number:  # the first is charged with more, see test_first_advice_charges_one_pass
            assert abs(last.percent - max(percent, 1)) <= SLACK, f"pass {number}: {percent} %"
        expected = advisor.after(last.seconds, last.percent)
        assert last.pages == expected, f"pass {number}: {last}, {advisor}"
        assert settings.pages_to_scan == expected


@pytest.mark.needs("ksm_events")
def test_no_advisor_no_event(settings: Ksm, trace: tracefs.Instance) -> None:
    """The tracepoint is the advisor's alone."""
    pass_in_batches(settings)
    assert advice(trace) == []


@pytest.mark.upstream_bug("the advisor goes below advisor_min_pages_to_scan")
def test_advisor_stays_above_its_minimum(settings: Ksm) -> None:
    """It is the lower limit of pages_to_scan (ksm.rst, "KSM daemon sysfs interface").

    scan_time_advisor() looks at the maximum alone. The maximum is lowered here, and raised again,
    to have pages_to_scan below the minimum; the same comes of a ksmd that takes all the CPU.
    """
    settings.advisor_min_pages_to_scan = 500
    settings.advisor_mode = "scan-time"
    settings.advisor_max_pages_to_scan = 1
    pass_in_batches(settings)
    settings.advisor_max_pages_to_scan = 30000
    pass_in_batches(settings)
    assert settings.pages_to_scan >= 500


@pytest.mark.needs("ksm_events")
@pytest.mark.upstream_bug("the advisor's first pass is charged with all CPU time ksmd ever took")
def test_first_advice_charges_one_pass(settings: Ksm, trace: tracefs.Instance) -> None:
    """ksmd is one thread, and cannot have taken more than all of a CPU's time for a pass.

    set_advisor_defaults() sets the time it had taken before to 0. ksmd takes more than a second
    first, so that it shows.
    """
    clock = ksm.ksmd_clock()
    settings.run = RunState.MERGE
    assert scanning.wait_until(settings, lambda: time.clock_gettime(clock) > 2, passes=10**6)
    settings.run = RunState.STOP
    scanning.pass_once(settings)
    settings.advisor_mode = "scan-time"
    pass_in_batches(settings)
    first = only(advice(trace))
    assert first.percent <= 100


@pytest.mark.needs("ksm_events")
@pytest.mark.upstream_bug(
    "an advisor chosen during a pass takes the time since boot for its length"
)
def test_advisor_chosen_during_a_pass_knows_its_length(
    settings: Ksm, trace: tracefs.Instance
) -> None:
    """The first pass it advises on took no longer than there was time.

    set_advisor_defaults() sets the start of the pass to 0, which is the time of boot.
    """
    began = time.monotonic()
    settings.pages_to_scan = 10
    scanning.batch_once(settings)
    settings.advisor_mode = "scan-time"
    pass_in_batches(settings)
    first = only(advice(trace))
    assert first.seconds <= time.monotonic() - began + 1
