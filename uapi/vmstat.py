# SPDX-License-Identifier: GPL-2.0
"""/proc/vmstat: the system's memory events."""

from pathlib import Path


def read_vmstat() -> dict[str, int]:
    """Every counter of /proc/vmstat; cow_ksm came with 5.19, ksm_swpin_copy with 5.18."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}
