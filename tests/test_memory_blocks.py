# SPDX-License-Identifier: GPL-2.0
"""Which blocks of memory can go offline, and that they are brought back."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from lease.belongings import belonging
from uapi import memory_blocks
from uapi.libc import PAGE_SIZE
from uapi.pagemap import KPF_RESERVED

BLOCK_FRAMES = 16

Block = Callable[[int, str, str], Path]


@pytest.fixture
def block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Block:
    """Make a block with a state and zones, as sysfs shows them."""
    monkeypatch.setattr(memory_blocks, "BLOCKS", tmp_path)
    (tmp_path / "block_size_bytes").write_text(f"{BLOCK_FRAMES * PAGE_SIZE:x}\n")

    def make(number: int, state: str, zones: str) -> Path:
        directory = tmp_path / f"memory{number}"
        directory.mkdir()
        (directory / "state").write_text(f"{state}\n")
        (directory / "valid_zones").write_text(f"{zones}\n")
        return directory

    return make


def test_movable_blocks_are_in_use_and_of_that_zone_alone(block: Block) -> None:
    """What is offline shows the zones that it could be brought to."""
    for number, (state, zones) in enumerate(
        [("online", "DMA32"), ("online", "none"), ("offline", "Movable Normal")]
    ):
        block(number, state, zones)
    block(10, "online", "Movable")
    block(9, "online", "Movable")
    assert memory_blocks.movable_blocks() == [9, 10]
    assert [memory_blocks.block_of(frame) for frame in (0, 15, 16, 160)] == [0, 0, 1, 10]


def test_kernel_without_hotplug_has_no_movable_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no such directory."""
    monkeypatch.setattr(memory_blocks, "BLOCKS", tmp_path / "memory")
    assert memory_blocks.movable_blocks() == []


def test_block_with_a_reserved_frame_stays(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole's are reserved, too."""

    def flags(frames: Iterable[int]) -> dict[int, int]:
        return {frame: KPF_RESERVED if frame == 3 * BLOCK_FRAMES - 1 else 0 for frame in frames}

    monkeypatch.setattr(memory_blocks, "frame_flags", flags)
    memory_blocks.can_go_offline.cache_clear()
    try:
        for number in (1, 2, 3):
            block(number, "online", "Movable")
        assert [memory_blocks.can_go_offline(number) for number in (1, 2, 3)] == [True, False, True]
    finally:
        memory_blocks.can_go_offline.cache_clear()


@pytest.mark.parametrize(
    ("state", "written"), [("offline", "online_movable"), ("online", "online\n")]
)
def test_block_is_brought_back_unless_it_is_in_use(
    state: str, written: str, block: Block, tmp_path: Path
) -> None:
    """A test that failed may not have come to take it offline."""
    directory = block(5, state, "Movable")
    with belonging(tmp_path, "memory block", "5"):
        pass
    assert (directory / "state").read_text().startswith(written)


def test_node_of_a_block(block: Block) -> None:
    """None where the kernel has no nodes."""
    (block(1, "online", "Movable") / "node12").mkdir()
    block(2, "online", "Movable")
    assert [memory_blocks.node_of(number) for number in (1, 2)] == [12, None]
