# SPDX-License-Identifier: GPL-2.0
"""What a run on other kernels ends with."""

import re
from pathlib import Path

import pytest

from plugins.fingerprint import PROPERTY
from plugins.kernels import Place
from plugins.matrix import Matrix

pytest_plugins = ("pytester", "tests.made_up_suite")

SUITE = """
import os
import pytest

@pytest.mark.fork
@pytest.mark.zero_pages
def test_both(): assert os.getpid() < 0

@pytest.mark.zero_pages
@pytest.mark.parametrize("n", [1, 2])
def test_zeros(n): pass

@pytest.mark.skip(reason="too cold")
@pytest.mark.swap
def test_cold(): pass
"""
MARKERS = ["zero_pages: zeros", "swap: swap", "fork: forks", "unused: of no test"]


class Found:
    """In the place of Kernels."""

    def __init__(self, *names: str) -> None:
        self.places = [Place(name) for name in names]

    def of(self, nodeid: str) -> Place | None:
        """By the end of the id."""
        return next(each for each in self.places if nodeid.endswith(f"[{each.name}]"))


def report(
    kernel: str, text: str = "", *, areas: tuple[str, ...] = (), fingerprint: str = ""
) -> pytest.TestReport:
    """Of a test that failed with a text, or passed."""
    return pytest.TestReport(
        nodeid=f"a.py::test_it[{kernel}]",
        location=("a.py", 1, "test_it"),
        keywords=dict.fromkeys(areas, 1),
        outcome="failed" if text else "passed",
        longrepr=text or None,
        when="call",
        user_properties=[(PROPERTY, fingerprint)] if fingerprint else [],
    )


@pytest.fixture
def matrix(pytester: pytest.Pytester) -> Matrix:
    """Of three kernels and as many areas."""
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\nmarkers = {MARKERS}\n")
    return Matrix(pytester.parseconfigure(), Found("6.1", "6.12", "7.2"))  # type: ignore[arg-type]


def summary(matrix: Matrix, width: int = 100) -> str:
    """The lines."""
    return "\n".join(matrix.summary(width))


def test_kernels_by_areas(checkout: Path, pytester: pytest.Pytester) -> None:
    """Counts; what fails alike everywhere once, and so for skips."""
    pytester.makepyprojecttoml(
        f"[tool.pytest.ini_options]\npythonpath = ['.']\nmarkers = {MARKERS}\n"
    )
    conftest = checkout / "conftest.py"
    plugins = 'pytest_plugins = ["plugins.matrix", '
    conftest.write_text(conftest.read_text().replace("pytest_plugins = [", plugins))
    pytester.mkpydir("suite").joinpath("test_it.py").write_text(SUITE)
    done = pytester.runpytest_subprocess("suite", "--kernel=host", "--kernel=ssh:one")
    done.stdout.re_match_lines(
        [
            r"host +2 +1 +0 +1 +0 +0",
            r"one +2 +1 +0 +1 +0 +0 .*",
            r"",
            r"tests that ran, by area; .*",
            r" +zero",
            r" +pages  swap  fork",
            r"host +1F/3     -  1F/1",
            r"one +1F/3     -  1F/1",
            r"",
            r"failed on all kernels: suite/test_it\.py::test_both",
            r"    assert \d+ < 0.*|    AssertionError: assert \d+ < 0.*",
            r"skipped 2: too cold: all kernels",
        ],
        consecutive=True,
    )


def test_one_kernel_is_told_of_in_short(pytester: pytest.Pytester) -> None:
    """pytest's own summary has the rest."""
    matrix = Matrix(pytester.parseconfigure(), Found("7.2"))  # type: ignore[arg-type]
    matrix.pytest_runtest_logreport(report("7.2", "assert 1 == 2", areas=("fork",)))
    assert len(summary(matrix).splitlines()) == 2


@pytest.mark.parametrize(
    ("first", "second", "causes"),
    [
        ("expected 3, got 4", "expected 5, got 6", 1),
        ("at ffff8880deadbeef", "at ffff888012345678", 1),
        ("expected 3, got 4", "no memory", 2),
        ("6.1: had not ended after 90 s", "7.2: had not ended after 120 s", 1),
    ],
)
def test_failures_of_one_cause_are_one(
    first: str, second: str, causes: int, matrix: Matrix
) -> None:
    """But for their numbers."""
    matrix.pytest_runtest_logreport(report("6.1", first))
    matrix.pytest_runtest_logreport(report("7.2", second))
    assert len(re.findall("^failed on ", summary(matrix), re.MULTILINE)) == causes


def test_what_fails_on_most_kernels_comes_first(matrix: Matrix) -> None:
    """By the number of kernels."""
    matrix.pytest_runtest_logreport(report("6.1", "rare"))
    for kernel in ("6.12", "7.2"):
        matrix.pytest_runtest_logreport(report(kernel, "frequent"))
    assert re.findall("failed on (.*): ", summary(matrix)) == ["6.12, 7.2", "6.1"]


def test_what_the_kernel_reported_is_the_cause(matrix: Matrix) -> None:
    """Whatever the tests say of it."""
    matrix.pytest_runtest_logreport(report("6.1", "lost", fingerprint="BUG in a"))
    matrix.pytest_runtest_logreport(report("6.12", "hangs", fingerprint="BUG in a"))
    matrix.pytest_runtest_logreport(report("7.2", "lost", fingerprint="BUG in b"))
    assert re.findall("failed on (.*): .*\n    (.*)", summary(matrix)) == [
        ("6.1, 6.12", "BUG in a"),
        ("7.2", "BUG in b"),
    ]


def test_columns_that_do_not_fit_go_below(matrix: Matrix) -> None:
    """Each block of them with the kernels' names."""
    matrix.pytest_runtest_logreport(report("7.2", areas=("zero_pages", "swap", "fork")))
    wide, narrow = summary(matrix, 80), summary(matrix, 12)
    assert len(re.findall(r"^6\.12 +-", wide, re.MULTILINE)) == 1
    assert len(re.findall(r"^6\.12 +-", narrow, re.MULTILINE)) == 3
    assert "unused" not in wide
