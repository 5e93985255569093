# SPDX-License-Identifier: GPL-2.0
"""What the configuration of one kernel says."""

import platform
from dataclasses import dataclass
from pathlib import Path

from kconfig import ConfigurationError
from kconfig.dotconfig import NOT_SET, settings
from kconfig.sources import installed, load

# What a symbol was called by kernels that do not have it.
FORMER_NAMES = {"CONFIG_NUMA_MIGRATION": "CONFIG_MIGRATION"}


@dataclass(frozen=True)
class Configuration:
    """The symbols of one kernel, by their full names; "n" is what `is not set` says."""

    source: str
    values: dict[str, str]

    def lacks(self, symbol: str) -> str | None:
        """Why the symbol is off, with the source; None where it is y, m, a number or a string.

        A module counts: whether it can be loaded is for a probe to find out.
        """
        known = symbol if symbol in self.values else FORMER_NAMES.get(symbol, symbol)
        value = self.values.get(known)
        if value is None:
            return f"{symbol} is absent from {self.source}"
        return f"{known} is not set in {self.source}" if value == NOT_SET else None


def parse(text: str, source: str) -> Configuration:
    """Parse a .config. Raises ConfigurationError where no line is about a symbol."""
    values = settings(text)
    if not values:
        seen = repr(text.strip()[:60]) if text.strip() else "nothing"
        raise ConfigurationError(
            f"{source} is no kernel configuration: no line sets a symbol CONFIG_…, "
            f"and it begins with {seen}"
        )
    return Configuration(source, values)


def read(path: Path) -> Configuration:
    """The configuration of a kernel that lies at `path`: see kconfig.sources.load()."""
    source, text = load(path)
    return parse(text, source)


def find(root: Path = Path("/"), release: str = "") -> Configuration | None:
    """The configuration of `release`, by default the running kernel's; None where none lies.

    Raises ConfigurationError for one that lies there and cannot be read.
    """
    for path in installed(root, release or platform.release()):
        return read(path)
    return None
