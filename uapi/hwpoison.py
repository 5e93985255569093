# SPDX-License-Identifier: GPL-2.0
"""Page frames that are said to be bad: debugfs's hwpoison (Documentation/mm/hwpoison.rst)."""

from pathlib import Path

from uapi.pagemap import KPF_HWPOISON, frame_flags
from uapi.settings import write_value

DIRECTORY = Path("/sys/kernel/debug/hwpoison")


def corrupt(frame: int) -> None:
    """Have the kernel act as if a frame's memory had failed."""
    write_value(DIRECTORY / "corrupt-pfn", str(frame))


def is_poisoned(frame: int) -> bool:
    """Whether the kernel takes it for bad."""
    return bool(frame_flags([frame])[frame] & KPF_HWPOISON)


def unpoison(frame: int) -> None:
    """Make a frame good again, unless it is. Raises OSError (EBUSY while it is mapped)."""
    if is_poisoned(frame):
        write_value(DIRECTORY / "unpoison-pfn", str(frame))
