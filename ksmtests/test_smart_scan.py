# SPDX-License-Identifier: GPL-2.0
"""smart_scan: pages that did not merge are looked at more and more rarely.

Documentation/admin-guide/mm/ksm.rst says that how often they are skipped depends on how often
merging was tried; the schedule is that of should_skip_rmap_item() in mm/ksm.c. A page is skipped by
itself, so `skips` tells of each pass what happens to pages first seen in the first one.
"""

from collections.abc import Iterator

import pytest

from mm import scanning
from mm.process import Process
from mm.region import Region, unique_tokens
from plugins.evidence import Evidence
from plugins.ksm import EnterFirst, KsmAlone
from plugins.processes import RegionFactory
from uapi import ksm
from uapi.ksm import Ksm
from uapi.libc import lib
from uapi.pagemap import PageKind

pytestmark = [pytest.mark.scanning, pytest.mark.needs("smart_scan", "pages_scanned", "ksm_stat")]

YOUNG = 3  # passes in which a page is always looked at
OLDEST = 255  # an age has 8 bits; it stays there
PAGES = 16


def pause(age: int) -> int:
    """For how many passes a page of that age is skipped, once it has been looked at."""
    for oldest, passes in ((3, 1), (5, 2), (8, 4)):
        if age <= oldest:
            return passes
    return 8


def skips() -> Iterator[bool]:
    """Whether a page that never merges is skipped, pass by pass."""
    age = left = 0
    while True:
        tried, age = age, min(age + 1, OLDEST)
        if tried < YOUNG:
            yield False
        elif left:
            left -= 1
            yield True
        else:
            left = pause(tried)
            yield False


@pytest.fixture
def clever(ksm_alone: KsmAlone, process: Process, enter_first: EnterFirst) -> Ksm:
    """smart_scan is on, and ksmd stopped; nothing has an age yet."""
    ksm_alone.unmerge_all()
    enter_first(process)
    ksm_alone.settings.smart_scan = True
    return ksm_alone.settings


def mergeable(region: RegionFactory, pages: int = PAGES) -> Region:
    """Mergeable pages, none like another."""
    different = region(pages)
    different.fill(unique_tokens(pages))
    different.advise(lib.MADV_MERGEABLE)
    return different


class Passes:
    """What is counted in each pass, without the pages of other programs that rest."""

    def __init__(self, settings: Ksm, evidence: Evidence) -> None:
        self._settings = settings
        self._evidence = evidence

    def others(self) -> int:
        """Items of other programs' pages."""
        return ksm.share_of_others(self._evidence.pids()).rmap_items

    def make(self) -> tuple[int, int]:
        """Pages skipped and scanned in one pass."""
        settings = self._settings
        before = settings.pages_skipped, settings.pages_scanned
        scanning.pass_once(settings)
        return settings.pages_skipped - before[0], settings.pages_scanned - before[1]

    def assert_next(self, *, skipped: int, scanned: int, what: str) -> None:
        """The next pass skips and scans so many pages of the test's."""
        found = self.make()
        foreign = self.others()
        assert (skipped, scanned) <= found, f"{what}: skipped, scanned {found}"
        assert found[0] <= skipped + foreign, f"{what}: skipped {found[0]}, expected {skipped}"
        assert found[1] <= scanned + foreign, f"{what}: scanned {found[1]}, expected {scanned}"


@pytest.fixture
def passes(clever: Ksm, evidence: Evidence) -> Passes:
    """Pass by pass."""
    return Passes(clever, evidence)


def test_pages_are_skipped_by_age(passes: Passes, region: RegionFactory) -> None:
    """Looked at three times, then skipped 1, 2, 4 and 8 times in a row, and 8 for ever.

    More passes are made than an age can count.
    """
    pages = mergeable(region).pages
    for number, skipped in zip(range(1, OLDEST + 40), skips(), strict=False):
        passes.assert_next(
            skipped=pages if skipped else 0,
            scanned=0 if skipped else pages,
            what=f"pass {number}",
        )


