# SPDX-License-Identifier: GPL-2.0
"""Charts as inline SVG: strips that stand beside their numbers in the rows of a table.

They are drawn in the units of their viewBox; style.css knows the classes.
"""

import math
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from markupsafe import Markup

from reports.shown import clean

WIDTH, HEIGHT = 320, 18
LINE_HEIGHT = 48
MARGIN = 6  # room for half a mark
RADIUS = 3.5


def _svg(height: int, label: str, *, fluid: bool = False) -> ET.Element:
    svg = ET.Element("svg", viewBox=f"0 0 {WIDTH} {height}", role="img")
    svg.set("aria-label", clean(label))
    if fluid:
        svg.set("preserveAspectRatio", "none")
    svg.set("class", "fluid" if fluid else "strip")
    return svg


def _add(parent: ET.Element, tag: str, name: str, title: str = "", **numbers: float) -> None:
    places = {key: f"{value:.1f}" for key, value in numbers.items()}
    child = ET.SubElement(parent, tag, {"class": name}, **places)
    if title:
        ET.SubElement(child, "title").text = clean(title)


def _markup(svg: ET.Element) -> Markup:
    return Markup(ET.tostring(svg, encoding="unicode"))  # noqa: S704 - ElementTree escapes it all


def bar(value: float, most: float, label: str) -> Markup:
    """A bar, as long as its share of the longest one of a table."""
    svg = _svg(HEIGHT, label, fluid=True)
    _add(svg, "rect", "bar", x=0, y=3, width=WIDTH * value / (most or 1), height=HEIGHT - 6)
    return _markup(svg)


def shares(counts: Sequence[tuple[str, int]]) -> Markup:
    """One bar of several parts, each of the class of its name."""
    total = sum(count for _, count in counts) or 1
    svg = _svg(HEIGHT, ", ".join(f"{count} {name}" for name, count in counts if count), fluid=True)
    begin = 0.0
    for name, count in counts:
        width = WIDTH * count / total
        if count:
            title = f"{count} {name}"
            _add(svg, "rect", name, title, x=begin, y=2, width=width, height=HEIGHT - 4)
        begin += width
    return _markup(svg)


class LogScale:
    """Where a number lies on a logarithmic scale from one power of ten to another."""

    def __init__(self, values: Sequence[float]) -> None:
        above = [value for value in values if value > 0] or [1.0]
        self._first = math.floor(math.log10(min(above)))
        self._last = max(math.ceil(math.log10(max(above))), self._first + 1)

    def at(self, value: float) -> float:
        """The place; what is not above 0 lies at the beginning."""
        power = math.log10(value) if value > 0 else self._first
        share = (power - self._first) / (self._last - self._first)
        return MARGIN + (WIDTH - 2 * MARGIN) * min(max(share, 0.0), 1.0)

    def axis(self) -> Markup:
        """The powers of ten, as the head of the column."""
        svg = _svg(HEIGHT, f"logarithmic, 10^{self._first} to 10^{self._last} s")
        for power in range(self._first, self._last + 1):
            anchor = {self._first: "start", self._last: "end"}.get(power, "middle")
            text = ET.SubElement(svg, "text", {"class": "tick", "text-anchor": anchor})
            text.set("x", f"{self.at(10.0**power):.1f}")
            text.set("y", f"{HEIGHT - 4}")
            text.text = f"{10.0**power:g} s"
        return _markup(svg)

    def dots(self, values: Sequence[tuple[str, float]]) -> Markup:
        """A mark for each value, and the range of all."""
        numbers = [value for _, value in values]
        svg = _svg(HEIGHT, f"{min(numbers):.3g} to {max(numbers):.3g} s")
        begin, end = self.at(min(numbers)), self.at(max(numbers))
        _add(svg, "line", "range", x1=begin, x2=end, y1=HEIGHT / 2, y2=HEIGHT / 2)
        for name, value in values:
            title = f"{name}: {value:.3g} s"
            _add(svg, "circle", "mark", title, cx=self.at(value), cy=HEIGHT / 2, r=RADIUS)
        return _markup(svg)


def line(values: Sequence[tuple[str, float | None]], unit: str) -> Markup:
    """A line over runs, from 0 on; a run without a value leaves a gap."""
    most = max((value for _, value in values if value is not None), default=0.0) or 1.0
    svg = _svg(LINE_HEIGHT, f"over {len(values)} runs, up to {most:.3g} {unit}")
    step = (WIDTH - 2 * MARGIN) / max(len(values) - 1, 1)
    base = LINE_HEIGHT - MARGIN
    _add(svg, "line", "axis", x1=0, x2=WIDTH, y1=base, y2=base)
    last: tuple[float, float] | None = None
    marks = []
    for number, (name, value) in enumerate(values):
        if value is None:
            last = None
            continue
        x, y = MARGIN + number * step, base - (LINE_HEIGHT - 2 * MARGIN) * value / most
        if last:
            _add(svg, "line", "path", x1=last[0], y1=last[1], x2=x, y2=y)
        last = x, y
        marks.append((f"{name}: {value:.3g} {unit}", x, y))
    for title, x, y in marks:
        _add(svg, "circle", "mark", title, cx=x, cy=y, r=RADIUS)
    return _markup(svg)
