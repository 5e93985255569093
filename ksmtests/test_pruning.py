# SPDX-License-Identifier: GPL-2.0
"""stable_node_chains_prune_millisecs: how often ksmd looks for KSM pages nobody has any more.

Only pages at the max_page_sharing limit have chains of duplicates to be pruned (ksm.rst). A search
of a chain ends at a duplicate that has room, unless it is time to prune: then it goes on to the
last one, and drops those that are stale (stable_node_dup() of mm/ksm.c).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mm.process import Process
from mm.region import Region, unique_pattern, unique_tokens
from plugins.ksm import EnterFirst, KsmAlone
from plugins.processes import RegionFactory
from uapi.libc import lib
from uapi.pagemap import PageKind

pytestmark = [
    pytest.mark.sharing_limit,
    pytest.mark.needs("ksm_stat", "pages_scanned", "page_frames"),
    pytest.mark.fixed_by(
        "mm/ksm: don't waste time searching stable tree for fast changing page",
        "6.11",
        stable=False,
    ),
]

LIMIT = 3
NEVER = 100_000_000  # ms


@dataclass(frozen=True)
class Chain:
    """A chain of two duplicates: one with room, and behind it one that nobody has any more."""

    newcomer: Region  # one page, that will look for its like in the chain next
    stale: int  # the frame of the stale one


@pytest.fixture
def chain(
    ksm_alone: KsmAlone,
    region: RegionFactory,
    start_process: Callable[[], Process],
    enter_first: EnterFirst,
) -> Chain:
    """ksmd is stopped at the end of a pass, and the newcomer comes first in the next.

    It comes first because it was the first to be mergeable. In the pass that just ended ksmd has
    taken its checksum, and no more.
    """
    ksm_alone.limit_sharing(LIMIT)
    ksm_alone.settings.stable_node_chains_prune_millisecs = NEVER
    pattern = unique_pattern()
    newcomer = region(1, process=start_process())
    sharers = region(LIMIT + 2, pattern, process=start_process())
    enter_first(newcomer.process, sharers.process)
    for mapped in (newcomer, sharers):
        mapped.advise(lib.MADV_MERGEABLE)
    for _ in range(3):
        ksm_alone.pass_once()
    frames = [state.pfn for state in sharers.states()]
    counts = Counter(frames)
    assert sorted(counts.values()) == [2, LIMIT], sharers.describe()
    newcomer.fill(pattern)
    ksm_alone.pass_once()
    (full,) = [frame for frame, sharing in counts.items() if sharing == LIMIT]
    for page, frame in enumerate(frames):
        if frame == full:
            sharers.write(page, unique_tokens(1)[0])
    return Chain(newcomer, full)


def merge(ksm_alone: KsmAlone, newcomer: Region) -> None:
    """Have ksmd look at pages one by one until the newcomer has merged, and no further."""
    ksm_alone.settings.pages_to_scan = 1
    passes = ksm_alone.settings.full_scans
    while newcomer.count(PageKind.KSM) == 0:
        assert ksm_alone.settings.full_scans == passes, newcomer.describe()
        ksm_alone.batch_once()


@pytest.mark.upstream_bug_on(
    "arm",
    "with LPAE, pages that were just written merge at the second attempt",
    symbol="CONFIG_ARM_LPAE",
)
@pytest.mark.parametrize(("interval", "left"), [(0, 0), (NEVER, 2)])
def test_stale_pages_are_dropped_when_it_is_time(
    interval: int, left: int, chain: Chain, ksm_alone: KsmAlone
) -> None:
    """With 0 every search prunes, and a chain of one is no chain any more; else all stays."""
    settings = ksm_alone.settings
    ksm_alone.skip_beside_others("the number of chains")
    settings.stable_node_chains_prune_millisecs = interval
    assert (settings.stable_node_chains, settings.stable_node_dups) == (1, 2)
    merge(ksm_alone, chain.newcomer)
    assert (settings.stable_node_chains, settings.stable_node_dups) == (left // 2, left)
    # The sharers that wrote take the stale page with them in the rest of the pass.
    ksm_alone.pass_once()
    assert settings.stable_node_dups <= 1
