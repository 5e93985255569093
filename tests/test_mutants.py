# SPDX-License-Identifier: GPL-2.0
"""Injected bugs: how they are put into source, what is said of them, what a run makes of that."""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from guests.debian import Package, fetch
from mutants import catalogue, kernel, results, run
from mutants.catalogue import Bug, CatalogueError
from mutants.edits import INCLUDE, AnchorError, Edit, Source
from mutants.run import BROKEN, KILLED, SURVIVED, UNREACHED, Result, RunError, Store, Suite, Target
from tests.test_plugins import run as run_pytest

pytest_plugins = "pytester"

NEEDED = ("-p", "plugins.requirements", "-p", "plugins.kernels")  # by plugins.mutant
SOURCE = """\
#include <linux/mm.h>

static int other(void);

/* counts(1) */
static int
other(void)
{
	return 1;
}

static void counts(struct mm_struct *mm)
{
	if (mm)
		atomic_long_inc(&zero_pages); /* one */
	else
		atomic_long_inc(
			&mm->zero_pages);
	mm->ksm_items--;
}
"""


def edited(*edits: Edit) -> str:
    """The source with edits, without what they include."""
    source = Source("mm/x.c", SOURCE)
    for edit in edits:
        source.apply(edit)
    return source.text().removeprefix(INCLUDE)


def edit(anchor: str, function: str = "counts", past: str = "") -> Edit:
    """An edit that puts brackets around an anchor."""
    return Edit("mm/x.c", function, past, anchor, "<", ">")


def test_anchor_is_found_in_any_layout() -> None:
    """Neither line breaks nor comments matter, and tokens are compared whole."""
    assert "<atomic_long_inc(\n\t\t\t&mm->zero_pages);>" in edited(
        edit("atomic_long_inc(&mm->zero_pages);")
    )


def test_nothing_but_the_added_text_changes() -> None:
    """What is put in is all that is new."""
    text = edited(edit("atomic_long_inc(&zero_pages);"), edit("mm->ksm_items--;"))
    assert text.replace("<atomic", "atomic").replace(";>", ";").replace("<mm", "mm") == SOURCE


def test_edits_may_have_one_anchor_or_lie_within_another() -> None:
    """Whichever comes first."""
    inner, outer = edit("zero_pages", past="if (mm)"), edit("atomic_long_inc(&zero_pages);")
    wanted = "<<atomic_long_inc(&<zero_pages>);>>"
    for order in ([inner, outer, outer], [outer, inner, outer], [outer, outer, inner]):
        assert wanted in edited(*order)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (edit("atomic_long_dec(&zero_pages);"), "is there not, not once"),
        (edit("atomic_long_inc"), "is there 2 times, not once"),
        (edit("ksm_items"), None),
        (edit("items"), "is there not, not once"),
        (edit("mm", "nowhere"), "has no function nowhere"),
        (edit("mm", past="while"), "`while` is there not"),
        (edit("return 1;", "other"), None),
    ],
)
def test_anchor_has_to_be_there_once(broken: Edit, words: str | None) -> None:
    """Else the error names it."""
    if words is None:
        assert edited(broken)
        return
    with pytest.raises(AnchorError, match=words):
        edited(broken)


def bugs(text: str, directory: Path, release: str = "7.2") -> list[Bug]:
    """The bugs of a catalogue with one file."""
    (directory / "one.toml").write_text(f'class = "tests"\n{text}', encoding="utf-8")
    return catalogue.bugs(catalogue.version(release), directory)


ENTRY = """
[[bug]]
name = "one"
breaks = "Something."
file = "mm/x.c"
function = "counts"
"""


def test_verbs_keep_statements_whole(tmp_path: Path) -> None:
    """An `else` that follows still belongs to its `if`."""
    found = bugs(ENTRY + 'drop = "atomic_long_inc(&zero_pages);"', tmp_path)[0].edits[0]
    text = edited(found)
    assert "{ if (!ksm_mutant(1)) { atomic_long_inc(&zero_pages); } }" in text


