# SPDX-License-Identifier: GPL-2.0
"""`python -m kconfig check`, and what it reads: fragments and marks."""

import subprocess
import sys
from pathlib import Path

import pytest

from kconfig import marks
from kconfig.__main__ import NOT_CHECKED, NOTHING_LACKS, SOMETHING_LACKS, SUITE, main
from kconfig.configuration import parse
from kconfig.fragment import Entry, Need, lacking, parse_fragment, wanted

FRAGMENT = """\
# A heading
# for every reader

# for one, two
# for three, through CONFIG_B
CONFIG_A=y
# CONFIG_C is not set

# for two
CONFIG_B=m
"""


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    """A configuration for x86 that lacks nothing."""
    path = tmp_path / "kernel.config"
    symbols = ["CONFIG_X86_64", *(entry.symbol for entry in wanted("x86"))]
    path.write_text("".join(f"{symbol}=y\n" for symbol in symbols))
    return path


PASSAGE = "by soft_dirty through CONFIG_MEM_SOFT_DIRTY"


def without(path: Path, *symbols: str) -> Path:
    """Switch symbols off."""
    text = path.read_text()
    for symbol in symbols:
        text = text.replace(f"{symbol}=y\n", f"# {symbol} is not set\n")
    path.write_text(text)
    return path


def test_reads_fragments() -> None:
    """A paragraph's reasons are those of all its symbols."""
    needs = (Need("one"), Need("two"), Need("three", "CONFIG_B"))
    assert list(parse_fragment(FRAGMENT)) == [
        Entry("CONFIG_A", "y", needs),
        Entry("CONFIG_C", "n", needs),
        Entry("CONFIG_B", "m", (Need("two"),)),
    ]


def test_nothing_lacks(complete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 0."""
    assert main(["check", str(complete)]) == NOTHING_LACKS == 0
    assert capsys.readouterr().out == f"{complete} lacks nothing that x86 can have\n"


def test_something_lacks(complete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each symbol has its line, and the exit status is 1."""
    without(complete, "CONFIG_TASK_DELAY_ACCT", "CONFIG_SHMEM")
    assert main(["check", str(complete)]) == SOMETHING_LACKS == 1
    assert capsys.readouterr().out.splitlines() == [
        f"CONFIG_SHMEM is not set in {complete}: needed by userfaultfd_minor_shmem",
        f"CONFIG_TASK_DELAY_ACCT is not set in {complete}: needed by copy_on_write_accounting",
    ]


def test_what_stands_in_the_way_is_named(
    complete: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A symbol that others are set through is lacking with them, and not without."""
    without(complete, "CONFIG_CHECKPOINT_RESTORE")
    assert main(["check", str(complete)]) == NOTHING_LACKS
    without(complete, "CONFIG_MEM_SOFT_DIRTY")
    capsys.readouterr()
    assert main(["check", str(complete)]) == SOMETHING_LACKS
    assert capsys.readouterr().out.splitlines() == [
        f"CONFIG_MEM_SOFT_DIRTY is not set in {complete}: needed by soft_dirty",
        f"CONFIG_CHECKPOINT_RESTORE is not set in {complete}: needed {PASSAGE}",
    ]


def test_architecture_is_what_the_configuration_says(
    complete: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless told otherwise: 64-bit ARM can have no soft-dirty bit."""
    own = "".join(f"{entry.symbol}=y\n" for entry in wanted("arm64"))
    complete.write_text(own + complete.read_text())
    without(complete, "CONFIG_MEM_SOFT_DIRTY")
    assert main(["check", str(complete)]) == SOMETHING_LACKS
    assert main(["check", str(complete), "--arch", "arm64"]) == NOTHING_LACKS
    assert capsys.readouterr().out.endswith("lacks nothing that arm64 can have\n")


def test_architecture_is_asked_for(complete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the configuration is for none that is known."""
    without(complete, "CONFIG_X86_64")
    assert main(["check", str(complete)]) == NOT_CHECKED == 2
    assert "name one with --arch" in capsys.readouterr().err


def test_no_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong is said on standard error, without a traceback."""
    assert main(["check", str(tmp_path)]) == NOT_CHECKED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{tmp_path} has no .config")


def test_tests_are_named(complete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that the features of the line are marked on."""
    without(complete, "CONFIG_TASK_DELAY_ACCT")
    assert main(["check", str(complete), "--tests"]) == SOMETHING_LACKS
    line, *skips = capsys.readouterr().out.splitlines()
    assert line.endswith("needed by copy_on_write_accounting")
    named = marks.tests_by_feature(SUITE)["copy_on_write_accounting"]
    assert skips == [f"    skips {name}" for name in sorted(named)]


def test_runs_as_a_command(complete: Path) -> None:
    """With nothing but the standard library."""
    without(complete, "CONFIG_KSM")
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", RUN, str(SUITE.parent), "check", str(complete)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stdout.startswith(
        f"CONFIG_KSM is not set in {complete}: needed by every test, ksm_stat,"
    )


RUN = """\
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("kconfig", run_name="__main__")
"""


def test_migration_of_older_kernels_is_enough() -> None:
    """NUMA_MIGRATION is younger than the suite's oldest kernels."""
    symbols = {entry.symbol for entry in wanted("arm64")} - {"CONFIG_NUMA_MIGRATION"}
    text = "".join(f"{symbol}=y\n" for symbol in [*symbols, "CONFIG_MIGRATION"])
    assert list(lacking(parse(text, "6.1"), "arm64")) == []


# --- marks ------------------------------------------------------------------------------------

MODULE = """
import pytest
from pytest import mark
pytestmark = [pytest.mark.needs("all_of_them"), pytest.mark.slow]

@pytest.mark.needs("one", "two")
@pytest.mark.parametrize("needs", ["three"])
def test_a(needs): ...

@mark.needs("one")
class TestB:
    @pytest.mark.needs("two")
    def test_c(self): ...
    def helper(self): ...

CASES = [pytest.param(1, marks=pytest.mark.needs("three")), 2]

@pytest.mark.parametrize("case", CASES)
def test_d(case): ...
"""


def test_marks_of_a_module(tmp_path: Path) -> None:
    """Of functions, classes, the module, and of cases that a test is given by name."""
    (tmp_path / "suite/deeper").mkdir(parents=True)
    (tmp_path / "suite/deeper/test_x.py").write_text(MODULE)
    (tmp_path / "suite/helper.py").write_text(MODULE)
    a, c, d = (f"suite/deeper/test_x.py::{name}" for name in ("test_a", "TestB::test_c", "test_d"))
    assert marks.tests_by_feature(tmp_path / "suite") == {
        "all_of_them": [a, c, d],
        "one": [a, c],
        "two": [a, c],
        "three": [d],
    }


def test_marks_of_what_is_no_python(tmp_path: Path) -> None:
    """Are an error that names the file."""
    with pytest.raises(marks.MarksError, match=f"there are no tests in {tmp_path}"):
        marks.tests_by_feature(tmp_path)
    (tmp_path / "test_x.py").write_text("def")
    with pytest.raises(marks.MarksError, match=f"{tmp_path}/test_x.py is not understood"):
        marks.tests_by_feature(tmp_path)
