# SPDX-License-Identifier: GPL-2.0
"""What runs said of each bug: kept in results.json, and shown in docs/mutants.md.

results.json has one column for each suite, architecture and release:

    {"ours x86 7.2": {NAME: {"result": "killed", "by": "test_profit::test_x", "hits": 32}}}
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mutants.catalogue import Bug
from mutants.run import KILLED, Result, counts

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parent.parent / "docs/mutants.md"

Column = Mapping[str, Mapping[str, str | int]]

HEAD = """\
# Injected bugs

One kernel with all of these bugs in it, each of which can be selected at run time, tells whether a
green run means anything: while a bug is selected, some test has to fail.

<!-- not run: takes a kernel build, and most of an hour for each run -->
```sh
python -m mutants build --arch x86              # or arm64, arm; --release 7.2 or 6.12
python -m mutants run --arch x86                # this suite
python -m mutants run --arch x86 --suite ksft   # the kernel's own C tests, timed ones excepted
python -m mutants run --image IMAGE --catalogue FILE.json   # whatever kernel keeps the contract
python -m mutants coverage                      # lines of KSM that this suite executes
```

Each bug gets a fresh guest, and its run ends at the first test that fails. A run that was cut short
goes on where it was; the exit status is 1 where a bug is alive. The contract is two files,
/sys/kernel/mm/ksm_mutant, which selects a bug by its number (0 is none), and
/sys/kernel/mm/ksm_mutant_hits, which counts how often its code was reached, and a JSON list of
objects with `id`, `name`, `class` and `description`.

On two processors 234 of these bugs took this suite 21 minutes on x86, and 19 on arm64. Run again on
x86, each came to the same result. The C tests count where they always pass without a bug;
`ksm_tests -N -m 1` does not. LTP, which Debian has no package of, was not run;
what they check is in [coverage.md](coverage.md).

## Lines that run
Of the lines of a 7.2 for x86 that gcov counts, the suite executes 1253 of 1317 in mm/ksm.c (95 %);
of those that mention KSM elsewhere, 10 of 12 in mm/memory.c, and all 13 in mm/khugepaged.c,
fs/proc/base.c and kernel/sys.c. Lines of mm/ksm.c that no test reaches:

| lines | what they are for |
| --- | --- |
| 21 | KSM cannot be set up at boot, for want of memory |
| 17 | a page or its mapping changes between two looks of ksmd |
| 10 | ksm_get_folio() meets a page that is being freed or moved at that moment |
| 5 | ksm_disable(), which KVM on s390 alone calls |
| 5 | somebody else walks the same reverse mapping |
| 3 | a page fails while it is copied for a swapped-in user |
| 3 | a process ends in the midst of a scan, or of advice |

## Results
This part is made by `python -m mutants table`, of results that `run --record` keeps.
"""


def load(path: Path = RESULTS) -> dict[str, Column]:
    """The columns."""
    columns: dict[str, Column] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return columns


def record(column: str, results: Iterable[Result], path: Path = RESULTS) -> None:
    """Put results into a column; what it says of other bugs stays."""
    columns = load(path)
    new: dict[str, Mapping[str, str | int]] = {
        one.name: {
            "result": one.result,
            **({"by": one.killers[0]} if one.killers else {}),
            "hits": one.hits,
        }
        for one in results
    }
    columns[column] = dict(sorted({**columns.get(column, {}), **new}.items()))
    text = json.dumps(columns, indent=1, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")


def killers(columns: Mapping[str, Column]) -> dict[str, list[str]]:
    """The tests, MODULE::FUNCTION, that killed each bug wherever it was tried, by its name."""
    found: dict[str, list[str]] = {}
    for column in columns.values():
        for name, cell in column.items():
            test = str(cell.get("by", ""))
            if "::" in test and test not in found.get(name, ()):
                found.setdefault(name, []).append(test)
    return found


def page(found: Sequence[Bug], columns: Mapping[str, Column]) -> str:
    """The page, with a table of each class."""
    known = {bug.name for bug in found}
    lines = [HEAD, *_totals(columns, known)]
    for kind in dict.fromkeys(bug.kind for bug in found):
        head = ["bug", *columns]
        lines += ["", f"## {kind.capitalize()}", "", _row(head), _row(["---"] * len(head))]
        lines += [
            _row([_described(bug), *(_cell(columns[one].get(bug.name)) for one in columns)])
            for bug in found
            if bug.kind == kind
        ]
    return "\n".join(lines) + "\n"


def _totals(columns: Mapping[str, Column], known: set[str]) -> list[str]:
    lines = [_row(["", "bugs", *counts([])]), _row(["---"] * 6)]
    for name, column in columns.items():
        results = [str(cell["result"]) for bug, cell in column.items() if bug in known]
        numbers = [str(results.count(what)) for what in counts([])]
        lines.append(_row([name, str(len(results)), *numbers]))
    return lines


def _described(bug: Bug) -> str:
    why = f" *Equivalent: {bug.equivalent}*" if bug.equivalent else ""
    return f"**{bug.name}** {bug.breaks}{why}"


def _cell(said: Mapping[str, str | int] | None) -> str:
    if said is None:
        return "–"
    if said["result"] == KILLED:
        by = str(said.get("by", "")).replace("|", " ").splitlines()
        return f"`{by[0]}`" if by else KILLED
    return f"**{said['result']}**"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
