# SPDX-License-Identifier: GPL-2.0
"""max_page_sharing: how many PTEs may map one KSM page, and what becomes of the rest."""

from collections import Counter

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged
from plugins.ksm import KsmAlone
from plugins.processes import RegionFactory
from uapi.libc import lib
from uapi.pagemap import frame_counts

pytestmark = [pytest.mark.sharing_limit, pytest.mark.needs("ksm_stat", "page_frames")]


@pytest.mark.parametrize("limit", [2, 3, 7])
def test_no_page_is_shared_beyond_the_limit(
    limit: int, ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """Equal pages merge into as many KSM pages as the limit asks for, and no more than one more."""
    ksm_alone.limit_sharing(limit)
    merged = ksm_alone.merge(region(42))
    ksm_alone.stop()
    assert_merged_into_one(merged)
    sharers = Counter(state.pfn for state in merged.states())
    assert max(sharers.values()) == limit
    assert frame_counts(sharers) == dict(sharers)
    fewest = -(-merged.pages // limit)
    assert fewest <= len(sharers) <= fewest + 1
    assert merged.process.merging_pages == merged.pages


@pytest.mark.fixed_by("mm/ksm: fix possible UAF of stable_node", "6.10")
def test_chains_come_and_go_while_ksmd_walks_them(
    ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """Duplicates of a KSM page are pruned and made anew; content and kernel stay sane."""
    ksm_alone.settings.stable_node_chains_prune_millisecs = 0
    ksm_alone.limit_sharing(2)
    merged = ksm_alone.merge(region(64))
    content = merged.read()
    for _ in range(10):
        half, _rest = merged.halves()
        half.advise(lib.MADV_UNMERGEABLE)
        assert_unmerged(half, content[: half.length])
        ksm_alone.merge(half)
        assert merged.read() == content
    assert ksm_alone.settings.stable_node_chains >= 1
    assert ksm_alone.settings.stable_node_dups >= merged.pages // 2