def test_release_decides_on_what_differs(tmp_path: Path) -> None:
    """Another verb takes the place of the first."""
    text = ENTRY + (
        'drop = "a;"\nequivalent = "Why."\n'
        '[bug.on."6.12"]\nequivalent = ""\nreplace = "b"\nby = "c"\n'
        '[[bug]]\nname = "two"\nbreaks = "More."\nsince = "7.0"\nfile = "mm/x.c"\ndrop = "d;"\n'
    )
    new, old = bugs(text, tmp_path), bugs(text, tmp_path, "6.12")
    assert [one.edits[0].anchor for one in new] == ["a;", "d;"]
    assert old[0].edits[0].before == "(ksm_mutant(1) ? (c) : ("
    assert [one[0].equivalent for one in (new, old)] == ["Why.", ""]
    assert not old[1].edits
    assert [one["id"] for one in catalogue.described(old, "x86")] == [1]


def test_bug_that_an_architecture_cannot_show_is_not_run_there(tmp_path: Path) -> None:
    """It is in the kernel, as its number is the same everywhere."""
    first = ENTRY + 'drop = "a;"\narches = ["x86"]\n'
    found = bugs(first + '[[bug]]\nname = "two"\nbreaks = "More."\ndrop = "b;"\n', tmp_path)
    assert [one["id"] for one in catalogue.described(found, "x86")] == [1, 2]
    assert [one["id"] for one in catalogue.described(found, "arm64")] == [2]
    assert all(bug.edits for bug in found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ENTRY, "is no verb"),
        (ENTRY + 'replace = "a"', "is no verb with what belongs to it"),
        (ENTRY + 'drop = "a;"\nafter = "b"\ndo = "c;"', "is no verb"),
        (ENTRY + 'drop = "if (a) {"', "without its }"),
        (ENTRY + 'drop = "a;"\nkiler = "x"', "unknown"),
        (ENTRY + 'drop = "a;"\nalso = [{ killers = [] }]', "also: unknown"),
        (2 * (ENTRY + 'drop = "a;"'), "more than one bug is named one"),
        ('[[bug]]\nname = "one"\ndrop = "a;"', "breaks is missing"),
        ("[[bug", "one.toml"),
    ],
)
def test_malformed_entry_is_named(text: str, words: str, tmp_path: Path) -> None:
    """With what is wrong with it."""
    with pytest.raises(CatalogueError, match=words):
        bugs(text, tmp_path)


@pytest.mark.network
@pytest.mark.parametrize("release", kernel.SUITES)
def test_every_anchor_is_in_the_source(release: str, tmp_path: Path) -> None:
    """On each release that kernels are built of."""
    found = catalogue.bugs(catalogue.version(release))
    files = {one.file for bug in found for one in bug.edits} | {kernel.MAKEFILE}
    missing = set(files)
    package = fetch(Package(f"linux-source-{release}", kernel.SUITES[release]))
    with tarfile.open(next(package.glob("usr/src/*.tar.xz")), "r|xz") as tar:
        for member in tar:
            _, _, member.name = member.name.partition("/")
            if member.name in files:
                tar.extract(member, tmp_path / "tree", filter="data")
                missing.remove(member.name)
            if not missing:
                break
    for directory in kernel.SWITCH.values():
        (tmp_path / "tree" / directory).mkdir(exist_ok=True)
    written = kernel.edit(tmp_path / "tree", tmp_path / "originals", found)
    assert set(written) > files
    assert kernel.edit(tmp_path / "tree", tmp_path / "originals", found) == []


def test_enough_bugs_of_every_class() -> None:
    """The catalogue covers what a user can notice of KSM."""
    found = catalogue.bugs((7, 2))
    assert len(found) >= 80
    assert all(bug.breaks.endswith(".") for bug in found)


