# SPDX-License-Identifier: GPL-2.0
"""`--kernel`, end to end: a made-up suite on boards whose ssh is a shell of this machine."""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from guests import boarding
from plugins.matrix import alike

pytest_plugins = "pytester"

ROOT = Path(__file__).parent.parent
ROOMS = ("uapi", "mm", "lease", "kconfig", "arch", "plugins", "guests")
PLUGINS = (  # of made-up suites that report
    *("requirements", "kernels", "upstream_bug", "kernel_facts", "known_issues"),
    *("junit", "ktap", "record"),
)

SSH = f"""\
#!/bin/sh
# Connects to no machine but this one.
for last; do :; done
echo "$*" >> "$KSMTESTS_CALLS"
PATH={Path(sys.executable).parent}:$PATH exec sh -c "$last"
"""

SUITE = """
import sys
import warnings
import pytest

def test_passes(record_property):
    record_property("colour", "blue")

def test_fails():
    print("said before it failed")
    assert [1, 2] == [1, 3]

@pytest.mark.parametrize("number", [1, 2])
def test_each(number):
    assert number

@pytest.mark.skip(reason="too cold")
def test_skipped(): pass

@pytest.mark.xfail(reason="known")
def test_expected(): assert False

@pytest.mark.xfail(reason="known")
def test_unexpected(): pass

@pytest.fixture
def broken(): raise RuntimeError("not set up")

def test_not_set_up(broken): pass

@pytest.fixture
def untidy():
    yield
    raise RuntimeError("not torn down")

def test_not_torn_down(untidy): pass

def test_parts(subtests):
    with subtests.test("first"): pass
    with subtests.test("second", n=2): assert False

def test_warns(): warnings.warn("hot", stacklevel=1)
"""