def test_nothing_is_skipped_without_smart_scan(
    passes: Passes, clever: Ksm, region: RegionFactory
) -> None:
    """0 has every page looked at in every pass; switched on again, pages begin young."""
    pages = mergeable(region).pages
    clever.smart_scan = False
    for number in range(12):
        passes.assert_next(skipped=0, scanned=pages, what=f"pass {number} without")
    clever.smart_scan = True
    for number, skipped in zip(range(12), skips(), strict=False):
        passes.assert_next(
            skipped=pages if skipped else 0, scanned=0 if skipped else pages, what=f"pass {number}"
        )


def test_switching_off_ends_skipping(passes: Passes, clever: Ksm, region: RegionFactory) -> None:
    """Pages that were to be skipped for several passes are looked at in the next one."""
    pages = mergeable(region).pages
    for _ in range(7):  # the next pass would skip
        passes.make()
    clever.smart_scan = False
    passes.assert_next(skipped=0, scanned=pages, what="switched off")
    clever.smart_scan = True
    passes.assert_next(skipped=pages, scanned=0, what="switched on again")


@pytest.mark.needs("page_frames")
@pytest.mark.usefixtures("ksm_alone")
def test_merged_pages_are_never_skipped(passes: Passes, region: RegionFactory) -> None:
    """KSM pages are looked at in every pass, else what becomes of them would go unnoticed."""
    merged = region(PAGES)
    merged.advise(lib.MADV_MERGEABLE)
    for _ in range(3):
        passes.make()
    assert merged.count(PageKind.KSM) == merged.pages, merged.describe()
    for number in range(12):
        passes.assert_next(skipped=0, scanned=merged.pages, what=f"pass {number}")


def test_skipped_pages_are_not_unshared(passes: Passes, clever: Ksm, region: RegionFactory) -> None:
    """pages_unshared counts what ksmd looked at and found alone: a skipped page is volatile."""
    pages = mergeable(region).pages
    for number, skipped in zip(range(9), skips(), strict=False):
        passes.make()
        if number == 0:
            continue  # a page is known by its checksum first
        unshared, volatile = (0, pages) if skipped else (pages, 0)
        foreign = passes.others()
        assert unshared <= clever.pages_unshared <= unshared + foreign, f"pass {number}"
        assert volatile <= clever.pages_volatile <= volatile + foreign, f"pass {number}"


@pytest.mark.upstream_bug_on(
    "arm",
    "with LPAE, pages that were just written merge at the second attempt",
    symbol="CONFIG_ARM_LPAE",
)
@pytest.mark.needs("page_frames")
@pytest.mark.usefixtures("ksm_alone")
def test_skipped_page_merges_when_its_turn_comes(passes: Passes, region: RegionFactory) -> None:
    """Skipping delays merging and does not prevent it: an equal page that comes later merges."""
    old = mergeable(region, 1)
    for _ in range(20):
        passes.make()
    young = region(1, old.read()[:16], process=old.process)
    young.fill(old.read()[:16])
    young.advise(lib.MADV_MERGEABLE)
    for _ in range(12):
        passes.make()
        if old.count(PageKind.KSM):
            break
    assert (old.count(PageKind.KSM), young.count(PageKind.KSM)) == (1, 1), old.describe()


def test_age_is_the_pages_own(passes: Passes, region: RegionFactory) -> None:
    """Pages that come later are young, whatever the age of the others."""
    old = mergeable(region)
    schedule = skips()
    for _ in range(9):
        passes.make()
        next(schedule)
    young = mergeable(region)
    for number, (old_skipped, young_skipped) in enumerate(zip(schedule, skips(), strict=False)):
        if number == 10:
            break
        skipped = old.pages * old_skipped + young.pages * young_skipped
        passes.assert_next(
            skipped=skipped, scanned=old.pages + young.pages - skipped, what=f"pass {number}"
        )
