# SPDX-License-Identifier: GPL-2.0
"""`python -m tests.skips_table RECORD`: write the table of docs/skips.md anew.

The record (`--record`) is of a run of the whole suite; its kernels that the table has no column for
are left out.
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from plugins.matrix import alike
from reports import records
from reports.records import Outcome, RecordError

PAGE = Path(__file__).resolve().parent.parent / "docs/skips.md"
TABLE = re.compile(r"^\| reason \|.*?^\| \*\*all\*\* \|.*?\n", re.MULTILINE | re.DOTALL)
# What is said of a reason on one kernel -> what holds for all.
SHORTER = (
    (re.compile(r": (CONFIG_\w+) is (?:absent from|not set in) .*"), r": no \1"),
    (re.compile(r"^(?:arm|arm64|x86): "), ""),  # whose kernels these are, the columns say
    (re.compile(r"^(\w+)(:| came with) "), r"`\1`\2 "),
)


def reason(test: Outcome) -> str:
    """Why a test was skipped, in words that are the same for all kernels."""
    text = alike(test.reason, test.kernel_release)
    for pattern, short in SHORTER:
        text = pattern.sub(short, text)
    return text


def table(tests: Sequence[Outcome], kernels: Sequence[str]) -> str:
    """A row for each reason, the most frequent first, and a column for each kernel."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for test in tests:
        if test.directive == "SKIP" and test.kernel in kernels:
            counts[reason(test)][test.kernel] += 1
    rows = sorted(counts.items(), key=lambda row: (-row[1].total(), row[0]))
    whole = sum(counts.values(), Counter[str]())
    return "".join(_lines([*rows, ("**all**", whole)], kernels))


def _lines(rows: Sequence[tuple[str, Counter[str]]], kernels: Sequence[str]) -> Iterator[str]:
    yield f"| reason | {' | '.join(kernels)} |\n|{'---|' * (len(kernels) + 1)}\n"
    for text, counts in rows:
        yield f"| {text} | {' | '.join(str(counts[name] or '') for name in kernels)} |\n"


def columns(text: str) -> list[str]:
    """The kernels of the page's table. Raises ValueError where it has none."""
    found = TABLE.search(text)
    if not found:
        raise ValueError(f"{PAGE} has no table of reasons that ends with **all**")
    return [cell.strip() for cell in found[0].partition("\n")[0].split("|")[2:-1]]


def main(words: Sequence[str] | None = None) -> int:
    """Write; 1 where the record lacks one of the kernels."""
    parser = argparse.ArgumentParser(prog="python -m tests.skips_table", description=__doc__)
    parser.add_argument("record", type=Path)
    options = parser.parse_args(words)
    try:
        tests = records.read(options.record).tests
    except RecordError as error:
        parser.error(str(error))
    text = PAGE.read_text(encoding="utf-8")
    kernels = columns(text)
    if lacking := set(kernels) - {test.kernel for test in tests}:
        sys.stderr.write(f"{options.record} has no test of {', '.join(sorted(lacking))}\n")
        return 1
    new = TABLE.sub(lambda _: table(tests, kernels), text)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
