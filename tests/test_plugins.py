# SPDX-License-Identifier: GPL-2.0
"""The plugins seen from outside: small suites that use them are run, and their reports read."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from arch import Arch
from kconfig.configuration import Configuration, parse
from plugins.features import FEATURES, Feature, Verdict
from plugins.fixed_by import LACKING
from plugins.requirements import resolve
from uapi.ksm import Ksm

pytest_plugins = "pytester"

ARCHITECTURE = Arch("pdp11", machines=("pdp11",), never={"hovering": "it has no skirt"})
WITH = Configuration("/boot/config-test", {"CONFIG_HOVER": "y", "CONFIG_SKIRT": "m"})
WITHOUT = Configuration("/boot/config-test", {"CONFIG_HOVER": "y", "CONFIG_SKIRT": "n"})
SILENT = Configuration("/boot/config-test", {"CONFIG_HOVER": "y"})
SYMBOLS = ("CONFIG_HOVER", "CONFIG_SKIRT")


def run(pytester: pytest.Pytester, plugin: str, source: str, *options: str) -> pytest.RunResult:
    """Run a test module with one plugin of the suite."""
    pytester.makepyfile(source)
    return pytester.runpytest_inprocess(
        "-p", f"plugins.{plugin}", "-p", "no:cacheprovider", "-rA", *options
    )


def feature(
    *, found: bool, name: str = "gliding", since: str = "6.6", otherwise: str = ""
) -> Feature:
    """A made-up feature, and whether its probe finds it."""
    return Feature(name, since, lambda: found, SYMBOLS, otherwise=otherwise)


@pytest.mark.parametrize(
    ("wanted", "configuration", "release", "verdict"),
    [
        (
            feature(name="hovering", found=True),
            WITH,
            "7.2.0",
            Verdict(run=False, reason="pdp11: it has no skirt"),
        ),
        (
            feature(found=True),
            WITHOUT,
            "7.2.0",
            Verdict(run=False, reason="gliding: CONFIG_SKIRT is not set in /boot/config-test"),
        ),
        (
            feature(found=True),
            SILENT,
            "7.2.0",
            Verdict(run=False, reason="gliding: CONFIG_SKIRT is absent from /boot/config-test"),
        ),
        (feature(found=True), WITH, "6.1.176", Verdict(run=True)),
        (feature(found=True), None, "6.18.44", Verdict(run=True)),
        (
            feature(found=False, otherwise="the pond is frozen"),
            WITH,
            "7.2.0",
            Verdict(run=False, reason="gliding: the pond is frozen"),
        ),
        (
            feature(found=False),
            WITH,
            "6.5.13-custom",
            Verdict(run=False, reason="gliding came with 6.6; this is 6.5.13-custom"),
        ),
        (
            feature(found=False),
            WITH,
            "6.10.0",  # younger than 6.6
            Verdict(
                run=False,
                fail=True,
                reason="gliding came with 6.6 and nothing in the configuration leaves it out, "
                "but 6.10.0 does not have it",
            ),
        ),
    ],
    ids=["never", "off", "absent", "backport", "found", "otherwise", "older", "missing"],
)
def test_verdict_says_why(
    wanted: Feature, configuration: Configuration | None, release: str, verdict: Verdict
) -> None:
    """The first of the five steps that knows an answer gives it, in words."""
    assert resolve(wanted, ARCHITECTURE, configuration, release) == verdict


def test_probe_is_not_asked_where_the_answer_is_known() -> None:
    """A probe may be costly, or hang, on a kernel that leaves the feature out."""

    def probe() -> bool:
        raise AssertionError

    assert not resolve(Feature("gliding", "6.6", probe, SYMBOLS), ARCHITECTURE, WITHOUT, "7.2").run


NEEDING = """
    import pytest

    @pytest.mark.needs("{}")
    def test_it():
        pass
"""


def test_unknown_feature_is_a_usage_error_that_names_the_known(pytester: pytest.Pytester) -> None:
    """Nothing runs, so that no test is left out silently for a misspelling."""
    result = run(pytester, "requirements", NEEDING.format("ksm_zero_page"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*::test_it needs ksm_zero_page: no such feature; there are *"])
    assert all(name in str(result.stderr) for name in FEATURES)


@pytest.mark.parametrize(
    ("since", "outcome", "line"),
    [
        ("99.0", "skipped", "*gliding came with 99.0; this is *"),
        ("2.6", "errors", "*gliding came with 2.6 and nothing *does not have it*"),
    ],
)
def test_what_is_not_there_skips_or_fails(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    since: str,
    outcome: str,
    line: str,
) -> None:
    """With the verdict's own words, and before anything is set up."""
    monkeypatch.setitem(FEATURES, "gliding", Feature("gliding", since, lambda: False))
    result = run(pytester, "requirements", NEEDING.format("gliding"))
    assert result.parseoutcomes() == {outcome: 1}
    result.stdout.fnmatch_lines([line])


