# SPDX-License-Identifier: GPL-2.0
"""`python -m tests.architecture_table`: write docs/architectures.md from what `arch/`, the features
and the fragments of `kconfig/` say.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from arch import Arch, architectures
from kconfig.fragment import HERE, fragments, parse_fragment
from plugins.features import FEATURES, Feature

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
HEADING = """\
# Architectures

What the suite knows of each; made by `python -m tests.architecture_table`. What a kernel is like
decides the rest: `pytest --features` tells of the running one, and why it lacks what it lacks.

- *no*: the architecture never has the feature, for the reason below; its tests are skipped.
- *some*: there are processors, or firmware, without it; tests are skipped on these.
- *yes*: where configuration and release have it; a kernel that should and does not, fails.
- Symbols beside these are what the architecture wants set so that the feature's own can be.

No test compares a page frame number with that of "the" zero page, as there may be several: the
suite looks at KPF_ZERO_PAGE. Sizes count pages, and a huge page is what hpage_pmd_size says.
"""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _table(heading: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    yield "\n"
    yield _row(heading)
    yield _row(["---"] * len(heading))
    yield from map(_row, rows)


def _code(symbols: Sequence[str]) -> str:
    return ", ".join(f"`{symbol.removeprefix('CONFIG_')}`" for symbol in symbols)


def _size(kib: int) -> str:
    return f"{kib // 1024} MiB" if kib >= 1024 else f"{kib} KiB"


def _huge_pages(architecture: Arch) -> str:
    return "; ".join(
        f"{_size(page)}: {' or '.join(map(_size, huge))}"
        for page, huge in architecture.huge_pages.items()
    )


PROPERTIES: dict[str, Callable[[Arch], str]] = {
    "`uname -m`": lambda architecture: ", ".join(architecture.machines),
    "page: huge page": _huge_pages,
    "zero pages": lambda architecture: "several" if architecture.several_zero_pages else "one",
    "a copy survives bad memory": lambda architecture: (
        "yes" if architecture.copies_survive_bad_memory else "no"
    ),
}


def _own_symbols(feature: Feature, architecture: Arch) -> list[str]:
    """What the architecture's own fragment sets so that the feature's symbols can be."""
    own = (path for path in fragments(architecture.name) if path != HERE / "config")
    return [
        entry.symbol
        for path in own
        for entry in parse_fragment(path.read_text(encoding="utf-8"))
        if any(need.feature == feature.name and need.through for need in entry.needs)
    ]


def _cell(feature: Feature, architecture: Arch) -> str:
    if feature.name in architecture.never:
        return "no"
    answer = "some" if feature.name in architecture.processor else "yes"
    symbols = _code(_own_symbols(feature, architecture))
    return f"{answer}, {symbols}" if symbols else answer


def _rows(known: Sequence[Arch]) -> Iterator[Sequence[str]]:
    """The properties, then the features that are not alike on all."""
    for name, cell in PROPERTIES.items():
        yield [name, *map(cell, known), ""]
    for feature in FEATURES.values():
        cells = [_cell(feature, architecture) for architecture in known]
        if set(cells) != {"yes"}:
            yield [f"`{feature.name}`", *cells, _code(feature.kconfig + feature.selected)]


def _reasons(known: Sequence[Arch]) -> Iterator[Sequence[str]]:
    """Why not, or what the processor must have, and where this holds."""
    for name in FEATURES:
        reasons: dict[str, list[str]] = {}
        for architecture in known:
            if reason := architecture.never.get(name):
                reasons.setdefault(reason, []).append(architecture.name)
            if ability := architecture.processor.get(name):
                reasons.setdefault(f"needs {ability}", []).append(architecture.name)
        for reason, where in reasons.items():
            yield f"`{name}`", ", ".join(where), reason


def page() -> str:
    """The whole document."""
    known = architectures()
    lines = [HEADING]
    names = (architecture.name for architecture in known)
    lines += _table(["", *names, "built with"], _rows(known))
    lines.append("\nEvery architecture has the other features.\n")
    lines += _table(["feature", "on", "why not, or not always"], _reasons(known))
    return "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
