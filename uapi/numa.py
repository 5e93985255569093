# SPDX-License-Identifier: GPL-2.0
"""NUMA nodes: /sys/devices/system/node (Documentation/ABI/stable/sysfs-devices-node)."""

from collections.abc import Iterator
from pathlib import Path

NODES = Path("/sys/devices/system/node")


def nodes_with_memory(root: Path = NODES) -> list[int]:
    """The nodes pages can be on; none where the kernel knows no nodes."""
    try:
        return list(_numbers((root / "has_memory").read_text()))
    except FileNotFoundError:
        return []


def _numbers(ranges: str) -> Iterator[int]:
    """The numbers of a list such as `0-2,5`."""
    for each in ranges.strip().split(","):
        if each:
            first, _, last = each.partition("-")
            yield from range(int(first), int(last or first) + 1)
