# SPDX-License-Identifier: GPL-2.0
"""Blocks of memory that can be taken offline (Documentation/admin-guide/mm/memory-hotplug.rst)."""

from functools import cache
from pathlib import Path

from uapi.libc import PAGE_SIZE
from uapi.pagemap import KPF_RESERVED, frame_flags
from uapi.settings import read_value, write_value

BLOCKS = Path("/sys/devices/system/memory")
MOVABLE = "Movable"  # the zone that has no memory of the kernel's own


def movable_blocks() -> list[int]:
    """Numbers of the blocks in use, all of whose memory is movable, or was reserved at boot."""
    return sorted(filter(_is_movable, map(_number, BLOCKS.glob("memory*[0-9]"))))


def block_of(frame: int) -> int:
    """The block that a page frame is in."""
    return frame * PAGE_SIZE // _block_bytes()


@cache
def can_go_offline(number: int) -> bool:
    """Whether a movable block has no hole, and nothing that was reserved at boot.

    mm/memory_hotplug.c refuses it else: EINVAL, EBUSY.
    """
    frames = _block_bytes() // PAGE_SIZE
    flags = frame_flags(range(number * frames, (number + 1) * frames))
    return not any(each & KPF_RESERVED for each in flags.values())


def node_of(number: int) -> int | None:
    """The NUMA node that a block is of; None for a kernel without nodes."""
    nodes = [path.name for path in (BLOCKS / f"memory{number}").glob("node*[0-9]")]
    return int(nodes[0].removeprefix("node")) if nodes else None


def is_online(number: int) -> bool:
    """Whether the block's memory is in use."""
    return read_value(_state(number)) == "online"


def is_going_offline(number: int) -> bool:
    """Whether somebody is about to take it offline."""
    return read_value(_state(number)) == "going-offline"


def take_offline(number: int) -> None:
    """Move all that is in a block elsewhere, and use it no more.

    Tries for ever where a page cannot be moved, up to a signal. Raises OSError.
    """
    write_value(_state(number), "offline")


def bring_online(number: int) -> None:
    """Use a block as movable memory, unless it is in use. Raises OSError."""
    if not is_online(number):
        write_value(_state(number), "online_movable")


def _state(number: int) -> Path:
    return BLOCKS / f"memory{number}" / "state"


def _block_bytes() -> int:
    return int(read_value(BLOCKS / "block_size_bytes"), 16)


def _number(directory: Path) -> int:
    return int(directory.name.removeprefix("memory"))


def _is_movable(number: int) -> bool:
    zones = BLOCKS / f"memory{number}" / "valid_zones"  # of CONFIG_MEMORY_HOTREMOVE
    return zones.exists() and is_online(number) and read_value(zones).split()[:1] == [MOVABLE]
