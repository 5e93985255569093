# SPDX-License-Identifier: GPL-2.0
"""`--known-issues`: what is listed fails as expected, on its kernels, and nothing else does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from plugins.known_issues import KnownIssue, KnownIssuesError, load
from reports.records import read

pytest_plugins = ("pytester", "tests.made_up_suite")

SUITE = """
import pytest

def test_passes(): pass

def test_fails(): assert False

@pytest.mark.parametrize("number", [1, 2])
def test_each(number): assert number == 1

@pytest.fixture
def broken(): raise RuntimeError("not set up")

def test_not_set_up(broken): pass

@pytest.mark.upstream_bug("it forgets")
def test_upstream(): assert False

@pytest.mark.skip(reason="too cold")
def test_skipped(): pass
"""
BUG = "https://bugzilla.kernel.org/show_bug.cgi?id=1"
Run: TypeAlias = Callable[..., pytest.RunResult]
FAILING = ("test_fails", "test_each", "test_not_set_up")
WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])


def listed(checkout: Path, *tests: str, more: str = "") -> str:
    """A file of known issues; returns the option that names it."""
    text = "".join(
        f'[[issue]]\ntest = "suite/test_it.py::{test}"\nbug = "{BUG}"\n{more}\n' for test in tests
    )
    (checkout / "known.toml").write_text(text)
    return "--known-issues=known.toml"


@WORKERS
def test_listed_failures_are_expected(run: Run, checkout: Path, workers: tuple[str, ...]) -> None:
    """In setup, too, with all parameters; the run is green, and -x does not end it."""
    done = run(SUITE, listed(checkout, *FAILING), "-rxX", "-x", *workers)
    assert done.parseoutcomes() == {"passed": 1, "xfailed": 4, "xpassed": 1, "skipped": 1}
    assert done.ret == 0
    done.stdout.fnmatch_lines_random(
        [
            f"XFAIL suite/test_it.py::test_fails - known issue: {BUG}",
            f"XPASS suite/test_it.py::test_each[[]1] - known issue: {BUG}",
            "XFAIL suite/test_it.py::test_upstream - known upstream bug: it forgets",
        ]
    )
    done.stdout.no_fnmatch_line("*no longer fails*")


def test_what_fails_in_teardown_fails_as_expected(run: Run, checkout: Path) -> None:
    """Though its call, which passes, was expected to fail."""
    suite = """
import pytest

@pytest.fixture
def broken():
    yield
    raise RuntimeError("not torn down")

