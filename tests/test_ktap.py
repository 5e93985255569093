# SPDX-License-Identifier: GPL-2.0
"""`--ktap`: results of a made-up suite, read by a strict reader and by the kernel's own parser."""

import importlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree as ET

import pytest

from plugins.results import Result, escaped, names
from tests.kernel_tree import kernel_tree
from tests.ktap_reader import read

ROOT = Path(__file__).parent.parent
ALL = {
    "test_each.py": """
        import pytest
        @pytest.mark.parametrize("word", ["a", "b # c", "d\\n1..9"])
        def test_each(word): assert word != "a"
        class TestClass:
            def test_method(self): pass
    """,
    "test_outcomes.py": """
        import pytest
        from pathlib import Path
        def test_passes(): print("ok 1 said by a test")
        def test_fails():
            print("Subtest: said # before it failed")
            print("1..5")
            assert [1, 2] == [1, 3]
        @pytest.mark.skip(reason="no # such thing")
        def test_skipped(): pass
        @pytest.mark.xfail(reason="known upstream bug: it forgets")
        def test_expected(): assert False
        @pytest.mark.xfail(reason="known")
        def test_unexpected(): pass
        @pytest.mark.xfail(reason="known", strict=True)
        def test_strictly_unexpected(): pass
        @pytest.fixture
        def broken(): raise RuntimeError("not set up")
        def test_not_set_up(broken): pass
        @pytest.fixture
        def leaking():
            yield
            raise RuntimeError("not torn down")
        def test_not_torn_down(leaking): pass
        @pytest.mark.timeout(0.3)
        def test_endless():
            while True: pass
        def test_waits(): raise TimeoutError("no answer after 3 s")
    """,
    "test_parts.py": """
        def test_parts(subtests):
            with subtests.test("first"): pass
            with subtests.test("second # of two", n=2): assert False
    """,
    "test_skips.py": """
        import pytest
        pytestmark = pytest.mark.skip(reason="too cold")
        def test_one(): pass
        def test_two(): pass
    """,
}
LINES = {  # of tests, without their numbers
    "ok test_each[d\\n1..9]",
    "ok test_each[b \\x23 c]",
    "not ok test_each[a]",
    "ok test_method",
    "ok test_passes",
    "not ok test_fails",
    "ok test_skipped # SKIP no \\x23 such thing",
    "ok test_expected # XFAIL known upstream bug: it forgets",
    "ok test_unexpected # passes, though expected to fail: known",
    "not ok test_strictly_unexpected",
    "not ok test_not_set_up # ERROR setup: RuntimeError: not set up",
    "not ok test_not_torn_down # ERROR teardown: RuntimeError: not torn down",
    "not ok test_endless # TIMEOUT Failed: Timeout (>0.3s) from pytest-timeout.",
    "not ok test_waits # TIMEOUT TimeoutError: no answer after 3 s",
    "ok first",
    "not ok second \\x23 of two n=2",
    "ok test_one # SKIP too cold",
    "ok test_two # SKIP too cold",
}
LEVELS = {  # how many levels end with the line
    "not ok test_each": 2,  # the module, and the test with parameters in it
    "ok TestClass": 1,
    "not ok test_parts": 2,
    "ok test_skips # SKIP too cold": 1,
    "not ok test_outcomes": 1,
}

Suite: TypeAlias = Callable[[dict[str, str]], None]
Run: TypeAlias = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Make a suite of these modules."""

    def make(modules: dict[str, str]) -> None:
        for name, source in modules.items():
            text = "\n".join(line.removeprefix(" " * 8) for line in source.splitlines())
            (tmp_path / name).write_text(text)
        (tmp_path / "pytest.ini").write_text("[pytest]\n")

    return make


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Run]:
    """Start pytest on the suite in a process group of its own; its output is stdout's."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "pytest", "-p", "plugins.ktap", "--ktap", *arguments]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        started.append(
            subprocess.Popen(
                command,
                cwd=tmp_path,
                env={**kept, "PYTHONPATH": str(ROOT), **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])


@WORKERS
def test_every_outcome_has_its_line(suite: Suite, start: Run, workers: tuple[str, ...]) -> None:
    """Names are one line without `#`; what tests print can be taken for nothing else."""
    suite(ALL)
    level = read(start(*workers).communicate()[0])
    assert Counter(level.tests()) == Counter(LINES)
    assert Counter(level.levels()) == Counter(LEVELS)


