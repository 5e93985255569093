# SPDX-License-Identifier: GPL-2.0
"""Find and read the running kernel's .config."""

import gzip
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(r"^(?:(CONFIG_\w+)=(.*)|# (CONFIG_\w+) is not set)$")


@dataclass(frozen=True)
class Configuration:
    """The symbols of one kernel, by their full names; "n" is what `is not set` says."""

    source: str
    values: dict[str, str]

    def lacks(self, symbol: str) -> str | None:
        """Why the symbol is off, with the source; None where it is y, m, a number or a string."""
        value = self.values.get(symbol)
        if value is None:
            return f"{symbol} is absent from {self.source}"
        return f"{symbol} is not set in {self.source}" if value == "n" else None


def parse(text: str, source: str) -> Configuration:
    """Parse a .config; lines of other forms are no settings."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        if match := _LINE.match(line):
            if match[1]:
                values[match[1]] = match[2].strip('"')
            else:
                values[match[3]] = "n"
    return Configuration(source, values)


def _candidates(root: Path, release: str) -> Iterator[Path]:
    yield root / "proc/config.gz"
    yield root / f"boot/config-{release}"
    yield root / f"lib/modules/{release}/config"
    yield root / f"lib/modules/{release}/build/.config"


def find(root: Path = Path("/"), release: str = "") -> Configuration | None:
    """The configuration of `release`, by default the running kernel's; None where none lies."""
    for path in _candidates(root, release or platform.release()):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return parse(data.decode(errors="backslashreplace"), str(path))
    return None
