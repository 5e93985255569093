# SPDX-License-Identifier: GPL-2.0
"""`--record`: a line for each test, as it was, whatever becomes of the run; and read back."""

import json
import platform
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from arch import current
from reports.records import RecordError, read

pytest_plugins = ("pytester", "tests.made_up_suite")

SUITE = """
import pytest

def test_passes(): pass

class TestClass:
    @pytest.mark.parametrize("size", ["1/2", "x::y"])
    def test_each(self, size): assert size == "1/2", "the size is another"

@pytest.fixture
def broken():
    yield
    raise RuntimeError("not torn down")

def test_not_torn_down(broken): pass

@pytest.mark.upstream_bug("it forgets")
def test_known(): assert False

@pytest.mark.upstream_bug("it forgot")
def test_repaired(): pass

@pytest.mark.skip(reason="too cold")
def test_skipped(): pass
"""
EXPECTED = {
    "test_passes": ("pass", "", ""),
    "TestClass::test_each[1/2]": ("pass", "", ""),
    "TestClass::test_each[x::y]": ("fail", "", ""),
    "test_not_torn_down": ("error", "ERROR", "teardown: RuntimeError: not torn down"),
    "test_known": ("xfail", "XFAIL", "known upstream bug: it forgets"),
    "test_repaired": (
        "xpass",
        "",
        "passes, though expected to fail: known upstream bug: it forgot",
    ),
    "test_skipped": ("skip", "SKIP", "too cold"),
}
HANGS = """
import time
def test_first(): pass
def test_hangs(): time.sleep(1000)
"""
DEADLINE = 60  # s
Run = Callable[..., pytest.RunResult]
WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])


@WORKERS
def test_each_test_is_told_of(run: Run, checkout: Path, workers: tuple[str, ...]) -> None:
    """Once, with its result and why, and the kernel it ran on."""
    done = run(SUITE, "--record=run.jsonl", *workers)
    record = read(checkout / "run.jsonl")
    told = [
        (one.test.removeprefix("suite/test_it.py::"), (one.result, one.directive, one.reason))
        for one in record.tests
    ]
    assert sorted(told) == sorted(EXPECTED.items())
    assert record.status == done.ret == 1
    assert {one.kernel for one in record.tests} == {""}
    assert {one.kernel_release for one in record.tests} == {platform.release()}
    assert {one.architecture for one in record.tests} == {current().name}


def test_a_failure_has_its_log(run: Run, checkout: Path) -> None:
    """What pytest printed of it; other tests have none."""
    run(SUITE, "--record=run.jsonl")
    logs = {one.names[-1]: one.log for one in read(checkout / "run.jsonl").tests}
    assert "AssertionError: the size is another" in logs.pop("test_each[x::y]")
    assert "RuntimeError: not torn down" in logs.pop("test_not_torn_down")
    assert set(logs.values()) == {""}


def test_times_are_those_of_the_test(run: Run, checkout: Path) -> None:
    """It began after the run did, and lasted as long as it slept."""
    run("import time\ndef test_sleeps(): time.sleep(0.3)\n", "--record=run.jsonl")
    record = read(checkout / "run.jsonl")
    (test,) = record.tests
    assert datetime.fromisoformat(test.start) >= datetime.fromisoformat(record.start)
    assert test.duration >= 0.3


def test_kernels_are_told_apart(run: Run, checkout: Path) -> None:
    """The id is that of the test; what ran it stands beside it."""
    boards = ("--kernel=ssh:root@r6.1.77-amd64", "--kernel=ssh:root@r6.12.5")
    run(SUITE, *boards, "--record=run.jsonl")
    tests = read(checkout / "run.jsonl").tests
    assert {(one.kernel, one.kernel_release) for one in tests} == {
        ("r6.1.77-amd64", "6.1.77-amd64"),
        ("r6.12.5", "6.12.5"),
    }
    assert sorted(one.test for one in tests) == sorted(
        2 * [f"suite/test_it.py::{name}" for name in EXPECTED]
    )


def test_a_killed_run_leaves_what_was_done(
    checkout: Path, pytester: pytest.Pytester, request: pytest.FixtureRequest
) -> None:
    """Each line is written as its test ends."""
    (pytester.mkpydir("suite") / "test_it.py").write_text(HANGS)
    record = checkout / "run.jsonl"
    with (checkout / "out").open("w") as out:
        process = pytester.popen(
            [*pytester._getpytestargs(), "suite", "--record=run.jsonl"],  # noqa: SLF001
            stdout=out,
            stderr=out,
        )
    request.addfinalizer(process.kill)
    deadline = time.monotonic() + DEADLINE
    while not record.exists() or "test_first" not in record.read_text():
        assert process.poll() is None, (checkout / "out").read_text()
        assert time.monotonic() < deadline, f"no line of test_first after {DEADLINE} s"
        time.sleep(0.01)
    process.kill()
    process.wait(DEADLINE)
    found = read(record)
    assert found.status is None
    assert [(one.names[-1], one.result) for one in found.tests] == [("test_first", "pass")]


def test_what_runs_when_the_run_ends_is_no_pass(run: Run, checkout: Path) -> None:
    """A test that ends the run has not ended itself."""
    run("import pytest\ndef test_ends(): pytest.exit('enough')\n", "--record=run.jsonl")
    record = read(checkout / "run.jsonl")
    assert [(one.result, one.reason) for one in record.tests] == [("error", "enough")]
    assert record.status == pytest.ExitCode.INTERRUPTED