@pytest.fixture
def checkout(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a suite of its own; `calls` in it has a line for each connection."""
    for room in ROOMS:
        (pytester.path / room).symlink_to(ROOT / room)
    plugins = [f"plugins.{name}" for name in ("requirements", "stages", "kernels", "matrix")]
    pytester.makeconftest(f"pytest_plugins = {plugins}\n")
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\npythonpath = ['.']\n")
    (pytester.mkpydir("suite") / "test_made_up.py").write_text(SUITE)
    ssh = pytester.mkdir("bin") / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("KSMTESTS_CALLS", str(pytester.path / "calls"))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return pytester.path


Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(checkout: Path, pytester: pytest.Pytester) -> Run:
    """Run the made-up suite."""

    def run(*arguments: str, source: str = SUITE) -> pytest.RunResult:
        (checkout / "suite/test_made_up.py").write_text(source)
        return pytester.runpytest_subprocess("suite", *arguments, timeout=120)

    return run


def connections(checkout: Path) -> int:
    """How many there were."""
    calls = checkout / "calls"
    return (
        len([line for line in calls.read_text().split("\n") if "BatchMode" in line])
        if calls.exists()
        else 0
    )


def outcomes(file: Path, kernel: str) -> dict[str, list[tuple[str, str | None]]]:
    """Test -> what JUnit says of it, without the kernel's name, places in files and times."""
    found: dict[str, list[tuple[str, str | None]]] = {}
    for case in ET.parse(file).iter("testcase"):  # noqa: S314 - pytest wrote it
        name = case.attrib["name"]
        if kernel:
            assert name.endswith((f"[{kernel}]", f"-{kernel}]"))
            name = name.removesuffix(f"[{kernel}]").removesuffix(f"-{kernel}]")
        found[name.removesuffix("]")] = [
            *((child.tag, child.get("message")) for child in case if child.tag != "properties"),
            *((each.attrib["name"], each.get("value")) for each in case.iter("property")),
        ]
    return found


def test_everything_is_as_on_this_kernel(run: Run, checkout: Path) -> None:
    """Outcomes, messages, captured output and properties; one connection for all of it."""
    options = ("-rA", "-o", "junit_family=xunit1")  # the family that has properties of tests
    here = run("--junitxml=here.xml", *options)
    there = run("--junitxml=there.xml", "--kernel=ssh:root@board", *options)
    assert outcomes(checkout / "there.xml", "board") == outcomes(checkout / "here.xml", "")
    assert there.parseoutcomes() == here.parseoutcomes()
    assert there.ret == here.ret == 1
    there.stdout.fnmatch_lines(
        [
            "*said before it failed",
            "*board: UserWarning: hot",
            "board * 5 * 5 *",
            "skipped 1: too cold",
            "FAILED suite/test_made_up.py::test_fails[[]board] - assert *",
        ]
    )
    assert connections(checkout) == 1


NEEDED_ALONE = """
import sys

def test_loaded(pytestconfig):
    assert not {"guests.session", "plugins.elsewhere", "plugins.remote"} & sys.modules.keys()
    if "plugins.inside" in sys.modules:
        assert not pytestconfig.pluginmanager.has_plugin("xdist")
"""


@pytest.mark.parametrize("options", [[], ["--kernel=ssh:board"]], ids=["here", "there"])
def test_what_runs_other_kernels_is_not_loaded_where_tests_run(
    options: list[str], run: Run
) -> None:
    """Nor are other packages' plugins there, as an emulated processor takes long for them."""
    assert run(*options, source=NEEDED_ALONE).parseoutcomes() == {"passed": 1}


LATE = """
import time
import pytest

@pytest.mark.timeout(1)
def test_late(): time.sleep(60)

def test_next(): pass
"""


def test_time_limit_holds_there(run: Run, checkout: Path) -> None:
    """It is that pytest's own: the connection lives, and the next test is run by it."""
    done = run("--kernel=ssh:board", source=LATE)
    assert done.parseoutcomes() == {"failed": 1, "passed": 1}
    done.stdout.fnmatch_lines(["*Failed: Timeout*1.0s*"])
    assert connections(checkout) == 1


def test_nothing_is_left_on_a_board(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directory is gone with the connection."""
    monkeypatch.setenv("TMPDIR", str(Path.cwd()))
    run("--kernel=ssh:board")
    assert not list(Path.cwd().glob("ksmtests-board-*"))


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        (["-k", "each"], {"passed": 2, "deselected": 9}),
        (["-k", "each and 2"], {"passed": 1, "deselected": 10}),
        (["-x", "-k", "passes or fails or each"], {"passed": 1, "failed": 1, "deselected": 7}),
        (["-m", "skip"], {"skipped": 1, "deselected": 10}),
        (["--runxfail", "-k", "expected"], {"failed": 1, "passed": 1, "deselected": 9}),
    ],
)
def test_selection_is_as_on_this_kernel(
    options: list[str], counts: dict[str, int], run: Run
) -> None:
    """What is left out is not asked for; -x ends the run."""
    assert run("--kernel=ssh:board", *options).parseoutcomes() == counts


def test_what_failed_last_is_run_again(run: Run) -> None:
    """--lf goes by the ids of this run."""
    run("--kernel=ssh:board", "-k", "passes or fails")
    assert run("--kernel=ssh:board", "--lf").parseoutcomes() == {"failed": 1}


def test_collecting_starts_nothing(run: Run, checkout: Path) -> None:
    """It shows the dimension, though."""
    done = run("--kernel=ssh:one", "--kernel=ssh:two", "--kernel=host", "--collect-only", "-q")
    done.stdout.fnmatch_lines(
        [
            "suite/test_made_up.py::test_passes[[]host]",
            "suite/test_made_up.py::test_each[[]1-one]",
            "suite/test_made_up.py::test_each[[]2-two]",
        ]
    )
    assert connections(checkout) == 0


def test_this_kernel_where_it_can_be_tested(run: Run, checkout: Path) -> None:
    """`auto` then has no dimension, and the header says which kernel that is."""
    done = run("--kernel=auto", "-k", "passes", "-v")
    done.stdout.fnmatch_lines(["kernel: *, configuration *", "*::test_passes PASSED*"])
    assert connections(checkout) == 0


@pytest.mark.parametrize(("fresh", "times"), [("run", 1), ("module", 1), ("test", 2)])
def test_a_pristine_kernel_as_often_as_wanted(
    fresh: str, times: int, run: Run, checkout: Path
) -> None:
    """Each run, module or test."""
    run("--kernel=ssh:board", f"--fresh-guest={fresh}", "-k", "each")
    assert connections(checkout) == times


def test_workers_take_a_kernel_each(run: Run, checkout: Path) -> None:
    """And what belongs to it: two boards, two connections, whatever the number of workers."""
    kernels = ("--kernel=ssh:one", "--kernel=ssh:two")
    done = run(*kernels, "-n", "2", "-k", "passes or each", "--matrix=matrix.json")
    assert done.parseoutcomes() == {"passed": 6}
    assert connections(checkout) == 2
    rows = json.loads((checkout / "matrix.json").read_text())["kernels"]
    assert {name: (row["passed"], row["guests"]) for name, row in rows.items()} == {
        "one": (3, 1),
        "two": (3, 1),
    }
    assert rows["one"]["release"] == os.uname().release
    assert rows["one"]["seconds"] >= rows["one"]["boot_seconds"] + rows["one"]["test_seconds"] > 0


LOSES = """
import os, signal
def test_before(): pass
def test_lost(): {how}
def test_after(): pass
"""


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("os._exit(7)", "*board: pytest there ended with status 7"),
        ("os.kill(os.getppid(), signal.SIGKILL)", "*board: the connection was closed*"),
    ],
)
def test_a_lost_board_fails_the_test_it_was_lost_with(
    how: str, why: str, run: Run, checkout: Path
) -> None:
    """The rest runs on a new one."""
    done = run("--kernel=ssh:board", source=LOSES.format(how=how))
    assert done.parseoutcomes() == {"passed": 2, "failed": 1}
    done.stdout.fnmatch_lines(["_* test_lost[[]board] _*", why])
    assert connections(checkout) == 2


def test_a_kernel_that_is_always_lost_is_given_up(run: Run, checkout: Path) -> None:
    """After two attempts; the other tests fail, too, and say so."""
    tests = "\n".join(f"def test_{number}(): os._exit(0)" for number in range(4))
    done = run("--kernel=ssh:board", source=f"import os\n{tests}\n")
    assert done.parseoutcomes() == {"failed": 2, "errors": 2}
    done.stdout.fnmatch_lines(["*2 guests were lost before any test finished"])
    assert connections(checkout) == 2


def test_what_cannot_be_collected_there_fails_here(run: Run) -> None:
    """With the reason."""
    source = "import os\nif os.environ.get('PYTHONPATH', '').count('board'): raise OSError('no!')\n"
    done = run("--kernel=ssh:board", source=source + "def test_it(): pass\n")
    done.stdout.fnmatch_lines(["*could not collect:*", "*OSError: no!*"])
    assert done.ret == 1


def test_a_board_without_what_is_needed_says_so(run: Run, checkout: Path) -> None:
    """The tests fail with what to install."""
    blocked = checkout / "blocked"
    blocked.mkdir()
    (blocked / "_cffi_backend.py").write_text("raise ImportError\n")
    ssh = checkout / "bin/ssh"
    ssh.write_text(SSH.replace("exec sh", f"PYTHONPATH={blocked} exec sh"))
    done = run("--kernel=ssh:board", "-k", "passes")
    assert done.parseoutcomes()["errors"] == 1
    done.stdout.fnmatch_lines(["*no _cffi_backend: apt-get install python3-cffi-backend"])


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("7.2-arm46", "*no kernel, group or pattern 7.2-arm46: did you mean 7.2-arm64*"),
        ("ssh:", "*ssh:: not ssh:[[]user@]host*"),
        ("ssh:-oProxyCommand=x", "*not ssh:*"),
        ("/no/such/tree", "*/no/such/tree*"),
    ],
)
def test_unknown_kernels_are_refused(word: str, complaint: str, run: Run, checkout: Path) -> None:
    """Before anything runs."""
    done = run("--kernel", word)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([complaint])
    assert connections(checkout) == 0


def test_kernels_of_one_name_are_refused(run: Run) -> None:
    """Their tests could not be told apart."""
    done = run("--kernel=ssh:a@board", "--kernel=ssh:b@board")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*board named more than once*"])


def test_features_of_each_kernel(run: Run) -> None:
    """--features asks where the kernel is."""
    done = run("--kernel=ssh:board", "--features")
    done.stdout.fnmatch_lines(["board: kernel: *", "ksm *"])
    assert done.ret == 0


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("guard_advice came with 6.13; this is 6.1.0-50-armmp", "guard_advice came with 6.13"),
        (
            "thp: CONFIG_X is absent from /boot/config-6.1.0-50-armmp",
            "thp: CONFIG_X is absent from /boot/config-*",
        ),
        ("arm: 32-bit ARM has no NUMA", "arm: 32-bit ARM has no NUMA"),
    ],
)
def test_reasons_of_many_kernels_are_shown_once(reason: str, shown: str) -> None:
    """Forty kernels have as many releases, and a handful of reasons."""
    assert alike(reason, "6.1.0-50-armmp") == shown


def test_a_new_directory_may_be_taken_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a run on the same board that begins at that moment; then it gets another one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made: list[Path] = []
    make = tempfile.mkdtemp

    def make_and_lose(prefix: str) -> str:
        made.append(Path(make(prefix=prefix)))
        if len(made) == 1:
            boarding.remove_leftovers()
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    kept = boarding.make_directory()
    boarding.remove_leftovers()
    assert kept == made[1]
    assert list(tmp_path.iterdir()) == [kept]
