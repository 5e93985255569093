# SPDX-License-Identifier: GPL-2.0
"""/proc/meminfo."""

from pathlib import Path


def read_meminfo() -> dict[str, int]:
    """Every line that is an amount of memory, in bytes."""
    fields = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    return {field[0].rstrip(":"): int(field[1]) * 1024 for field in fields if field[-1] == "kB"}


def total_memory() -> int:
    """RAM and swap, in bytes: what heuristic overcommit compares a request with."""
    meminfo = read_meminfo()
    return meminfo["MemTotal"] + meminfo["SwapTotal"]
