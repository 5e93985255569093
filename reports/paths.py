# SPDX-License-Identifier: GPL-2.0
"""A test's names as a path with dots, of signs that other systems take."""

import hashlib
import re
from collections.abc import Sequence


def dotted(names: Sequence[str]) -> str:
    """The path of a test, the same wherever it runs; `[a-zA-Z0-9_-]+` with dots between.

    The names are those of plugins.results.names(): of parameters, they alone are a level.
    """
    module, *below = names
    levels = [*module.split("."), *below]
    if len(below) > 1 and below[-1].startswith(f"{below[-2]}["):
        levels[-1] = below[-1].removeprefix(f"{below[-2]}[").removesuffix("]")
    return ".".join(map(_segment, levels))


def _segment(name: str) -> str:
    """A name as a path may have it; what it cannot have is told apart by a hash."""
    plain = re.sub(r"[^a-zA-Z0-9_-]+", "_", name)
    if name and plain == name:
        return name
    return f"{plain.strip('_')}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