def test_not_torn_down(broken): pass
"""
    done = run(suite, listed(checkout, "test_not_torn_down"), "--record=run.jsonl")
    (test,) = read(checkout / "run.jsonl").tests
    assert (done.ret, test.result) == (0, "xfail")
    done.stdout.no_fnmatch_line("*no longer fails*")


@WORKERS
def test_what_is_not_listed_fails(run: Run, checkout: Path, workers: tuple[str, ...]) -> None:
    """As ever."""
    done = run(SUITE, listed(checkout, "test_fails"), *workers)
    assert done.parseoutcomes()["failed"] == 1
    assert done.parseoutcomes()["errors"] == 1
    assert done.ret == 1


@WORKERS
def test_what_no_longer_fails_is_told(run: Run, checkout: Path, workers: tuple[str, ...]) -> None:
    """It is no failure: a bug may need luck to be met. What was skipped tells nothing."""
    option = listed(checkout, "test_passes", "test_skipped", *FAILING)
    done = run(SUITE, option, *workers)
    done.stdout.fnmatch_lines(
        ["* known issues *", f"no longer fails: suite/test_it.py::test_passes ({BUG})"]
    )
    assert done.stdout.str().count("no longer fails") == 1
    assert done.ret == 0


def test_ktap_has_the_link(run: Run, checkout: Path) -> None:
    """As the reason of XFAIL and of a pass that was not expected, which is told at the end, too."""
    text = run(SUITE, listed(checkout, "test_passes", "test_fails"), "--ktap").stdout.str()
    assert f"test_fails # XFAIL known issue: {BUG}\n" in text
    assert f"test_passes # passes, though expected to fail: known issue: {BUG}\n" in text
    told = text.splitlines()[-2:]
    assert told[0] == f"#   no longer fails: suite/test_it.py::test_passes ({BUG})"
    assert told[1].startswith("# Totals: ")


def test_releases_are_those_of_the_kernel_under_test(run: Run, checkout: Path) -> None:
    """On two boards at once, one has the bug and one has not."""
    option = listed(checkout, *FAILING, more='releases = ["6.1"]')
    boards = ("--kernel=ssh:root@r6.1.77-amd64", "--kernel=ssh:root@r6.12.5")
    done = run(SUITE, option, *boards, "--record=run.jsonl", "-rfE")
    assert done.parseoutcomes() == {
        "passed": 3,
        "xfailed": 5,
        "xpassed": 1,
        "skipped": 2,
        "failed": 2,
        "errors": 1,
    }
    lines = map(json.loads, (checkout / "run.jsonl").read_text().splitlines())
    failed = [line for line in lines if line.get("result") in {"fail", "error"}]
    assert {line["kernel_release"] for line in failed} == {"6.12.5"}
    assert {line["test"].partition("[")[0] for line in failed} == {
        f"suite/test_it.py::{name}" for name in FAILING
    }


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ('architectures = ["arm64", "riscv"]', False),
        ('architectures = ["x86", "arm64", "arm", "riscv", "powerpc", "s390", "i386"]', True),
        ('releases = ["1.2"]', False),
        ('releases = ["1.2", "*"]', True),
        ("until = 2020-01-01", False),
        ("until = 9000-01-01", True),
    ],
)
def test_an_entry_holds_where_it_says(run: Run, checkout: Path, more: str, expected: bool) -> None:
    """Kernels, architectures, and days."""
    done = run(SUITE, listed(checkout, *FAILING, more=more))
    assert done.ret == (0 if expected else 1)
    ended = "ended on 2020-01-01: suite/test_it.py::test_fails" in done.stdout.str()
    assert ended == ("2020" in more)


@WORKERS
def test_a_pattern_that_matches_nothing_is_refused(
    run: Run, checkout: Path, workers: tuple[str, ...]
) -> None:
    """A test renamed would be a bug that nobody looks for any more."""
    done = run(SUITE, listed(checkout, "test_fail"), *workers)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: *known.toml: no test is suite/test_it.py::test_fail"])


@pytest.mark.parametrize("pattern", ["*::test_fail", "suite/test_o*.py::*", "*/test_it.py::gone"])
def test_a_pattern_of_files_is_of_the_whole_suite(
    run: Run, checkout: Path, pytester: pytest.Pytester, pattern: str
) -> None:
    """It is refused where all tests are seen; of a module alone it may be of another."""
    (checkout / "known.toml").write_text(f'[[issue]]\ntest = "{pattern}"\nbug = "{BUG}"\n')
    done = run(SUITE, "--known-issues=known.toml")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([f"ERROR: *known.toml: no test is {pattern}"])
    one = ("suite/test_it.py", "--known-issues=known.toml")
    assert pytester.runpytest_subprocess(*one, timeout=120).ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("part", ["-kpasses", "--deselect=suite/test_it.py::test_fails"])
def test_a_part_of_the_tests_shows_nothing_of_patterns(run: Run, checkout: Path, part: str) -> None:
    """What is not collected may be there."""
    assert run(SUITE, listed(checkout, "test_gone"), "-n0", part).ret != 4


def test_a_file_that_is_not_there_is_refused(run: Run, checkout: Path) -> None:
    """Whatever is selected."""
    (checkout / "known.toml").write_text(f'[[issue]]\ntest = "suite/gone.py::*"\nbug = "{BUG}"\n')
    done = run(SUITE, "--known-issues=known.toml", "-kpasses")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([f"*{BUG} is of suite/gone.py, but * has no such file"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[issue]\n", "known.toml: Expected ']]'"),
        ("issue = 3", "known.toml: has to consist of tables"),
        ("[[bug]]\ntest = 'x'", "known.toml: has to consist of tables"),
        ("issue = [3]", "issue 1 is no table"),
        ("[[issue]]\nbug = 'https://x'", "issue 1 lacks test"),
        ("[[issue]]\ntest = ''\nbug = 'https://x'", "issue 1: test is ''; a text is wanted"),
        ("[[issue]]\ntest = 'x'", "issue 1 lacks bug"),
        ("[[issue]]\ntest = 'x'\nbug = 'some bug'", "issue 1: bug is 'some bug'; a link"),
        ("[[issue]]\nkernel = 'x'", "issue 1: no key 'kernel'; there are test, bug,"),
        ("[[issue]]\nreleases = '6.1'", "issue 1: releases is '6.1'; a list of words is wanted"),
        ("[[issue]]\nreleases = [6.1]", "issue 1: releases is [6.1]; a list of words"),
        ("[[issue]]\nreleases = []", "issue 1: releases is []; a list of words"),
        ("[[issue]]\nuntil = '2027-01-01'", "issue 1: until is '2027-01-01'; a day is wanted"),
        ("[[issue]]\nuntil = 2027-01-01T10:00:00", "a day is wanted"),
        (
            "[[issue]]\ntest='x'\nbug='http://x'\narchitectures = ['aarch64']",
            "issue 1: no architecture aarch64; there are arm, arm64",
        ),
    ],
)
def test_bad_files_are_refused(text: str, complaint: str, tmp_path: Path) -> None:
    """With the entry, the key, the value, and what would do."""
    file = tmp_path / "known.toml"
    file.write_text(text)
    with pytest.raises(KnownIssuesError) as caught:
        load(file)
    assert complaint in str(caught.value)


def test_no_file_is_an_error_of_usage(run: Run) -> None:
    """Not a run without known issues."""
    done = run(SUITE, "--known-issues=nowhere.toml")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: --known-issues: nowhere.toml: *No such file*"])


@pytest.mark.parametrize(
    ("pattern", "release", "held"),
    [
        ("6.1", "6.1.77-amd64", True),
        ("6.1", "6.1-rc3", True),
        ("6.1", "6.12.5", False),
        ("6.1.7", "6.1.77", False),
        ("*-rt*", "6.1.77-rt12-amd64", True),
        ("6.*-cloud", "6.12.5-cloud-amd64", True),
        ("6.1", "", False),
    ],
)
def test_releases(pattern: str, release: str, held: bool) -> None:
    """A release is one with all that follows, but for more digits."""
    kernel = {"kernel_release": release} if release else {}
    assert KnownIssue("x", "y", releases=[pattern]).is_of(kernel) is held


@pytest.mark.parametrize(
    ("pattern", "nodeid", "covered"),
    [
        ("a.py::test_b", "a.py::test_b", True),
        ("a.py::test_b", "a.py::test_b[x]", True),
        ("a.py::test_b", "a.py::test_bc", False),
        ("a.py::test_b[x]", "a.py::test_b[x]", True),
        ("a.py::test_b[x]", "a.py::test_b[y]", False),
        ("a.py::*", "a.py::C::test_b[y]", True),
        ("*::test_b", "d/a.py::test_b", True),
        ("a.py", "a.py::test_b", False),
    ],
)
def test_patterns(pattern: str, nodeid: str, covered: bool) -> None:
    """Brackets are themselves, as in a node id."""
    assert KnownIssue(pattern, "y").covers(nodeid) is covered
