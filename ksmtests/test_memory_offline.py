# SPDX-License-Identifier: GPL-2.0
"""Memory that goes offline: KSM pages leave it, and ksmd waits until it is gone.

The kernel's side is ksm_memory_callback() in mm/ksm.c.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged
from ksmtests.placement import frames, pipe_with, put
from mm.process import Process
from mm.region import Region, unique_pattern
from plugins.ksm import KsmAlone
from plugins.processes import Fork, RegionFactory
from uapi import memory_blocks
from uapi.ksm import RunState
from uapi.libc import PAGE_SIZE, lib
from uapi.settings import read_value, write_value

pytestmark = [
    pytest.mark.memory_offline,
    pytest.mark.needs("ksm_stat", "page_frames", "movable_memory"),
]

LIMITS = pytest.mark.parametrize("limit", [256, 2], ids=["one page", "chain"])
PLENTY, ATTEMPTS = (8 << 20) // PAGE_SIZE, 16  # pages of 8 MiB, and how often so many
DEADLINE = 60.0  # s
PAUSE = 0.5  # s, in which ksmd ends many passes, or a setting is written
OFFLINING = 4  # KSM_RUN_OFFLINE of mm/ksm.c, which `run` shows

Offline = Callable[[int], None]


def blocks_of(region: Region) -> set[int]:
    """The blocks that a region's pages are in."""
    return set(map(memory_blocks.block_of, frames(region)))


def movable(region: RegionFactory, pages: int, pattern: bytes | None = None) -> Region:
    """A region whose pages are in blocks that can go offline; skips the test if there is no room.

    The kernel allocates from one end of a zone: pages that are elsewhere are kept meanwhile.
    """
    able = list(filter(memory_blocks.can_go_offline, memory_blocks.movable_blocks()))
    assert able, "no block can go offline any more: one did not come back"
    node = memory_blocks.node_of(able[0])
    for _ in range(ATTEMPTS):
        plenty = region(PLENTY, pattern)
        if node is not None:
            put(plenty, node)
        fit = [memory_blocks.block_of(state.pfn) in able for state in plenty.states()]
        for first in range(PLENTY - pages + 1):
            if all(fit[first : first + pages]):
                return plenty.part(first, pages)
    pytest.skip(f"of {ATTEMPTS * PLENTY} pages, none is in a block that can go offline: {able}")


def wait_for(what: str, true: Callable[[], bool]) -> None:
    """Fail unless it comes true before the deadline."""
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, f"{what}: not within {DEADLINE:.0f} s"
        time.sleep(PAUSE)


@contextmanager
def going_offline(block: int, process: Process, ksm_alone: KsmAlone) -> Iterator[None]:
    """Have a process take a block offline, in vain; it is stopped in the end.

    The block says so shortly before KSM is told, which is waited for, too.
    """
    run = ksm_alone.settings.root / "run"
    process.send(memory_blocks.take_offline, block)

    def is_under_way() -> bool:
        if process.connection.poll():
            pytest.fail(f"taking block {block} offline came to an end: {process.answer()}")
        return memory_blocks.is_going_offline(block)

    try:
        wait_for("going offline", is_under_way)
        wait_for("KSM is told", lambda: bool(int(read_value(run)) & OFFLINING))
        yield
    finally:
        process.kill()


def held_block(page: Region, offline: Offline) -> int:
    """A block that cannot go offline, as a pipe holds a page in it."""
    pipe_with(page)
    (block,) = blocks_of(page)
    offline(block)
    return block


@LIMITS
def test_merged_pages_leave_memory_that_goes_offline(
    limit: int, ksm_alone: KsmAlone, region: RegionFactory, offline: Offline
) -> None:
    """They stay merged, keep their content, and newcomers find them where they are."""
    ksm_alone.limit_sharing(limit)
    pattern = unique_pattern()
    merged = ksm_alone.merge(movable(region, 8, pattern))
    content, shared = merged.read(), len(frames(merged))
    for block in blocks_of(merged):
        offline(block)
        memory_blocks.take_offline(block)
        assert not memory_blocks.is_online(block)
        assert block not in blocks_of(merged)
    assert_merged_into_one(merged)
    assert merged.read() == content
    assert len(frames(merged)) == shared
    arrived = ksm_alone.merge(region(8, pattern))
    if limit > 2:
        assert frames(arrived) == frames(merged)


@LIMITS
def test_books_lose_what_memory_has_taken_along(
    limit: int, ksm_alone: KsmAlone, region: RegionFactory, offline: Offline
) -> None:
    """KSM pages that nobody maps any more are forgotten at once: later ksmd would look at them."""
    ksm_alone.limit_sharing(limit)
    merged = ksm_alone.merge(movable(region, 8))
    ksm_alone.skip_beside_others("pages_shared")
    ksm_alone.stop()
    blocks, shared = blocks_of(merged), len(frames(merged))
    merged.unmap()
    settings = ksm_alone.settings
    assert settings.pages_shared == shared
    assert settings.stable_node_chains == (limit == 2)
    for block in blocks:
        offline(block)
        memory_blocks.take_offline(block)
    assert settings.pages_shared == settings.pages_sharing == 0
    assert settings.stable_node_chains == settings.stable_node_dups == 0
    ksm_alone.start()
    ksm_alone.merge(region(8))


def test_ksmd_rests_while_memory_goes_offline(
    ksm_alone: KsmAlone, region: RegionFactory, process: Process, fork: Fork, offline: Offline
) -> None:
    """It neither scans nor stops for good; what needs no ksmd works meanwhile."""
    merged = ksm_alone.merge(region(8))
    content = merged.read()
    block = held_block(movable(region, 1), offline)
    with going_offline(block, fork(process), ksm_alone):
        before = ksm_alone.settings.full_scans
        time.sleep(PAUSE)
        assert ksm_alone.settings.full_scans == before
        part = merged.part(0, 4)
        part.advise(lib.MADV_UNMERGEABLE)
        assert_unmerged(part, content[: part.length])
    assert memory_blocks.is_online(block)
    ksm_alone.wait_for_passes(2)
    ksm_alone.merge(merged)
    assert merged.read() == content


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run", RunState.STOP),
        ("max_page_sharing", 7),
        pytest.param("merge_across_nodes", False, marks=pytest.mark.needs("merge_across_nodes")),
    ],
)
def test_settings_wait_until_memory_is_offline(
    name: str,
    value: int,
    ksm_alone: KsmAlone,
    region: RegionFactory,
    process: Process,
    fork: Fork,
    offline: Offline,
) -> None:
    """What may unmerge everything is written once the block is gone, or is not to go any more."""
    region(1).advise(lib.MADV_MERGEABLE)
    ksm_alone.wait_for_passes(2)
    ksm_alone.skip_beside_others("whether a setting may change")
    block = held_block(movable(region, 1), offline)
    writer = fork(process)
    with going_offline(block, fork(process), ksm_alone):
        writer.send(write_value, ksm_alone.settings.root / name, str(int(value)))
        assert not writer.connection.poll(PAUSE), f"{name} was written"
    writer.answer()
    assert getattr(ksm_alone.settings, name) == value
    ksm_alone.start()
    ksm_alone.wait_for_passes(1)
