# SPDX-License-Identifier: GPL-2.0
"""`python -m reports diff`: what differs between two runs, and what is noise."""

from pathlib import Path

import pytest

from reports.__main__ import main
from reports.diff import Difference, differences
from reports.records import Outcome
from tests.made_up_records import outcome, run, written

RESULTS = ("pass", "fail", "error", "skip", "xfail", "xpass", None)
# What becomes of a test, by its results before and now; of those that are not here, nothing.
KINDS: dict[tuple[str | None, str | None], str] = {
    **{(was, "fail"): "failing" for was in ("pass", "skip", "xfail", "xpass", None)},
    **{(was, "error"): "failing" for was in ("pass", "skip", "xfail", "xpass", None)},
    **{(was, "pass"): "fixed" for was in ("fail", "error", "xfail")},
    **{(was, "xpass"): "fixed" for was in ("fail", "error", "xfail")},
    **{(was, "skip"): "skipped" for was in ("pass", "fail", "error", "xfail", "xpass")},
    **{(was, "xfail"): "expected" for was in ("pass", "fail", "error", "skip", "xpass")},
    **{(was, None): "gone" for was in RESULTS if was},
    **{(None, now): "new" for now in ("pass", "skip", "xfail", "xpass")},
}


def kinds(found: Difference) -> set[str]:
    """Those that it has."""
    names = ("failing", "fixed", "expected", "skipped", "gone", "new", "slower")
    return {name for name in names if getattr(found, name)}


def made(result: str | None) -> list[Outcome]:
    """A test of that result, or none; and another one."""
    other = outcome("test_other")
    return [other, outcome("test_it", result)] if result else [other]


@pytest.mark.parametrize("now", RESULTS)
@pytest.mark.parametrize("before", RESULTS)
def test_each_change_has_its_name(before: str | None, now: str | None) -> None:
    """What fails and did not is a new failure, whatever it was."""
    (found,) = differences(run(*made(before)), run(*made(now)))
    kind = KINDS.get((before, now))
    assert kinds(found) == ({kind} if kind else set())
    assert found.same == 1 + (kind is None and before is not None)


@pytest.mark.parametrize(
    ("now", "status"),
    [("pass", 0), ("skip", 0), ("xfail", 0), (None, 0), ("fail", 1), ("error", 1)],
)
def test_new_failures_are_the_exit_status(tmp_path: Path, now: str | None, status: int) -> None:
    """And nothing else is."""
    before, after = (
        written(run(*made("pass")), tmp_path / "a"),
        written(run(*made(now)), tmp_path / "b"),
    )
    assert main(["diff", str(before), str(after)]) == status


def test_a_failure_that_was_there_is_no_new_one(tmp_path: Path) -> None:
    """Nothing is said of the kernel."""
    before, after = (
        written(run(*made("fail")), tmp_path / "a"),
        written(run(*made("error")), tmp_path / "b"),
    )
    assert main(["diff", str(before), str(after)]) == 0


def test_each_kernel_has_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line names those with new failures."""
    tests = [outcome("test_it", kernel=kernel) for kernel in ("7.2-arm64", "7.2-amd64")]
    bad = outcome("test_it", "fail", "7.2-amd64", kernel_release="7.2.14")
    before, after = (
        written(run(*tests), tmp_path / "a"),
        written(run(tests[0], bad), tmp_path / "b"),
    )
    assert main(["diff", str(before), str(after)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "7.2-amd64 (6.12.5 -> 7.2.14), 0 tests as before",
        "  new failures: 1",
        "    ksmtests/test_a.py::test_it: AssertionError: 511 are too few (was pass)",
        "1 new failures: 7.2-amd64 (1)",
    ]


def test_a_kernel_that_is_new_fails_anew() -> None:
    """All of its failures are of it; what it passes is new."""
    before = run(outcome("test_it", kernel="a"), outcome("test_it", kernel="b"))
    tests = [outcome("test_it", "fail", "c"), outcome("test_more", kernel="c")]
    found = {one.kernel: one for one in differences(before, run(*before.tests, *tests))}
    assert kinds(found["c"]) == {"failing", "new"}
    assert kinds(found["a"]) == kinds(found["b"]) == set()


def test_the_only_kernels_are_compared_with_each_other() -> None:
    """As a tree's before and after a change of it."""
    before = run(outcome("test_it", kernel="before"), outcome("test_more", kernel="before"))
    now = run(outcome("test_it", "fail", "after"), outcome("test_more", kernel="after"))
    (found,) = differences(before, now)
    assert found.kernel == "before -> after"
    assert [one.test for _, one in found.failing] == ["ksmtests/test_a.py::test_it"]
    assert found.same == 1


