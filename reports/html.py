# SPDX-License-Identifier: GPL-2.0
"""Runs as pages that need no server: `index.html` and what it leads to, in one directory.

Whatever comes of a record is escaped by Jinja, after `shown.block` has made it visible and short
enough; names of files are made of letters and a hash. The pages allow no script but the one that
is in the index, by its hash, and are complete without it.
"""

import base64
import hashlib
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports import charts, shown
from reports.history import FAILING, LACKS, Cell, History, alike, gist
from reports.records import Outcome, Run
from reports.times import times

TEMPLATES = Path(__file__).with_name("templates")
MARK = ".ksmtests-report"  # what lies here is ours, and may be replaced
CELLS = "cells"
LONGEST_NAME = 80  # characters of a file's name before its hash
# Worst first.
ORDER = ("error", "fail", LACKS, "xpass", "xfail", "skip", "pass")
# What begins a section of a log: titles of the plugins, and of pytest's capture.
SECTION = re.compile(
    r"^(KSM evidence|upstream fixes|kernel log since the test began|console of the guest|"
    r"Captured (?:stdout|stderr|log) (?:setup|call|teardown)):$",
    re.MULTILINE,
)


class OutputError(Exception):
    """The pages cannot be written; the message says where and why."""


def write(runs: Sequence[Run], directory: Path) -> Path:
    """Write the pages; returns the first one. Raises OutputError."""
    try:
        _prepare(directory)
        history = History.of(runs)
        for name, text in _pages(history):
            (directory / name).write_text(text, encoding="utf-8")
        shutil.copy(TEMPLATES / "style.css", directory / "style.css")
    except OSError as error:
        raise OutputError(f"cannot write a report to {directory}: {error}") from error
    return directory / "index.html"


def _prepare(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()) and not (directory / MARK).exists():
        raise OutputError(f"{directory} has files that are no report: name another directory")
    (directory / MARK).touch()
    shutil.rmtree(directory / CELLS, ignore_errors=True)
    (directory / CELLS).mkdir()


def _pages(history: History) -> Iterator[tuple[str, str]]:
    """Names of files and what is in them."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(line=shown.line, moment=shown.moment)
    environment.globals.update(page=page, gist=gist, charts=charts, history=history)
    script = (TEMPLATES / "script.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    reasons = skip_reasons(history)
    cells = [cell for test in history.tests for cell in history.of_test(test)]
    yield (
        "index.html",
        environment.get_template("index.html").render(
            kernels=[summary(history, name) for name in history.kernels],
            modules=modules(history),
            reasons=reasons,
            reason_of=lambda cell: list(reasons).index(alike(cell.latest)),
            failures=[cell for cell in cells if cell.failing],
            lacking=sum(cell.kind == LACKS for cell in cells),
            changes=[cell for cell in cells if cell.changed],
            new=sum(cell.newly_failing for cell in cells),
            order=ORDER,
            script=Markup(script),  # noqa: S704 - ours
            digest=digest,
        ),
    )
    yield (
        "times.html",
        environment.get_template("times.html").render(times=times(history)),
    )
    template = environment.get_template("cell.html")
    for cell in history.cells.values():
        if name := page(cell):
            run = history.runs[max(cell.outcomes)]
            yield (
                name,
                template.render(
                    cell=cell,
                    run=run,
                    durations=[
                        (history.runs[number].start, outcome.duration)
                        for number, outcome in sorted(cell.outcomes.items())
                    ],
                    sections=sections(cell.latest.log),
                    command=again(run, cell.latest),
                ),
            )


def _visible(value: Any) -> Any:
    return shown.block(value) if type(value) is str else value


def page(cell: Cell) -> str:
    """The file of a cell; "" where there is nothing to tell of it but that it passed."""
    if cell.latest.result == "pass" and not cell.changed:
        return ""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", f"{cell.kernel}-{cell.test.rpartition('::')[2]}")
    identity = hashlib.sha256(f"{cell.kernel}\0{cell.test}".encode(errors="surrogatepass"))
    return f"{CELLS}/{plain[:LONGEST_NAME].strip('-')}-{identity.hexdigest()[:12]}.html"


def again(run: Run, outcome: Outcome) -> str:
    """The command that runs just that again."""
    name, test = outcome.kernel, outcome.test
    if name:
        test = f"{test[:-1]}-{name}]" if test.endswith("]") else f"{test}[{name}]"
    arguments = run.again.get(name, [f"--kernel={name}"] if name else [])
    return shlex.join(["python", "-m", "pytest", *arguments, test])


def sections(log: str) -> list[tuple[str, str]]:
    """A log's parts with their titles; the first one is the traceback."""
    first, *rest = SECTION.split(log)
    parts = [("traceback", first), *zip(rest[::2], rest[1::2], strict=True)]
    return [(title, text.strip("\n")) for title, text in parts if text.strip()]


def skip_reasons(history: History) -> dict[str, int]:
    """Reasons of skips, those of most tests first."""
    skipped = [cell for cell in history.cells.values() if cell.latest.result == "skip"]
    return dict(Counter(alike(cell.latest) for cell in skipped).most_common())


def modules(history: History) -> dict[str, list[str]]:
    """The tests of each module."""
    found: dict[str, list[str]] = {}
    for test in history.tests:
        found.setdefault(test.partition("::")[0], []).append(test)
    return found


def summary(history: History, kernel: str) -> dict[str, Any]:
    """A kernel's row of the first table."""
    cells = history.on(kernel)
    counts = Counter(cell.kind for cell in cells)
    known = [cell.latest for cell in cells if cell.latest.kernel_release]
    return {
        "name": kernel,
        "release": known[0].kernel_release if known else "",
        "architecture": known[0].architecture if known else "",
        "counts": {name: counts[name] for name in ORDER},
        "failing": sum(counts[name] for name in FAILING),
        "shares": charts.shares([(name, counts[name]) for name in ORDER]),
    }
