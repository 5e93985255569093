# SPDX-License-Identifier: GPL-2.0
"""`python -m reports flaky`: tests with mixed results, and how likely they fail."""

from pathlib import Path

import pytest

from reports.__main__ import main
from reports.flaky import mixed, wilson
from tests.made_up_records import outcome, run, written


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # from the tables of Newcombe, Statistics in Medicine 17 (1998), 857
        (1, 29, 0.0061, 0.1718),
        (15, 148, 0.0624, 0.1605),
        (81, 263, 0.2553, 0.3662),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_the_interval_is_wilson_s(hits: int, total: int, low: float, high: float) -> None:
    """As published."""
    assert wilson(hits, total) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (("pass", "fail", "pass"), (1, 3)),
        (("pass", "error"), (1, 2)),
        (("xfail", "xpass", "xfail"), (2, 3)),
        (("pass", "skip", "fail"), (1, 2)),
        (("pass", "pass", "xpass"), None),
        (("fail", "error", "xfail"), None),
        (("pass", "skip"), None),
        (("fail",), None),
    ],
)
def test_mixed_results(results: tuple[str, ...], expected: tuple[int, int] | None) -> None:
    """Passes and failures; what is skipped says nothing."""
    found = mixed([run(outcome("test_it", result)) for result in results])
    assert [(one.failed, one.total) for one in found] == ([expected] if expected else [])


def test_kernels_and_releases_are_no_mixture() -> None:
    """A fix is none, and another kernel neither."""
    releases = [
        run(outcome("test_it", "fail", "a", kernel_release="6.1.1")),
        run(outcome("test_it", "pass", "a", kernel_release="6.1.2")),
    ]
    kernels = [run(outcome("test_it", "fail", "a")), run(outcome("test_it", "pass", "b"))]
    assert mixed(releases) == mixed(kernels) == []


def test_a_guest_that_did_not_boot_is_no_result_of_a_test() -> None:
    """Without a release."""
    assert not mixed(
        [
            run(outcome("test_it", "error", "a", kernel_release="")),
            run(outcome("test_it", "pass", "a")),
        ]
    )


def test_what_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By kernel, the likeliest failure first."""
    results = {"test_a": "pfpppppppp", "test_b": "ffffpfffff", "test_c": "pppppppppp"}
    words = {"p": "pass", "f": "fail"}
    files = [
        written(
            run(*(outcome(test, words[row[day]], "7.2-arm64") for test, row in results.items())),
            tmp_path / f"{day}.jsonl",
        )
        for day in range(10)
    ]
    assert main(["flaky", *map(str, files)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "7.2-arm64 (6.12.5)",
        "    9 of  10 failed,  90% (60% to 98%): ksmtests/test_a.py::test_b",
        "    1 of  10 failed,  10% (2% to 40%): ksmtests/test_a.py::test_a",
        "2 tests with mixed results in 10 runs",
    ]


def test_bad_input_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2."""
    good = written(run(), tmp_path / "a")
    assert main(["flaky", str(good), str(good.with_name("gone"))]) == 2
    assert "gone: " in capsys.readouterr().err
