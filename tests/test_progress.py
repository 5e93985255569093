# SPDX-License-Identifier: GPL-2.0
"""Live progress: what somebody at a terminal sees of a run on other kernels, and CI in its log."""

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests import on_terminal
from tests.on_terminal import Shown

pytest_plugins = ("pytester", "tests.made_up_suite")

SUITE = """
import time
def test_a(): pass
def test_b(): assert 6 * 9 == 42
def test_c(): time.sleep(1)  # longer than it takes to draw
"""
LEFT = re.compile(r"of \d done|\d/\d")  # of live lines
TWO = ("--kernel=ssh:one", "--kernel=ssh:two")

Run = Callable[..., pytest.RunResult]
Show = Callable[..., Shown]


@pytest.fixture(autouse=True)
def conftest(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugins that show something; not on CI."""
    file = checkout / "conftest.py"
    text = file.read_text().replace("pytest_plugins = [", 'pytest_plugins = ["plugins.stages", ')
    file.write_text(text.replace('"plugins.record"]', '"plugins.record", "plugins.progress"]'))
    monkeypatch.delenv("CI", raising=False)
    return file


@pytest.fixture
def show(pytester: pytest.Pytester, checkout: Path) -> Show:
    """Run a suite at a terminal."""
    pytester.mkpydir("suite")

    def show(
        *arguments: str,
        source: str = SUITE,
        typed: Mapping[str, bytes] | None = None,
        **environment: str,
    ) -> Shown:
        (checkout / "suite/test_it.py").write_text(source)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return on_terminal.run(command, checkout, {**os.environ, **environment}, typed)

    return show


@pytest.mark.parametrize("workers", [("-n", "2"), ("-p", "no:xdist")])
def test_a_live_line_for_each_kernel(workers: tuple[str, str], show: Show) -> None:
    """Stage, tests, failures; in the end there is what pytest prints, and nothing else."""
    shown = show(*workers, *TWO)
    assert re.search(r"^one +connecting +0/3 +\d+ s$", shown.ever, re.MULTILINE)
    assert re.search(r"^two +running +2/3 +1 failed +\d+ s$", shown.ever, re.MULTILINE)
    assert re.search(r"^[01] of 2 done +[2-5]/6 +[12] failed +\d+ s$", shown.ever, re.MULTILINE)
    assert not LEFT.search(shown.final)
    assert re.search(r"\n(suite/test_it\.py )?[.F]{6} +\[100%\]\n", shown.final)
    assert shown.final.count("assert (6 * 9) == 42") == 4  # and in the summary
    assert shown.status == 1
    assert not shown.cursor_hidden


def test_verbose_lines_stay_whole(show: Show) -> None:
    """Each test's line appears as a whole, above the live ones."""
    shown = show("-v", *TWO)
    assert (
        len(re.findall(r"^suite/\S+ (PASSED|FAILED) +\[ *\d+%\]$", shown.final, re.MULTILINE)) == 6
    )
    assert not LEFT.search(shown.final)


@pytest.mark.parametrize(
    ("option", "environment", "conf"),
    [
        ("-s", {}, ""),
        ("--pdb", {}, ""),
        ("-v", {"CI": "true"}, ""),
        ("-v", {}, "import sys\nsys.modules['rich'] = None\n"),
    ],
)
def test_plain_lines_where_others_write_or_nothing_can_be_drawn(
    option: str, environment: dict[str, str], conf: str, show: Show, conftest: Path
) -> None:
    """With -s, a debugger, on CI, without rich."""
    conftest.write_text(conf + conftest.read_text())
    shown = show(option, "--kernel=ssh:one", **environment, typed={"(Pdb)": b"c\n"})
    assert not LEFT.search(shown.ever)
    assert "\none: running" in shown.final
    assert shown.status == 1


@pytest.mark.parametrize("workers", [("-n", "2"), ("-p", "no:xdist")])
def test_lines_where_there_is_no_terminal(workers: tuple[str, str], run: Run) -> None:
    """One for each change of a stage."""
    done = run(SUITE, *workers, "--kernel=ssh:one")
    done.stdout.fnmatch_lines(
        [
            "one: connecting",
            "one: collecting",
            "one: running",
            "one: done, 3 tests, 1 failed, * s",
        ]
    )
    assert done.parseoutcomes() == {"passed": 2, "failed": 1}


@pytest.mark.parametrize("options", [("-q",), ("--collect-only",), ("--ktap",)])
def test_nothing_where_it_is_not_wanted(options: tuple[str, ...], run: Run) -> None:
    """With -q, without tests, and among KTAP."""
    assert "one: " not in run(SUITE, *options, "--kernel=ssh:one").stdout.str()


def test_nothing_without_other_kernels(run: Run) -> None:
    """A run on this kernel is as ever."""
    assert "running" not in run(SUITE).stdout.str()


def test_a_lost_board_and_a_gone_worker(run: Run) -> None:
    """Both are told of, and counted as tests that ended."""
    source = "import os\ndef test_it(): os._exit(0)\n"
    run(source, "--kernel=ssh:one").stdout.fnmatch_lines(["one: lost", "one: done, 1 tests, 1 *"])
    done = run(source, "-n1", "--kernel=ssh:one", "--kernel=host", "-k", "host")
    done.stdout.fnmatch_lines(["host: running", "host: done, 1 tests, 1 failed, *"])


def test_a_ctrl_c_ends_a_run_as_ever(show: Show) -> None:
    """With pytest's own words at their place."""
    shown = show(
        "--kernel=ssh:one",
        source="import time\ndef test_it(): time.sleep(60)\n",
        typed={"running": b"\x03"},
    )
    assert "! KeyboardInterrupt !" in shown.final
    assert not LEFT.search(shown.final)
    assert shown.status == pytest.ExitCode.INTERRUPTED
    assert not shown.cursor_hidden


def test_a_breakpoint_has_the_terminal(show: Show) -> None:
    """Nothing is drawn over the debugger."""
    shown = show(
        "--kernel=host",
        source="def test_it():\n    breakpoint()\n    assert True\n",
        typed={"(Pdb)": b"p 6 * 9\nc\n"},
    )
    assert re.search(r"\(Pdb\) p 6 \* 9\n54\n", shown.final)
    assert "1 passed" in shown.final


@pytest.mark.parametrize(
    "name", ["progress.LiveLines._draw", "progress.Row.enter", "live.Line.__rich_console__"]
)
def test_an_error_of_its_own_harms_no_run(name: str, show: Show, conftest: Path) -> None:
    """The display ends; results and exit status are as without it."""
    conftest.write_text(
        f"{conftest.read_text()}\n    from plugins import live, progress\n"
        f"    def fail(*_): raise LookupError('oh')\n    {name} = fail\n"
    )
    shown = show(*TWO, "-n", "2")
    assert "LookupError('oh')" in shown.ever
    assert "2 failed, 4 passed" in shown.final
    assert "Traceback" not in shown.ever
    assert shown.status == 1


def test_program_that_cannot_be_executed_is_told_by_its_status(tmp_path: Path) -> None:
    """Nobody runs on in its place: it was this process, which would go on with its tests."""
    shown = on_terminal.run(["no such program"], tmp_path, dict(os.environ))
    assert (shown.status, shown.final) == (on_terminal.CANNOT_EXECUTE, "")