def test_a_file_that_cannot_be_written_is_an_error_of_usage(run: Run) -> None:
    """Not a run without results."""
    done = run(SUITE, "--record=nowhere/run.jsonl")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: --record: *No such file*nowhere/run.jsonl*"])


def record(tmp_path: Path, *lines: Any) -> Path:
    """A record of these lines."""
    file = tmp_path / "run.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


LINE = {
    "test": "a.py::test_b",
    "names": ["a", "test_b"],
    "kernel": "",
    "kernel_release": "6.12",
    "architecture": "x86",
    "configuration": "",
    "result": "pass",
    "directive": "",
    "reason": "",
    "start": "2026-01-01T00:00:00+00:00",
    "duration": 0.5,
    "log": "",
}
HEAD = {"record": 1, "run": "ab", "start": "2026-01-01T00:00:00+00:00"}


def test_a_line_that_was_being_written_is_none(tmp_path: Path) -> None:
    """Whether it could be read or not."""
    file = record(tmp_path, HEAD, {"end": 0})
    assert read(file).status == 0
    file.write_text(file.read_text().removesuffix("\n"))
    assert read(file).status is None


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ((), "is no record of version 1"),
        (({"record": 2},), "is no record of version 1"),
        ((3,), "line 1 is no object"),
        (({"record": 1, "run": "ab"},), "line 1: start is missing"),
        (({**HEAD, "again": {"a": 3}},), "line 1: again is {'a': 3}, which it cannot be"),
        ((HEAD, {"test": "a.py::test_b"}), "line 2: 'a.py::test_b' has no architecture, "),
        ((HEAD, LINE, {**LINE, "more": 1}), "line 3: 'a.py::test_b' has unknown 'more'"),
        ((HEAD, 3), "line 2 is no object: 3"),
        ((HEAD, {"end": "soon"}), "ends with 'soon'"),
        *(
            ((HEAD, {**LINE, key: value}), f"line 2: 'a.py::test_b': {key} is {value!r:.40}")
            for key, value in [
                *(("duration", -1), ("duration", float("nan")), ("duration", "1")),
                *(("duration", 10**400), ("duration", True), ("result", "great"), ("result", [])),
                *(("start", "yesterday"), ("start", "2026-01-01"), ("names", []), ("names", [1])),
                *(("log", None), ("guest_seconds", "1"), ("measured", {"speed": "high"})),
            ]
        ),
    ],
)
def test_what_is_no_record_is_refused(
    tmp_path: Path, lines: tuple[Any, ...], complaint: str
) -> None:
    """With the file, and what it lacks."""
    file = record(tmp_path, *lines)
    with pytest.raises(RecordError) as caught:
        read(file)
    assert str(caught.value).startswith(str(file))
    assert complaint in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Those that are not there, and those that are not JSON."""
    with pytest.raises(RecordError, match="No such file"):
        read(tmp_path / "gone")
    (tmp_path / "text").write_text("KTAP version 1\n")
    with pytest.raises(RecordError, match="text, line 1: Expecting value"):
        read(tmp_path / "text")


@pytest.mark.parametrize("broken", [b"{", b"\xff", b"[" * 100_000, b"9" * 100_000])
def test_a_broken_line_is_named(tmp_path: Path, broken: bytes) -> None:
    """Whatever is wrong with it."""
    file = record(tmp_path, HEAD, LINE)
    with file.open("ab") as out:
        out.write(broken + b"\n")
    with pytest.raises(RecordError, match=f"{file}, line 3"):
        read(file)


def test_records_of_older_versions_are_read(tmp_path: Path) -> None:
    """What they lack is as if there were nothing to tell."""
    (test,) = read(record(tmp_path, HEAD, LINE)).tests
    assert (test.fingerprint, test.lacks, test.measured) == ("", [], {})
    assert test.guest_seconds is None


MEASURES = """
import pytest

def test_measures(record_property):
    record_property("measured", {"MiB_per_s": 2.5, "name": "x", "odd": float("nan")})

def test_does_not(record_property):
    record_property("measured", "fast")
"""


@WORKERS
def test_what_was_measured_is_kept(run: Run, checkout: Path, workers: tuple[str, ...]) -> None:
    """As far as it is numbers."""
    run(MEASURES, "--record=run.jsonl", *workers)
    found = {one.names[-1]: one.measured for one in read(checkout / "run.jsonl").tests}
    assert found == {"test_measures": {"MiB_per_s": 2.5}, "test_does_not": {}}


def test_how_to_have_a_kernel_again(run: Run, checkout: Path) -> None:
    """By the words it was named with, and what a guest of it was made of."""
    told = ("--kernel=host", "--kernel=ssh:root@r6.12.5", "--guest-nodes=2")
    run(SUITE, *told, "--record=run.jsonl")
    assert read(checkout / "run.jsonl").again == {
        "host": ["--kernel=host", "--guest-nodes=2"],
        "r6.12.5": ["--kernel=ssh:root@r6.12.5", "--guest-nodes=2"],
    }


def test_a_guest_says_how_long_it_took(run: Run, checkout: Path) -> None:
    """Once, with its first test."""
    run(SUITE, "--kernel=ssh:root@r6.12.5", "--record=run.jsonl")
    first, *others = [one.guest_seconds for one in read(checkout / "run.jsonl").tests]
    assert first is not None
    assert first > 0
    assert set(others) == {None}
