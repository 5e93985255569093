# SPDX-License-Identifier: GPL-2.0
"""Block devices made of memory, to swap to (Documentation/admin-guide/blockdev/zram.rst)."""

import struct
from pathlib import Path

from uapi.libc import PAGE_SIZE, failure, lib
from uapi.settings import write_value

CONTROL = Path("/sys/class/zram-control")
SIGNATURE = b"SWAPSPACE2"  # at the end of the first page
HIGHEST_PRIORITY = 0x8000 | 0x7FFF  # SWAP_FLAG_PREFER and the priority (include/linux/swap.h)
HEADER = 1024  # where the first page has version, last page and number of bad pages


def create() -> int:
    """Make a device without a size; its number. Raises OSError."""
    return int((CONTROL / "hot_add").read_text())


def device(number: int) -> str:
    """Its path."""
    return f"/dev/zram{number}"


def prepare(number: int, pages: int) -> None:
    """Give a device its size, and write to it what mkswap(8) writes. Raises OSError."""
    write_value(Path(f"/sys/block/zram{number}/disksize"), str(pages * PAGE_SIZE))
    header = bytearray(PAGE_SIZE)
    struct.pack_into("=III", header, HEADER, 1, pages - 1, 0)
    header[-len(SIGNATURE) :] = SIGNATURE
    with open(device(number), "r+b") as file:
        file.write(header)


def swap_on(number: int) -> None:
    """swapon(2), before all other devices."""
    if lib.swapon(device(number).encode(), HIGHEST_PRIORITY):
        raise failure(f"swapon({device(number)})")


def swap_off(number: int) -> None:
    """swapoff(2): all that is on the device comes back into memory."""
    if lib.swapoff(device(number).encode()):
        raise failure(f"swapoff({device(number)})")


def in_use(number: int) -> bool:
    """Whether it is swapped to."""
    lines = Path("/proc/swaps").read_text().splitlines()[1:]
    return device(number) in [line.split()[0] for line in lines]


def remove(number: int) -> None:
    """Swap to a device no more and remove it; nothing where it is gone. Raises OSError."""
    directory = Path(f"/sys/block/zram{number}")
    if not directory.is_dir():
        return
    if in_use(number):
        swap_off(number)
    write_value(directory / "reset", "1")
    write_value(CONTROL / "hot_remove", str(number))
