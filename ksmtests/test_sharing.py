# SPDX-License-Identifier: GPL-2.0
"""Pages that are alike become one, whoever has them, and the system's books say so."""

from collections.abc import Callable

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged, overwritten
from mm.process import Process
from mm.region import unique_pattern, unique_tokens
from plugins.ksm import KsmAlone, SharedKsm
from plugins.processes import RegionFactory
from uapi.libc import lib
from uapi.pagemap import frame_counts

pytestmark = [pytest.mark.sharing, pytest.mark.needs("ksm_stat", "page_frames")]


def test_processes_share_one_page(
    ksm: SharedKsm, region: RegionFactory, start_process: Callable[[], Process]
) -> None:
    """Equal pages of two processes are one page frame; a write of one is not seen by the other."""
    pattern = unique_pattern()
    ours, theirs = (region(16, pattern, process=start_process()) for _ in range(2))
    for mapped in (ours, theirs):
        mapped.advise(lib.MADV_MERGEABLE)
    for mapped in (ours, theirs):
        ksm.wait_until_merged(mapped)
    frames = {state.pfn for mapped in (ours, theirs) for state in mapped.states()}
    assert len(frames) == 1
    assert frame_counts(frames) == {frames.pop(): ours.pages + theirs.pages}

    content, tokens = ours.read(), unique_tokens(ours.pages)
    ours.write_each(tokens)
    assert_unmerged(ours, overwritten(content, tokens))
    assert_merged_into_one(theirs)
    assert theirs.read() == content


def test_pages_that_find_no_equal_are_unshared(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """pages_unshared counts pages ksmd has looked at and found to be alone."""
    different = region()
    different.fill(unique_tokens(different.pages))
    different.advise(lib.MADV_MERGEABLE)
    ksm_alone.wait_for_passes(3)
    # Not while it scans: a page that is looked at again is out of the count for a moment.
    ksm_alone.stop()
    assert ksm_alone.settings.pages_unshared >= different.pages


def test_run_2_empties_the_books(ksm_alone: KsmAlone, region: RegionFactory) -> None:
    """After run=2 nothing is shared, nothing is known, and scans are counted from zero."""
    ksm_alone.merge(region())
    ksm_alone.wait_for_passes()
    assert ksm_alone.settings.pages_sharing
    ksm_alone.unmerge_all()
    counters = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "full_scans")
    assert {name: getattr(ksm_alone.settings, name) for name in counters} == dict.fromkeys(
        counters, 0
    )