UPSTREAM_BUG = """
    import pytest

    @pytest.mark.upstream_bug("the count drifts")
    def test_it():
        {}
"""


def test_failed_assertion_is_the_known_bug(pytester: pytest.Pytester) -> None:
    """It is expected, with its title, and fails nothing."""
    result = run(pytester, "upstream_bug", UPSTREAM_BUG.format("assert False"))
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["XFAIL *::test_it - known upstream bug: the count drifts*"])
    assert result.ret == 0


def test_pass_is_unexpected_and_fails_nothing(pytester: pytest.Pytester) -> None:
    """The kernel at hand may have the fix."""
    result = run(pytester, "upstream_bug", UPSTREAM_BUG.format("pass"), "-o", "xfail_strict=true")
    result.assert_outcomes(xpassed=1)
    result.stdout.fnmatch_lines(["XPASS *::test_it*known upstream bug: the count drifts*"])
    assert result.ret == 0


@pytest.mark.parametrize(
    "statement", ["raise OSError('busy')", "pytest.fail('not merged')", "raise ValueError"]
)
def test_other_exception_is_not_the_known_bug(pytester: pytest.Pytester, statement: str) -> None:
    """Only an assertion says that the kernel did wrong; others come on the way to it."""
    result = run(pytester, "upstream_bug", UPSTREAM_BUG.format(statement))
    result.assert_outcomes(failed=1)


@pytest.mark.parametrize("arguments", ["", '"title", "more"', 'title="title"'])
def test_bug_without_a_title_is_a_usage_error(pytester: pytest.Pytester, arguments: str) -> None:
    """It says how the mark is written."""
    source = UPSTREAM_BUG.format("pass").replace('"the count drifts"', arguments)
    result = run(pytester, "upstream_bug", source)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(['*::test_it: upstream_bug takes *upstream_bug("what is wrong")'])


def under_test(monkeypatch: pytest.MonkeyPatch, configuration: str) -> None:
    """Have a kernel for the architecture `here`, of that configuration or of one unknown."""
    kernel = SimpleNamespace(
        architecture=Arch("here", machines=("hovercraft",)),
        configuration=parse(configuration, "config") if configuration else None,
    )
    monkeypatch.setattr("plugins.upstream_bug.requirements", lambda _: kernel)


@pytest.mark.parametrize(("where", "outcome"), [("here", "xfailed"), ("elsewhere", "failed")])
def test_bug_of_one_architecture_is_known_there_alone(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, where: str, outcome: str
) -> None:
    """Elsewhere the test is one like any other."""
    under_test(monkeypatch, "CONFIG_KSM=y")
    source = UPSTREAM_BUG.format("assert False").replace("bug(", f'bug_on("{where}", ')
    run(pytester, "upstream_bug", source).assert_outcomes(**{outcome: 1})


@pytest.mark.parametrize(
    ("configuration", "outcome"),
    [
        ("CONFIG_HOVER=y", "xfailed"),
        ("# CONFIG_HOVER is not set", "failed"),
        ("CONFIG_KSM=y", "failed"),
        ("", "xfailed"),
    ],
)
def test_bug_of_a_configuration_is_known_there_alone(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, configuration: str, outcome: str
) -> None:
    """It may be there where the configuration is not to be had."""
    under_test(monkeypatch, configuration)
    source = UPSTREAM_BUG.format("assert False").replace("bug(", 'bug_on("here", ')
    source = source.replace('drifts"', 'drifts", symbol="CONFIG_HOVER"')
    run(pytester, "upstream_bug", source).assert_outcomes(**{outcome: 1})


def test_bug_of_one_architecture_needs_a_title(pytester: pytest.Pytester) -> None:
    """It says how the mark is written."""
    source = UPSTREAM_BUG.format("pass").replace("bug(", "bug_on(")
    result = run(pytester, "upstream_bug", source)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*::test_it: upstream_bug_on takes 2 arguments, upstream_bug_on*"])


FIXED_BY = """
    import pytest

    @pytest.mark.fixed_by("the count is right", "6.19"{})
    def test_it():
        assert False
"""


@pytest.mark.parametrize(
    ("stable", "running", "outcome", "said"),
    [
        ("", "6.18.44", "failed", "*the kernel may lack the fix *came with 6.19; this is 6.18.44*"),
        ("", "7.2.0", "failed", "*came with 6.19; 7.2.0 should have it: was it undone*"),
        (", stable=False", "6.18.44", "xfailed", "XFAIL *improved by 6.19, *the count is right*"),
        (", stable=False", "7.2.0", "failed", "*7.2.0 should have it: was it undone*"),
    ],
)
def test_lack_of_a_fix_is_told_with_its_title(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    stable: str,
    running: str,
    outcome: str,
    said: str,
) -> None:
    """An improvement no stable release gets is not expected of older releases."""
    monkeypatch.setattr("plugins.fixed_by.running_release", lambda: running)
    result = run(pytester, "fixed_by", FIXED_BY.format(stable))
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines([said])


