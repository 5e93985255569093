# SPDX-License-Identifier: GPL-2.0
"""How fast ksmd scans: pages_to_scan pages, then sleep_millisecs of sleep.

Documentation/admin-guide/mm/ksm.rst; that a new sleep_millisecs ends the sleep at once is
sleep_millisecs_store() of mm/ksm.c.
"""

import time

import pytest

from mm import scanning
from mm.region import Region, unique_tokens
from plugins.ksm import KsmAlone
from plugins.processes import RegionFactory
from uapi.libc import lib

pytestmark = [pytest.mark.settings, pytest.mark.needs("pages_scanned")]

LONG = 1_000_000  # ms; more than any test has
SLEEP = 300  # ms
A_WHILE = 0.1  # s; ksmd, if it does not sleep, scans thousands of pages meanwhile
MOST_TRIES = 10
RARE = 2.0  # s; a missed wakeup is found out after so long
PAGES = 64


@pytest.fixture
def different(ksm_alone: KsmAlone, region: RegionFactory) -> Region:
    """Mergeable pages, none like another; ksmd is stopped before the first of them."""
    mapped = region(PAGES)
    mapped.fill(unique_tokens(mapped.pages))
    mapped.advise(lib.MADV_MERGEABLE)
    ksm_alone.stop()
    ksm_alone.pass_once()
    return mapped


def wait_until_scanned(ksm_alone: KsmAlone, pages: int, deadline: float = 0) -> bool:
    """Wait until pages_scanned is so high; whether it got there in time, in seconds if given."""
    end = time.monotonic() + (deadline or scanning.STALL_DEADLINE)
    while time.monotonic() < end:
        if ksm_alone.settings.pages_scanned >= pages:
            return True
        time.sleep(scanning.POLL[0])
    return False


def assert_stands_still(ksm_alone: KsmAlone) -> None:
    """ksmd, though it runs, scans nothing for a while."""
    settings = ksm_alone.settings
    before = settings.full_scans, settings.pages_scanned
    time.sleep(A_WHILE)
    assert (settings.full_scans, settings.pages_scanned) == before


@pytest.mark.parametrize("batch", [1, 7, PAGES - 1])
@pytest.mark.usefixtures("different")
def test_batch_has_so_many_pages(batch: int, ksm_alone: KsmAlone) -> None:
    """ksmd scans pages_to_scan pages before it sleeps: neither more nor fewer."""
    settings = ksm_alone.settings
    settings.pages_to_scan = batch
    scanned = [settings.pages_scanned]
    for _ in range(PAGES // batch):
        ksm_alone.batch_once()
        scanned.append(settings.pages_scanned)
    assert scanned == [scanned[0] + number * batch for number in range(len(scanned))]


def test_batch_ends_with_the_pass(ksm_alone: KsmAlone, different: Region) -> None:
    """A batch larger than what is left is cut there; the next one begins anew."""
    settings = ksm_alone.settings
    passes, scanned = settings.full_scans, settings.pages_scanned
    for number in range(1, 4):
        ksm_alone.pass_once()
        assert settings.full_scans == passes + number
    # Other programs' pages come on top, the same number each time if they rest.
    assert settings.pages_scanned - scanned >= 3 * different.pages


@pytest.mark.usefixtures("different")
def test_no_pages_to_scan_stalls_ksmd(ksm_alone: KsmAlone) -> None:
    """With 0 ksmd scans nothing, though it runs; another value gets it going again."""
    settings = ksm_alone.settings
    settings.pages_to_scan = 0
    ksm_alone.start()
    assert_stands_still(ksm_alone)
    settings.pages_to_scan = 100
    assert wait_until_scanned(ksm_alone, settings.pages_scanned + PAGES)


@pytest.mark.usefixtures("different")
def test_ksmd_sleeps_between_batches(ksm_alone: KsmAlone) -> None:
    """Batches are sleep_millisecs apart, thousandths of a second and no other unit.

    How much later they come depends on the machine; a thousandfold is beyond the deadline.
    """
    settings = ksm_alone.settings
    settings.pages_to_scan, settings.sleep_millisecs = 1, SLEEP
    scanned = settings.pages_scanned
    began = time.monotonic()
    ksm_alone.start()
    assert wait_until_scanned(ksm_alone, scanned + 4)
    # Three sleeps lie between four batches; the clock that ends them is coarse.
    assert time.monotonic() - began >= 3 * SLEEP / 1000 * 0.9


@pytest.mark.usefixtures("different")
def test_new_sleep_wakes_ksmd(ksm_alone: KsmAlone) -> None:
    """ksmd, sleeping for long, goes on as soon as it is to sleep for less."""
    settings = ksm_alone.settings
    settings.pages_to_scan, settings.sleep_millisecs = 1, LONG
    scanned = settings.pages_scanned
    ksm_alone.start()
    assert wait_until_scanned(ksm_alone, scanned + 1)
    assert_stands_still(ksm_alone)
    settings.sleep_millisecs = 0
    assert wait_until_scanned(ksm_alone, scanned + PAGES)


@pytest.mark.usefixtures("different")
def test_each_new_sleep_is_one_batch(ksm_alone: KsmAlone) -> None:
    """Whoever is woken scans one batch and sleeps again, as long as is said now."""
    settings = ksm_alone.settings
    settings.pages_to_scan, settings.sleep_millisecs = 3, LONG
    scanned = [settings.pages_scanned + 3]
    ksm_alone.start()
    assert wait_until_scanned(ksm_alone, scanned[0])
    for _ in range(3):
        # ksmd, on its way to sleep, may come to look at the new value too late: so there is more.
        for _ in range(MOST_TRIES):
            settings.sleep_millisecs += 1
            if wait_until_scanned(ksm_alone, scanned[-1] + 1, RARE):
                break
        ksm_alone.stop()  # waits for the end of the batch
        scanned.append(settings.pages_scanned)
        ksm_alone.start()
    assert scanned == [scanned[0] + number * 3 for number in range(4)]