@pytest.mark.parametrize(
    ("reason", "is_new"), [("came with 6.6; this is 6.1.9", False), ("no memory", True)]
)
def test_another_reason_is_another_skip(reason: str, is_new: bool) -> None:
    """But for the release in it."""
    was = {"reason": "came with 6.6; this is 6.1.7", "kernel_release": "6.1.7"}
    before = run(outcome("test_it", "skip", **was))
    now = run(outcome("test_it", "skip", reason=reason, kernel_release="6.1.9"))
    (found,) = differences(before, now)
    assert kinds(found) == ({"skipped"} if is_new else set())


TIMES = [0.1 * number for number in range(1, 13)]  # s


def timed(durations: list[float]) -> list[Outcome]:
    """A test for each duration."""
    return [outcome(f"test_{n}", duration=duration) for n, duration in enumerate(durations)]


def slower(before: list[float], now: list[float]) -> list[str]:
    """The tests that are slower beyond noise."""
    (found,) = differences(run(*timed(before)), run(*timed(now)))
    return [one.test.partition("::")[2] for one in found.slower]


def test_one_test_is_slower() -> None:
    """The others took as long as they did."""
    assert slower(TIMES, [*TIMES[:5], 3 * TIMES[5], *TIMES[6:]]) == ["test_5"]


def test_a_busy_machine_makes_no_test_slower() -> None:
    """All of them take longer, one more so."""
    busy = [4 * one for one in TIMES]
    assert slower(TIMES, busy) == []
    assert slower(TIMES, [*busy[:5], 3 * busy[5], *busy[6:]]) == ["test_5"]


def test_noise_asks_for_more() -> None:
    """Three times longer is nothing where others take twice or half as long."""
    noisy = [one * (2 if number % 2 else 0.5) for number, one in enumerate(TIMES)]
    assert slower(TIMES, [*noisy[:5], 3 * TIMES[5], *noisy[6:]]) == []


def test_what_is_not_judged() -> None:
    """Too few tests, too short a time, and tests that were skipped."""
    assert slower(TIMES[:9], [*TIMES[:8], 10 * TIMES[8]]) == []
    assert slower([one / 100 for one in TIMES], [0.19, *(one / 100 for one in TIMES[1:])]) == []
    before, now = timed(TIMES), timed([*TIMES[:11], 9.0])
    now[11] = outcome("test_11", "skip", duration=9.0)
    (found,) = differences(run(*before), run(*now))
    assert found.slower == []


@pytest.mark.parametrize("words", [("diff", "a"), ("diff", "a", "a", "a")])
def test_two_runs_are_compared(words: tuple[str, ...]) -> None:
    """And neither one nor three."""
    with pytest.raises(SystemExit) as caught:
        main([*words])
    assert caught.value.code == 2


def test_a_broken_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its file."""
    good, bad = (
        written(run(outcome("test_it")), tmp_path / "a"),
        written(run(outcome("test_it")), tmp_path / "b"),
    )
    bad.write_text(bad.read_text() + "}\n")
    assert main(["diff", str(good), str(bad)]) == 2
    assert capsys.readouterr().err.startswith(f"{bad}, line 4: Expecting value")


def test_a_run_that_was_cut_short_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it has not is not gone for good."""
    whole, killed = (
        written(run(outcome("test_it")), tmp_path / "a"),
        written(run(status=None), tmp_path / "b"),
    )
    assert main(["diff", str(whole), str(killed)]) == 0
    told = capsys.readouterr()
    assert f"{killed}: the run was cut short" in told.err
    assert "gone: 1" in told.out


def test_a_guest_cannot_write_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Escape sequences are shown, and not sent."""
    bad = outcome("test_it", "fail", log="E   \x1b[2Jgone \u202e", kernel_release="\x9b7m")
    before, after = (
        written(run(outcome("test_it")), tmp_path / "a"),
        written(run(bad), tmp_path / "b"),
    )
    assert main(["diff", str(before), str(after)]) == 1
    text = capsys.readouterr().out
    assert text.replace("\n", "").isprintable()
    assert r"\x1b[2Jgone \u202e" in text