def test_tree_gets_back_what_no_bug_changes_any_more(tmp_path: Path) -> None:
    """Else the bug would stay in the kernel, without a number."""
    tree, originals = tmp_path / "tree", tmp_path / "originals"
    for name in ("mm/x.c", "mm/Makefile"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(SOURCE, encoding="utf-8")
    (tree / "include/linux").mkdir(parents=True)
    found = bugs(ENTRY + 'drop = "mm->ksm_items--;"', tmp_path)
    kernel.edit(tree, originals, found)
    assert "ksm_mutant(1)" in (tree / "mm/x.c").read_text()
    assert "mm/x.c" in kernel.edit(tree, originals, [])
    assert (tree / "mm/x.c").read_text() == SOURCE


CASE = """\
<testsuites><testsuite>
<testcase classname="ksmtests.test_a" name="test_skipped[x86]"><skipped/></testcase>
<testcase classname="ksmtests.test_a" name="test_good[x86]">
<properties><property name="mutant_hits" value="3"/></properties></testcase>
<testcase classname="ksmtests.test_b" name="test_bad[1-x86]">
<properties><property name="mutant_hits" value="7"/></properties><failure/></testcase>
</testsuite></testsuites>
"""


def test_report_tells_killers_and_hits(tmp_path: Path) -> None:
    """Tests without what they are parametrized by."""
    report = tmp_path / "report.xml"
    assert run.read_report(report) == (0, (), 0)
    report.write_text(CASE, encoding="utf-8")
    assert run.read_report(report) == (2, ("test_b::test_bad",), 7)


def result(number: int, what: str) -> Result:
    """A result."""
    return Result(number, f"bug-{number}", "tests", what, (), 1, 0.5)


def test_run_goes_on_where_it_was_cut_short(tmp_path: Path) -> None:
    """What is kept is not tried again."""
    store = Store(tmp_path / "results.jsonl")
    store.keep(result(2, KILLED))
    tried: list[int] = []

    def attempt(bug: Target) -> Result:
        tried.append(bug.id)
        return result(bug.id, SURVIVED)

    targets = [Target(number, f"bug-{number}", "tests", "") for number in (1, 2, 3)]
    results = run.try_all(targets, attempt, 1, store, lambda _: None)
    assert tried == [1, 3]
    assert [one.result for one in results] == [SURVIVED, KILLED, SURVIVED]
    assert store.results() == {one.id: one for one in results}


def test_result_of_another_catalogue_does_not_count(tmp_path: Path) -> None:
    """A bug that was added has moved the numbers of those behind it."""
    store = Store(tmp_path / "results.jsonl")
    store.keep(result(1, KILLED))
    moved = Target(1, "added", "tests", "")
    tried = run.try_all(
        [moved], lambda bug: replace(result(1, SURVIVED), name=bug.name), 1, store, lambda _: None
    )
    assert [(one.name, one.result) for one in tried] == [("added", SURVIVED)]
    assert store.results()[1].name == "added"


def test_summary_tells_results_apart() -> None:
    """Those that are argued to be equivalent are named, not hidden."""
    targets = [Target(1, "a", "", "", equivalent="why"), *(Target(n, "b", "", "") for n in (2, 3))]
    results = [result(1, SURVIVED), result(2, UNREACHED), result(3, BROKEN)]
    said = run.summary(results, targets, 0.0)
    assert (said["mutants"], said["killed"]) == (3, 0)
    assert (said["survived"], said["unreached"], said["broken"]) == ([1], [2], [3])
    assert said["equivalent"] == [1]


def test_foreign_catalogue_is_read(tmp_path: Path) -> None:
    """With no more than the contract asks for; what is none is refused."""
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps([{"id": 4, "name": "x", "class": "c", "description": "d"}]))
    assert run.read_catalogue(path) == [Target(4, "x", "c", "d")]
    path.write_text('{"id": 4}')
    with pytest.raises(RunError, match="no catalogue of bugs"):
        run.read_catalogue(path)


def test_kernel_that_is_none_breaks_the_bug(tmp_path: Path) -> None:
    """With what pytest said of it."""
    image = tmp_path / "bzImage"
    image.write_bytes(b"no kernel")
    broken = Suite(image).try_bug(Target(1, "one", "", ""))
    assert broken.result == BROKEN
    assert "no image of a kernel" in broken.detail


