# SPDX-License-Identifier: GPL-2.0
"""Blocks of memory that can be taken out of use: /sys/devices/system/memory.

Source: Documentation/admin-guide/mm/memory-hotplug.rst.
"""

from collections.abc import Iterator
from pathlib import Path

from uapi.libc import PAGE_SIZE
from uapi.settings import read_value, write_value

MEMORY = Path("/sys/devices/system/memory")


def movable_blocks() -> Iterator[int]:
    """Blocks that are in use and hold nothing but pages that can be moved."""
    for path in sorted(MEMORY.glob("memory[0-9]*/valid_zones")):
        if path.read_text() == "Movable\n" and read_value(path.with_name("state")) == "online":
            yield int(path.parent.name.removeprefix("memory"))


def block_of(frame: int) -> int:
    """The block a page frame lies in."""
    return frame * PAGE_SIZE // int((MEMORY / "block_size_bytes").read_text(), 16)


def take_offline(block: int) -> None:
    """Move all pages elsewhere, and use the block no more. Raises OSError (EBUSY, EINTR)."""
    write_value(MEMORY / f"memory{block}/state", "offline")


def put_online(block: int) -> None:
    """Use the block for movable pages again, unless it is in use."""
    state = MEMORY / f"memory{block}/state"
    if read_value(state) == "offline":
        write_value(state, "online_movable")
