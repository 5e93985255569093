# SPDX-License-Identifier: GPL-2.0
"""Which sabotage turns which test red: `python -m tests.sabotage_table` runs them all, and writes
tests/seen_red.toml and docs/seen-red.md anew; with `--page` it writes the page alone.

Kept as they are in tests/seen_red.toml: why a sabotage has no killer, why a test is not killed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.sabotage import SABOTAGES
from tests.sabotages.scene import Sabotage

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).with_name("seen_red.toml")
PAGE = ROOT / "docs" / "seen-red.md"
SUITE = "ksmtests"
DEADLINE = 600  # s for one run
JOBS = os.cpu_count() or 1
# What a test fails with that has understood what it saw; anything else is trouble on the way.
VERDICTS = frozenset(f"failed: {name}" for name in ("AssertionError", "Failed", "NotMerged"))
TO_DO = "TO DO"
PASSED, FAILED = 0, 1  # exit statuses of pytest; all others tell of trouble


class RunFailed(Exception):
    """A run of the suite that says nothing about the tests."""


def is_red(sabotage: Sabotage, outcome: str) -> bool:
    """Whether a test has noticed: failed for the bug, or passed for want of a known one."""
    return outcome == "xpassed" if sabotage.kind == "repair" else outcome in VERDICTS


def _pytest(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")
    }
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def run(name: str | None, selection: Sequence[str]) -> dict[str, str]:
    """The suite under a sabotage, or none: node id -> outcome. Raises RunFailed."""
    with tempfile.TemporaryDirectory() as directory:
        outcomes = Path(directory) / "outcomes.json"
        sabotage = [] if name is None else ["--sabotage", name]
        options = ["-p", "tests.sabotage", *sabotage, "--sabotage-outcomes", str(outcomes)]
        done = _pytest(*options, "--tb=short", *selection)
        if done.returncode not in (PASSED, FAILED):
            raise RunFailed(f"{name or 'no sabotage'}: {done.stdout}{done.stderr}")
        found: dict[str, str] = json.loads(outcomes.read_text())
        return found


def collect() -> list[str]:
    """The node ids of all tests of the kernel. Raises RunFailed."""
    done = _pytest("--collect-only", SUITE)
    ids = [line for line in done.stdout.splitlines() if line.startswith(f"{SUITE}/")]
    if done.returncode or not ids:
        raise RunFailed(f"collection: {done.stdout}{done.stderr}")
    return ids


@dataclass
class Table:
    """tests/seen_red.toml."""

    red: dict[str, list[str]] = field(default_factory=dict)  # sabotage -> tests it turns red
    survivors: dict[str, str] = field(default_factory=dict)  # sabotage -> why no test notices
    unseen: dict[str, str] = field(default_factory=dict)  # test -> why no sabotage turns it red

    @classmethod
    def load(cls) -> "Table":
        """Read it."""
        return cls(**tomllib.loads(TABLE.read_text())) if TABLE.exists() else cls()

    def save(self) -> None:
        """Write it."""
        TABLE.write_text("\n".join(self._lines()) + "\n")

    def _lines(self) -> Iterator[str]:
        yield "# SPDX-License-Identifier: GPL-2.0"
        yield "# Which tests each sabotage turns red: written by `python -m tests.sabotage_table`."
        yield "# The reasons at the end are written by hand, and kept."
        yield "\n[red]"
        for name, tests in self.red.items():
            yield f"{name} = ["
            yield from (f"    {json.dumps(test)}," for test in tests)
            yield "]"
        for section, reasons in (("survivors", self.survivors), ("unseen", self.unseen)):
            yield f"\n[{section}]"
            yield from (f"{json.dumps(key)} = {json.dumps(why)}" for key, why in reasons.items())

    def killers_of(self, test: str) -> list[str]:
        """The sabotages that turn a test red."""
        return [name for name, tests in self.red.items() if test in tests]


def _selection(sabotage: Sabotage) -> list[str]:
    # Tests of known bugs fail as ever under another bug: only their repair says something.
    marks = "upstream_bug" if sabotage.kind == "repair" else "not upstream_bug"
    return ["-m", marks, SUITE]


def _reds(name: str, rounds: int) -> list[str]:
    """The tests a sabotage turns red every time, in the order of the suite."""
    sabotage = SABOTAGES[name]
    selection = _selection(sabotage)
    for _ in range(rounds):
        outcomes = run(name, selection)
        selection = [test for test, outcome in outcomes.items() if is_red(sabotage, outcome)]
        if not selection:
            break
    return selection


def assert_nothing_is_red() -> None:
    """Without sabotage no test may fail, or it would pass for noticing each. Raises RunFailed."""
    outcomes = run(None, [SUITE])
    wrong = [f"{test}: {outcome}" for test, outcome in outcomes.items() if ": " in outcome]
    if wrong:
        raise RunFailed("tests fail without any sabotage:\n" + "\n".join(wrong))


def measure(names: Iterable[str], rounds: int) -> dict[str, list[str] | RunFailed]:
    """Run sabotages over the whole suite, and what they turn red so many times in all."""

    def one(name: str) -> list[str] | RunFailed:
        try:
            return _reds(name, rounds)
        except RunFailed as error:
            return error

    chosen = list(names)
    with ThreadPoolExecutor(JOBS) as pool:
        return dict(zip(chosen, pool.map(one, chosen), strict=True))


def revised(table: Table, reds: Mapping[str, Collection[str]], tests: Sequence[str]) -> Table:
    """The table with new rows, for the tests there are; rows not measured and reasons are kept."""
    found = {name: reds.get(name, table.red.get(name, [])) for name in SABOTAGES}
    rows = {name: [test for test in tests if test in killed] for name, killed in found.items()}
    seen = {test for row in rows.values() for test in row}
    return Table(
        {name: row for name, row in rows.items() if row},
        {
            name: table.survivors.get(name, f"{TO_DO}: sharpen a test, or say why none can notice")
            for name, row in rows.items()
            if not row
        },
        {
            test: table.unseen.get(test, f"{TO_DO}: add a sabotage, or say why none can be made")
            for test in tests
            if test not in seen
        },
    )


def page(table: Table) -> str:
    """docs/seen-red.md."""
    return "\n".join(_page_lines(table)) + "\n"


def _page_lines(table: Table) -> Iterator[str]:
    yield "# Seen red"
    yield ""
    yield "Every test must be able to fail, for the bug it is about. `tests/sabotage.py` makes this"
    yield "kernel look as if it had one named bug; `tests/test_seen_red.py` checks that each test"
    yield "below fails under the sabotages beside it. Generated: `python -m tests.sabotage_table`."
    yield ""
    yield "Tests of known upstream bugs, which fail on every kernel, are shown the other way round:"
    yield "under a sabotage named `repaired-…` the bug seems gone, and they pass."
    yield ""
    yield from _tests_part(table)
    yield from _sabotages_part(table)
    yield from _reasons_part(
        "Sabotages no test notices", "sabotage", "what is missing", table.survivors
    )
    yield from _reasons_part("Tests not seen red", "test", "why", table.unseen)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _head(*titles: str) -> Iterator[str]:
    yield _row(*titles)
    yield _row(*["---"] * len(titles))


def _tests_part(table: Table) -> Iterator[str]:
    yield "## Tests, and what turns them red"
    modules: dict[str, dict[str, None]] = {}
    for test in dict.fromkeys(test for tests in table.red.values() for test in tests):
        module, _, name = test.partition("::")
        modules.setdefault(module, {})[name] = None
    for module in sorted(modules):
        yield f"\n### {module}\n"
        yield from _head("test", "red under")
        for name in modules[module]:
            killers = table.killers_of(f"{module}::{name}")
            yield _row(f"`{name}`", ", ".join(killers))
    yield ""


def _sabotages_part(table: Table) -> Iterator[str]:
    yield "## Sabotages\n"
    yield from _head("sabotage", "the bug it imitates", "tests red")
    for name, sabotage in SABOTAGES.items():
        yield _row(name, sabotage.bug, str(len(table.red.get(name, ()))))
    yield ""


def _reasons_part(title: str, key: str, why: str, reasons: dict[str, str]) -> Iterator[str]:
    if reasons:
        yield f"## {title}\n"
        yield from _head(key, why)
        yield from (_row(f"`{name}`", reason) for name, reason in reasons.items())
        yield ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table and the page; returns 1 where a run went wrong, whose old row is kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.sabotage_table", description=__doc__)
    parser.add_argument("name", nargs="*", help="run these sabotages alone, and keep the rest")
    parser.add_argument("--page", action="store_true", help="write docs/seen-red.md alone")
    parser.add_argument("--rounds", type=int, default=4, help="a test is red in each of them")
    options = parser.parse_args(arguments)
    failures: list[RunFailed] = []
    if not options.page:
        assert_nothing_is_red()
        measured = measure(options.name or SABOTAGES, options.rounds)
        failures = [found for found in measured.values() if isinstance(found, RunFailed)]
        reds = {name: row for name, row in measured.items() if not isinstance(row, RunFailed)}
        revised(Table.load(), reds, collect()).save()
    PAGE.write_text(page(Table.load()))
    for failure in failures:
        sys.stderr.write(f"{failure}\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