def test_bug_is_selected_for_a_run_and_no_longer(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hits are in the reports."""
    selected, hits = pytester.path / "selected", pytester.path / "hits"
    selected.write_text("0")
    hits.write_text("5")
    monkeypatch.setattr("plugins.mutant.SELECTED", selected)
    monkeypatch.setattr("plugins.mutant.HITS", hits)
    source = f"def test_it(): assert open({str(selected)!r}).read() == '12'"
    options = (*NEEDED, "--mutant=12", "--junitxml=report.xml")
    outcome = run_pytest(pytester, "mutant", source, *options)
    outcome.assert_outcomes(passed=1)
    assert 'name="mutant_hits" value="5"' in (pytester.path / "report.xml").read_text()
    assert selected.read_text() == "0"


def test_kernel_without_bugs_is_refused(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without the bug would pass for one that the tests survived."""
    monkeypatch.setattr("plugins.mutant.SELECTED", pytester.path / "nothing")
    outcome = run_pytest(pytester, "mutant", "def test_it(): pass", *NEEDED, "--mutant=12")
    outcome.stderr.fnmatch_lines(["*this kernel has no *nothing: build one with*"])


def test_page_is_made_of_the_results(tmp_path: Path) -> None:
    """Every class has its table; what is not known of a bug is not made up."""
    path = tmp_path / "results.json"
    results.record("ours x86 7.2", [result(1, KILLED), result(2, SURVIVED)], path)
    results.record("ours x86 7.2", [result(2, UNREACHED)], path)
    results.record("ksft x86 7.2", [result(1, SURVIVED)], path)
    found = [
        Bug(number, f"bug-{number}", "tests", "Breaks.", (), (), "Why." if number == 2 else "")
        for number in (1, 2)
    ]
    text = results.page(found, results.load(path))
    assert "| ours x86 7.2 | 2 | 1 | 0 | 1 | 0 |" in text
    assert "| **bug-1** Breaks. | **survived** | killed |" in text
    assert "| **bug-2** Breaks. *Equivalent: Why.* | – | **unreached** |" in text


def test_tests_that_killed_a_bug_elsewhere_come_first(tmp_path: Path) -> None:
    """Before what the catalogue expects, and what killed others."""
    path = tmp_path / "results.json"
    killed = replace(result(1, KILLED), killers=("test_one::test_it", "test_two::test_that"))
    results.record("ours x86 7.2", [killed, result(2, SURVIVED)], path)
    known = results.killers(results.load(path))
    assert known == {"bug-1": ["test_one::test_it"]}
    command = Suite(tmp_path, known=known).command(
        Target(1, "bug-1", "", "", killers=("test_expected",)), tmp_path / "report.xml", ["here"]
    )
    assert [word for word in command if word.startswith("--first=")] == [
        "--first=test_it",
        "--first=test_expected",
    ]
    assert command[-1] == "here"


@pytest.mark.parametrize(
    ("known", "failing", "result", "tried"),
    [
        ("test_profit::test_x", ["test_profit"], KILLED, ["test_profit.py"]),
        ("test_profit::test_x", ["ksmtests"], KILLED, ["test_profit.py", "ksmtests"]),
        ("test_profit::test_x", [], SURVIVED, ["test_profit.py", "ksmtests"]),
        ("test_removed::test_x", ["ksmtests"], KILLED, ["ksmtests"]),
    ],
)
def test_a_bug_lives_only_when_all_tests_pass(
    known: str,
    failing: Sequence[str],
    result: str,
    tried: Sequence[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What killed it before is tried by itself, and is not the last word on a bug that lives."""
    seen: list[str] = []

    def pytest_there(command: Sequence[str], directory: Path) -> tuple[int, str]:
        seen.append(Path(command[-1]).name)
        failed = any(name in seen[-1] for name in failing)
        case = CASE if failed else CASE.replace("<failure/>", "")
        (directory / "report.xml").write_text(case, encoding="utf-8")
        return int(failed), ""

    monkeypatch.setattr(run, "_run", pytest_there)
    suite = Suite(tmp_path, known={"bug-1": [known]})
    assert suite.try_bug(Target(1, "bug-1", "", "")).result == result
    assert seen == tried


def test_published_page_is_up_to_date() -> None:
    """`python -m mutants table` after a run that recorded, and after a change of a bug."""
    newest = max(map(catalogue.version, kernel.SUITES))
    assert results.PAGE.read_text("utf-8") == results.page(catalogue.bugs(newest), results.load())
