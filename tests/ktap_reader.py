# SPDX-License-Identifier: GPL-2.0
"""A reader of KTAP that takes nothing but what is KTAP to the letter."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Level:
    """A level of KTAP as read: each line of it, and the levels below by the line that ends them."""

    planned: int
    lines: list[str] = field(default_factory=list)
    below: dict[str, "Level"] = field(default_factory=dict)

    def tests(self) -> Iterator[str]:
        """The result lines that have no level below, without their numbers."""
        for line in self.lines:
            if line in self.below:
                yield from self.below[line].tests()
            else:
                yield line

    def levels(self) -> Iterator[str]:
        """The result lines that end a level."""
        for line, level in self.below.items():
            yield line
            yield from level.levels()


def read(text: str) -> Level:
    """What is KTAP to the letter; anything else is an AssertionError."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    level, left = _read(lines, 0)
    assert left == [], "nothing follows"
    return level


def _read(lines: list[str], depth: int) -> tuple[Level, list[str]]:
    indent = "  " * depth
    assert lines[0] == f"{indent}KTAP version 1"
    plan = re.fullmatch(rf"{indent}1\.\.(\d+)", lines[1])
    assert plan, lines[1]
    level, lines = Level(int(plan[1])), lines[2:]
    while lines and lines[0].startswith(indent):
        below = None
        if lines[0].startswith(f"{indent}  "):
            below, lines = _read(lines, depth + 1)
        found = re.fullmatch(rf"{indent}(ok|not ok) (\d+) ([^#]+)( # [^#]+)?", lines.pop(0))
        assert found, lines
        assert int(found[2]) == len(level.lines) + 1
        line = f"{found[1]} {found[3]}{found[4] or ''}"
        level.lines.append(line)
        if below:
            level.below[line] = below
    assert len(level.lines) == level.planned, "every number of the plan has its line"
    return level, lines