@WORKERS
def test_counts_are_those_of_junit(
    suite: Suite, start: Run, tmp_path: Path, workers: tuple[str, ...]
) -> None:
    """pytest counts a test that fails and is not torn down twice; here is none such."""
    suite({name: text for name, text in ALL.items() if name != "test_parts.py"})
    text = start(*workers, "--junitxml=junit.xml").communicate()[0]
    (junit,) = ET.fromstring((tmp_path / "junit.xml").read_text())  # noqa: S314
    tests = list(read(text).tests())
    failed = sum(line.startswith("not ok") for line in tests)
    left_out = sum("# SKIP" in line or "# XFAIL" in line for line in tests)
    assert len(tests) == len(junit.findall("testcase"))
    assert failed == int(junit.attrib["failures"]) + int(junit.attrib["errors"])
    assert left_out == int(junit.attrib["skipped"])
    assert "# Totals: pass:4 fail:5 xfail:1 xpass:1 skip:3 error:2" in text


def test_evidence_stands_above_the_line(suite: Suite, start: Run) -> None:
    """As comments, which no reader takes for anything else."""
    suite(ALL)
    text = start("test_outcomes.py").communicate()[0]
    above = text[: text.index("not ok 2 test_fails")].splitlines()
    assert "  #   E       assert [1, 2] == [1, 3]" in above
    assert "  #   Subtest: said # before it failed" in above
    assert "said by a test" not in text, "what passes shows nothing"


CUT = {
    "test_1.py": "def test_a(): pass\ndef test_b(): assert False\ndef test_c(): pass",
    "test_2.py": "def test_d(): pass\ndef test_e(): pass",
}


def test_first_failure_ends_the_run(suite: Suite, start: Run) -> None:
    """What was not begun says so, a module as a whole."""
    suite(CUT)
    text = start("-x").communicate()[0]
    level = read(text)
    assert level.lines == ["not ok test_1", "ok test_2 # SKIP not run: stopping after 1 failures"]
    assert list(level.tests()) == [
        "ok test_a",
        "not ok test_b",
        "ok test_c # SKIP not run: stopping after 1 failures",
        "ok test_2 # SKIP not run: stopping after 1 failures",
    ]
    assert text.endswith("# Totals: pass:1 fail:1 xfail:0 xpass:0 skip:3 error:0\n")


def test_first_failure_ends_all_workers(suite: Suite, start: Run) -> None:
    """More may have run, but each number has its line."""
    suite(CUT)
    level = read(start("-x", "-n", "2").communicate()[0])
    assert "not ok test_b" in level.tests()


@WORKERS
def test_leaving_fails_what_was_running(suite: Suite, start: Run, workers: tuple[str, ...]) -> None:
    """Ctrl-C and its like."""
    suite({"test_it.py": "import pytest\ndef test_a(): pytest.exit('enough')\ndef test_b(): pass"})
    process = start(*workers)
    lines = sorted(read(process.communicate()[0]).tests())
    assert lines[0].startswith("not ok test_a # ERROR")
    assert process.returncode != 0


def test_a_crashed_worker_fails_its_test(suite: Suite, start: Run) -> None:
    """The others go on."""
    suite({"test_it.py": "import os\ndef test_a(): os._exit(1)\ndef test_b(): pass"})
    lines = sorted(read(start("-n", "1").communicate()[0]).tests())
    assert lines[0].startswith("not ok test_a # ERROR worker 'gw0' crashed while running")
    assert lines[1] == "ok test_b"


@WORKERS
def test_sigterm_is_a_timeout(suite: Suite, start: Run, workers: tuple[str, ...]) -> None:
    """timeout(1), which kselftest runs tests with, ends the whole group so."""
    suite({"test_it.py": "import time\ndef test_a(): time.sleep(100)", **CUT})
    process = start(*workers, "test_it.py", "test_2.py")
    assert process.stdout
    text = ""
    while "RUN  test_it.py::test_a" not in text:
        line = process.stdout.readline()
        assert line, "the test has not begun"
        text += line
    os.killpg(process.pid, signal.SIGTERM)
    lines = list(read(text + process.communicate()[0]).tests())
    assert any(line.startswith("not ok test_a # ") for line in lines)
    assert not workers or len(lines) >= 2
    assert workers or lines == [
        "not ok test_a # TIMEOUT terminated by SIGTERM",
        "ok test_2 # SKIP not run: terminated by SIGTERM",
    ]