@pytest.mark.parametrize(
    ("marks", "lacking"),
    [
        ([("old", "3.0"), ("new", "6.19")], set()),
        ([("new", "6.19"), ("newer", "7.2")], {"new", "newer"}),
        ([("old", "3.0")], set()),
        ([], set()),
    ],
)
def test_failure_is_put_down_to_a_fix_only_where_all_of_its_fixes_are_younger(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    marks: list[tuple[str, str]],
    lacking: set[str],
) -> None:
    """Else the matrix would forgive what an old fix, undone, breaks."""
    monkeypatch.setattr("plugins.fixed_by.running_release", lambda: "6.18.44")
    lines = [f"@pytest.mark.fixed_by({title!r}, {release!r})" for title, release in marks]
    pytester.makepyfile("\n".join(["import pytest", *lines, "def test_it(): assert False"]))
    recorder = pytester.inline_run("-p", "plugins.fixed_by", "-p", "no:cacheprovider")
    (report,) = recorder.getfailures()
    assert {title for key, title in report.user_properties if key == LACKING} == lacking


WITNESSED = """
    import os
    from types import SimpleNamespace
    import pytest
    from mm.region import Region
    from uapi import ksm, libc

    @pytest.fixture
    def watched(evidence):
        own = SimpleNamespace(pid=os.getpid(), ksm_stat=lambda: ksm.process_stat(os.getpid()))
        gone = SimpleNamespace(pid=1 << 30, ksm_stat=lambda: ksm.process_stat(1 << 30))
        region = Region(own, libc.mmap(2 * libc.PAGE_SIZE), 2)
        for process in (own, gone):
            evidence.watch_process(process)
        evidence.watch(region)
        evidence.watch(region.seen_from(gone))
        evidence.note("before", region)

    def test_it(watched):
        {}
"""


@pytest.mark.skipif(not Ksm.default_root.is_dir(), reason="this kernel has no KSM")
def test_failure_shows_the_evidence(pytester: pytest.Pytester) -> None:
    """Regions, counters and settings as they are at the failure, and what was noted before."""
    result = run(pytester, "evidence", WITNESSED.format("assert False"))
    result.assert_outcomes(failed=1)
    own = os.getpid()
    result.stdout.fnmatch_lines(
        [
            "*- KSM evidence -*",
            f"before: process {own}: ksm_zero_pages *; 2 pages at 0x* of {own}: 0-1 none",
            f"at the failure: process {own}: ksm_zero_pages *, ksm_merging_pages *bytes",
            "at the failure: process 1073741824: ended",
            f"at the failure: 2 pages at 0x* of {own}: 0-1 none",
            "at the failure: 2 pages at 0x* of 1073741824: *directory: '/proc/1073741824/pagemap'",
            "settings: *pages_to_scan *run *",
        ]
    )


@pytest.mark.parametrize("statement", ["pass", "pytest.skip('no')", "pytest.xfail('known')"])
def test_what_does_not_fail_asks_for_no_evidence(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """Reading page tables costs time."""
    monkeypatch.setattr("plugins.evidence.Evidence.text", lambda _: pytest.exit("asked"))
    assert run(pytester, "evidence", WITNESSED.format(statement)).ret == 0


def test_evidence_that_cannot_be_had_does_not_hide_the_failure(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a kernel without KSM, for instance, the run goes on."""
    monkeypatch.setattr(Ksm, "default_root", tmp_path / "missing")
    result = run(pytester, "evidence", WITNESSED.format("assert False, 'the failure itself'"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the failure itself*", "not to be had: FileNotFoundError(*"])


LONG_COMPARISONS = """
    def test_bytes(): assert bytes(range(256)) * 256 == bytes(1 << 16)
    def test_frames(): assert list(range(512)) == list(range(10, 522))
    def test_short(): assert [1] == [2]
"""


@pytest.mark.timeout(30)  # what pytest itself does takes many times that
@pytest.mark.parametrize("environment", ["CI", "BUILD_NUMBER"])
@pytest.mark.parametrize("verbosity", ["-q", "-vv"])
def test_comparison_of_many_things_is_explained_in_short(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, environment: str, verbosity: str
) -> None:
    """However much was asked for; what is short is explained in full."""
    monkeypatch.setenv(environment, "1")
    result = run(pytester, "explanations", LONG_COMPARISONS, verbosity)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        ["*At index 1 diff: b'?x01' != b'?x00'", "*At index 0 diff: 0 != 10"]
    )
    failures, _, _ = result.stdout.str().partition("short test summary")
    assert failures.count("Full diff") == 1
    assert os.environ[environment] == "1"
