# SPDX-License-Identifier: GPL-2.0
"""The catalogue of injected bugs: the files of `bugs/`, in the order of their names.

A file has a class of bugs; a bug is one table, and its number is its position in the catalogue.

    class = "zero pages"

    [[bug]]
    name = "placing-not-counted-globally"
    breaks = "A zero page that KSM places is missing in the system's count."
    file = "include/linux/ksm.h"        # of the kernel; also for the tables that follow
    function = "ksm_map_zero_page"      # optional for an anchor outside functions
    past = "case PR_SET_MEMORY_MERGE:"  # optional: the anchor is the first one behind this
    drop = "atomic_long_inc(&ksm_zero_pages);"
    killers = ["test_zero_page_placement"]

One of these says what the bug does:

    drop = STATEMENT                    the statement is not executed
    replace = EXPRESSION, by = ...      another value
    before = STATEMENT, do = ...        other statements first
    after = STATEMENT, do = ...         other statements behind

`also` is a list of further edits that say what differs from the first one. `killers` are the
modules or tests that should notice the bug, without their directory, and `arches` the architectures
that it can be noticed on, where not all; those of the whole class may stand beside `class`.
`equivalent = "why"` says that nobody can notice it. A table `[bug.on."6.12"]` says what differs on
releases up to and including that one (`equivalent = ""`: there it can be noticed), `since = "7.0"`
that older ones have no such code.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutants.edits import Edit

BUGS = Path(__file__).with_name("bugs")
OPERAND = {"drop": "", "replace": "by", "before": "do", "after": "do"}  # by verb
EDIT = frozenset((*OPERAND, "by", "do", "file", "function", "past"))
KEYS = EDIT | {"name", "breaks", "killers", "equivalent", "since", "on", "also", "arches"}

Version = tuple[int, int]


class CatalogueError(Exception):
    """An entry of the catalogue is not understood."""


@dataclass(frozen=True)
class Bug:
    """One injected bug; `number` selects it."""

    number: int
    name: str
    kind: str
    breaks: str
    edits: tuple[Edit, ...]  # none where the kernel's release has no such code
    killers: tuple[str, ...]
    equivalent: str
    arches: tuple[str, ...] = ()  # all, where none is named


def bugs(release: Version, directory: Path = BUGS) -> list[Bug]:
    """All bugs, as they are put into a kernel of that release. Raises CatalogueError."""
    found = [
        _bug(number, table, release) for number, table in enumerate(_tables(directory), start=1)
    ]
    names = [bug.name for bug in found]
    doubles = {name for name in names if names.count(name) > 1}
    if doubles:
        raise CatalogueError(f"{directory}: more than one bug is named {', '.join(doubles)}")
    return found


def version(release: str) -> Version:
    """Major and minor of a release such as 6.12.95-cloud. Raises ValueError."""
    major, minor, *_ = release.replace("-", ".").split(".")
    return int(major), int(minor)


def described(found: Sequence[Bug], arch: str) -> list[dict[str, Any]]:
    """The catalogue as it accompanies a kernel that has these bugs, for an architecture."""
    return [
        {
            "id": bug.number,
            "name": bug.name,
            "class": bug.kind,
            "description": bug.breaks,
            "killers": list(bug.killers),
            "equivalent": bug.equivalent,
        }
        for bug in found
        if bug.edits and (not bug.arches or arch in bug.arches)
    ]


def _tables(directory: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(directory.glob("*.toml")):
        try:
            data = tomllib.loads(path.read_text("utf-8"))
            kind, tables = data["class"], data["bug"]
        except (tomllib.TOMLDecodeError, KeyError) as error:
            raise CatalogueError(f"{path}: {error!r}") from error
        file = ""
        for table in tables:
            unknown = table.keys() - KEYS
            if unknown:
                raise CatalogueError(f"{path}: {table.get('name')}: unknown {sorted(unknown)}")
            file = table.get("file", file)
            of_all = {key: data.get(key, []) for key in ("killers", "arches")}
            yield {**of_all, **table, "file": file, "class": kind}


def _bug(number: int, table: Mapping[str, Any], release: Version) -> Bug:
    name = table.get("name", f"number {number}")
    for key in ("name", "class", "breaks", "file"):
        if not table.get(key):
            raise CatalogueError(f"bug {name}: {key} is missing")
    there = _on(table, release)
    edits: tuple[Edit, ...] = ()
    if "since" not in table or version(table["since"]) <= release:
        edits = tuple(_edits(number, name, there))
    return Bug(
        *(number, name, table["class"], table["breaks"], edits),
        *(tuple(table["killers"]), there.get("equivalent", ""), tuple(table["arches"])),
    )


def _on(table: Mapping[str, Any], release: Version) -> dict[str, Any]:
    """What a bug is on a release."""
    for last, changes in sorted(table.get("on", {}).items(), key=lambda item: version(item[0])):
        if release <= version(last):
            return _with(table, changes)
    return dict(table)


def _with(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A table with changes; another verb takes the place of the one that was there."""
    old = {*OPERAND, "by", "do"} if changes.keys() & OPERAND.keys() - table.keys() else set()
    return {**{key: value for key, value in table.items() if key not in old}, **changes}


def _edits(number: int, name: str, table: Mapping[str, Any]) -> Iterator[Edit]:
    first = {key: value for key, value in table.items() if key in EDIT}
    yield _edit(number, name, first)
    for changes in table.get("also", ()):
        if not changes.keys() <= EDIT:
            raise CatalogueError(f"bug {name}: also: unknown {sorted(changes.keys() - EDIT)}")
        yield _edit(number, name, _with(first, changes))


def _edit(number: int, name: str, table: Mapping[str, Any]) -> Edit:
    verbs = [verb for verb in OPERAND if verb in table]
    if len(verbs) != 1 or not all(table.keys() & {key} for key in (OPERAND[verbs[0]],) if key):
        raise CatalogueError(f"bug {name}: {verbs} is no verb with what belongs to it")
    verb = verbs[0]
    for opening, closing in ("()", "[]", "{}"):
        if table[verb].count(opening) != table[verb].count(closing):
            raise CatalogueError(f"bug {name}: {verb}: {opening} without its {closing}")
    before, behind = _around(verb, f"ksm_mutant({number})", table.get(OPERAND[verb], ""))
    return Edit(
        *(table["file"], table.get("function", ""), table.get("past", "")),
        *(table[verb], before, behind),
    )


def _around(verb: str, selected: str, operand: str) -> tuple[str, str]:
    """What is put before and behind the anchor; statements stay whole, for an `else` to come."""
    match verb:
        case "drop":
            return f"{{ if (!{selected}) {{ ", " } }"
        case "replace":
            return f"({selected} ? ({operand}) : (", "))"
        case "before":
            return f"{{ if ({selected}) {{ {operand} }} ", " }"
    return "{ ", f" if ({selected}) {{ {operand} }} }}"