def test_results_are_printed_while_tests_run(suite: Suite, start: Run) -> None:
    """A kernel that dies leaves all but its last test's result."""
    suite({"test_it.py": "import time\ndef test_a(): pass\ndef test_b(): time.sleep(100)"})
    process = start()
    assert process.stdout
    lines = iter(process.stdout.readline, "")
    seen = []
    while "RUN  test_it.py::test_b" not in (line := next(lines)):
        seen.append(line)
    assert "  ok 1 test_a\n" in seen


@WORKERS
def test_what_cannot_be_collected_fails(suite: Suite, start: Run, workers: tuple[str, ...]) -> None:
    """With its traceback."""
    suite({"test_it.py": "import no_such_module", **CUT})
    text = start(*workers).communicate()[0]
    assert "not ok test_it # ERROR cannot be collected" in read(text).lines
    assert "No module named 'no_such_module'" in text


def test_nothing_to_run_is_an_empty_plan(suite: Suite, start: Run) -> None:
    """1..0, which no parser takes for a pass."""
    suite(CUT)
    assert read(start("-k", "nothing").communicate()[0]).planned == 0


def test_what_is_collected_alone_is_not_run(suite: Suite, start: Run) -> None:
    """That it was not is for a reason."""
    suite(CUT)
    level = read(start("--collect-only").communicate()[0])
    reason = "SKIP not run: collected only"
    assert level.lines == [f"ok test_1 # {reason}", f"ok test_2 # {reason}"]


def test_an_argument_that_is_no_file_is_told(suite: Suite, start: Run) -> None:
    """A usage error after the start of the session."""
    suite(CUT)
    process = start("nowhere.py")
    assert read(process.communicate()[0]).planned == 0
    assert process.returncode == pytest.ExitCode.USAGE_ERROR


def test_each_worker_its_own_run_is_refused(suite: Suite, start: Run) -> None:
    """A test would have two results."""
    suite(CUT)
    process = start("--dist=each", "--tx=2*popen")
    assert process.communicate()[0] == ""
    assert process.returncode == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize(
    ("nodeid", "levels"),
    [
        ("a/test_b.py::test_c", ["a.test_b", "test_c"]),
        ("test_b.py::C::test_c[x::y/z]", ["test_b", "C", "test_c", "test_c[x::y/z]"]),
        ("README", ["README"]),
    ],
)
def test_levels_of_a_test(nodeid: str, levels: list[str]) -> None:
    """Whatever parameters are called."""
    assert names(nodeid) == levels


def test_names_are_escaped() -> None:
    """One printable line without `#`."""
    assert escaped(" a # b\nc") == r"a \x23 b"
    assert escaped("a\x1b[0m\tb") == r"a\x1b[0m\tb"
    assert escaped("") == ""
    assert Result(ok=True, directive="SKIP").line(3, "x") == "ok 3 x # SKIP"


# The kernel's own parser


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """KUnit's parser: its tree of tests."""
    monkeypatch.syspath_prepend(kernel_tree() / "tools/testing/kunit")
    parser: Any = importlib.import_module("kunit_parser")
    printer = importlib.import_module("kunit_printer").Printer(print=False)
    return lambda text: parser.parse_run_tests(text.splitlines(), printer)


def kunit_lines(test: Any) -> Iterator[str]:
    """The tests of a tree as result lines without diagnostics."""
    for one in test.subtests:
        if one.subtests:
            yield from kunit_lines(one)
        else:
            ok = "not ok" if one.status.name == "FAILURE" else "ok"
            skip = f" # SKIP {one.skip_reason}" if one.status.name == "SKIPPED" else ""
            yield f"{ok} {one.name}{skip}"


def as_kunit(line: str) -> str:
    """A result line with what KUnit's parser keeps of it."""
    return line if "# SKIP" in line else line.partition(" # ")[0]


@pytest.mark.network
@WORKERS
def test_kunit_reads_what_we_print(
    suite: Suite, start: Run, parse: Callable[[str], Any], workers: tuple[str, ...]
) -> None:
    """The kernel's parser finds every test, no error, and the same tree."""
    suite(ALL)
    test = parse(start(*workers).communicate()[0])
    assert test.counts.errors == 0
    assert Counter(kunit_lines(test)) == Counter(map(as_kunit, LINES))
    assert test.status.name == "FAILURE"


@pytest.mark.network
def test_kunit_reads_a_run_cut_short(suite: Suite, start: Run, parse: Callable[[str], Any]) -> None:
    """No error: nothing that was planned is missing."""
    suite(CUT)
    test = parse(start("-x").communicate()[0])
    assert (test.counts.passed, test.counts.failed, test.counts.skipped) == (1, 1, 2)
    assert test.counts.errors == 0
