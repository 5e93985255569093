# SPDX-License-Identifier: GPL-2.0
"""Where pages are: NUMA nodes that regions are put on and moved to, pipes that hold pages there."""

import os
import time
from collections.abc import Callable

from mm.region import Region
from uapi import libc
from uapi.libc import lib

DEADLINE = 30.0  # s; what holds a page, a batch of a CPU's or another migration, lets go of it soon
POLL = 0.002  # s


Move = Callable[[Region, int], list[int]]


class NotMoved(Exception):
    """Pages stayed where they were, attempt after attempt."""


def nodes_of(region: Region) -> list[int]:
    """The node of each page, or -errno where there is no page."""
    return libc.move_pages(region.process.pid, region.addresses(), None)


def by_move_pages(region: Region, node: int) -> list[int]:
    """move_pages(2), whoever else has the pages; what the kernel says of each."""
    return libc.move_pages(region.process.pid, region.addresses(), node, flags=lib.MPOL_MF_MOVE_ALL)


def by_migrate_pages(region: Region, node: int) -> list[int]:
    """migrate_pages(2) of all the process has on the nodes the pages are on; how many stayed."""
    sources = set(nodes_of(region)) - {node}
    return [libc.migrate_pages(region.process.pid, source, node) for source in sources]


def put(region: Region, node: int, move: Move = by_move_pages) -> Region:
    """Move every page to a node, and with it those who share it. Raises NotMoved."""
    end = time.monotonic() + DEADLINE
    while set(nodes_of(region)) != {node}:
        answer = move(region, node)
        if time.monotonic() > end:
            raise NotMoved(
                f"{region.describe()} of {region.process.pid} are on nodes {nodes_of(region)} "
                f"after {DEADLINE:.0f} s of moving them to node {node}; the last answer: {answer}"
            )
        time.sleep(POLL)
    return region


def frames(*regions: Region) -> set[int]:
    """The page frames of all pages of all regions."""
    return {state.pfn for region in regions for state in region.states()}


def pipe_with(region: Region) -> tuple[int, int]:
    """A pipe that holds the pages: the ends to read and to write."""
    ends: tuple[int, int] = region.process.call(os.pipe)
    spliced = region.process.call(libc.vmsplice, ends[1], region.address, region.length)
    if spliced != region.length:
        raise OSError(f"vmsplice took {spliced} of {region.length} bytes")
    return ends
