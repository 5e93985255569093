# SPDX-License-Identifier: GPL-2.0
"""The bench: its arithmetic, its care for KSM's settings, and the programs it runs and ends."""

import io
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from bench import __main__ as command_line
from bench import busy_neighbour, compare, cprogram
from bench.settings import Settings, SettingsError, restored
from bench.stopwatch import Run, measure

CHECKOUT = Path(__file__).resolve().parent.parent
NEIGHBOUR = (sys.executable, "-m", "bench.busy_neighbour", "--mib", "1")
DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def own_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command of the bench does with signals would stay with pytest, for all tests."""
    monkeypatch.setattr(command_line, "end_on_signals", lambda: None)


def run_of(wall_s: float, cpu_s: float = 1.0, *, timed_out: bool = False) -> Run:
    """Return a measurement."""
    return Run(wall_s, cpu_s, 0, timed_out, "")


MEASURED = {
    "C": [run_of(3.0, 3.0), run_of(2.0, 2.0), run_of(40.0, 40.0)],
    "ported": [run_of(1.0, 0.5), run_of(9.0, 0.5), run_of(0.5, 0.5)],
    "suite": [run_of(4.0)],
    "busy C": [run_of(60.0, timed_out=True), run_of(50.0)],
    "busy ported": [run_of(11.0), run_of(1.0)],
}


def test_ratios_are_of_medians_to_three_digits() -> None:
    """One slow run does not decide a ratio."""
    assert compare.ratios(MEASURED) == {
        "wall_ratio": 0.333,
        "cpu_ratio": 0.167,
        "suite_wall_ratio": 1.33,
        "busy_wall_ratio": 0.109,
    }


def test_summary_puts_aims_beside_ratios() -> None:
    """A reader sees which aims are met and which are missed."""
    text = "\n".join(compare.summary(MEASURED))
    assert "wall_ratio        0.333   ported / C  (aim <= 0.5: met)" in text
    assert "busy_wall_ratio   0.109   busy ported / busy C  (aim <= 0.1: missed)" in text


def test_timeout_is_marked() -> None:
    """The time of a run that was cut off does not pass for a measured one."""
    line = compare.run_line("busy C", run_of(60, timed_out=True))
    assert line == "busy C        wall  60.000 s  cpu   1.000 s  timed out"


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """Make a directory like /sys/kernel/mm/ksm."""
    directory = tmp_path / "ksm"
    directory.mkdir()
    values = {
        "run": "0",
        "pages_to_scan": "100",
        "use_zero_pages": "0",
        "max_page_sharing": "256",
        "advisor_mode": "[none] scan-time",
    }
    for name, value in values.items():
        (directory / name).write_text(value + "\n")
        (directory / name).chmod(0o644)
    (directory / "full_scans").write_text("7\n")
    (directory / "full_scans").chmod(0o444)
    return directory


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record what is written to files from now on, in order: (name, value)."""
    writes: list[tuple[str, str]] = []
    write_text: Callable[..., int] = Path.write_text

    def record(path: Path, text: str, encoding: str) -> int:
        writes.append((path.name, text))
        return write_text(path, text, encoding=encoding)

    monkeypatch.setattr(Path, "write_text", record)
    return writes


def test_saves_what_is_writable(sysfs: Path) -> None:
    """Settings are saved, counters are not, and a choice is its chosen word."""
    assert Settings.save(sysfs).values == {
        "advisor_mode": "none",
        "max_page_sharing": "256",
        "pages_to_scan": "100",
        "run": "0",
        "use_zero_pages": "0",
    }


def test_restores_after_an_exception(sysfs: Path) -> None:
    """Ctrl-C in the middle of a run leaves the settings as they were."""

    def interrupted() -> None:
        with restored(Settings.save(sysfs)):
            (sysfs / "run").write_text("2")
            (sysfs / "use_zero_pages").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (sysfs / "run").read_text() == "0"
    assert (sysfs / "use_zero_pages").read_text() == "0"


def test_unchanged_settings_are_not_written(sysfs: Path, written: list[tuple[str, str]]) -> None:
    """A program that changes nothing causes no unmerging."""
    with restored(Settings.save(sysfs)):
        pass
    assert written == []


def test_restores_in_an_order_the_kernel_accepts(
    sysfs: Path, written: list[tuple[str, str]]
) -> None:
    """Pages are unmerged and the advisor is stopped before what depends on it is written."""
    settings = Settings.save(sysfs)
    for name, value in (
        ("run", "1"),
        ("max_page_sharing", "2"),
        ("advisor_mode", "none [scan-time]"),
    ):
        (sysfs / name).write_text(value, encoding="ascii")
    written.clear()
    settings.restore()
    assert written == [
        ("run", "2"),  # or max_page_sharing is EBUSY
        ("advisor_mode", "none"),  # or pages_to_scan is EINVAL
        ("max_page_sharing", "256"),
        ("pages_to_scan", "100"),
        ("run", "0"),
    ]


def test_advisor_is_put_back_instead_of_what_it_sets(
    sysfs: Path, written: list[tuple[str, str]]
) -> None:
    """With an advisor, pages_to_scan is the advisor's to set."""
    (sysfs / "advisor_mode").write_text("none [scan-time]", encoding="ascii")
    settings = Settings.save(sysfs)
    (sysfs / "use_zero_pages").write_text("1", encoding="ascii")
    written.clear()
    settings.restore()
    names = [name for name, _ in written]
    assert names == ["run", "advisor_mode", "use_zero_pages", "advisor_mode", "run"]
    assert written[3] == ("advisor_mode", "scan-time")


def test_a_setting_that_resists_is_named_and_the_rest_restored(sysfs: Path) -> None:
    """One failing write does not keep the others from being made."""
    values = Settings.save(sysfs).values | {"not/there": "1"}
    (sysfs / "run").write_text("2")
    with pytest.raises(SettingsError, match="not/there = 1: No such file"):
        Settings(sysfs, values).restore()
    assert (sysfs / "run").read_text() == "0"


def c_program(directory: Path, script: str) -> Path:
    """Put a shell script where the C program would be; it runs in `directory`."""
    program = directory / cprogram.PROGRAM
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return directory


def test_c_program_runs_in_its_directory_and_may_fail(sysfs: Path, tmp_path: Path) -> None:
    """The C program finds itself as ./ksm_functional_tests; its verdicts are not ours."""
    script = f'test -x ./{cprogram.PROGRAM} && echo 2 > {sysfs}/run\necho "# Totals: 1"; exit 1'
    run = compare.run_c(c_program(tmp_path, script), Settings.save(sysfs))
    assert (run.exit_code, run.timed_out) == (1, False)
    assert (sysfs / "run").read_text() == "0"


def test_c_program_that_ends_early_is_an_error(sysfs: Path, tmp_path: Path) -> None:
    """The time of a program that did not do its work is not taken."""
    with pytest.raises(compare.BenchError, match="ended early, with 3:\nno memory"):
        compare.run_c(c_program(tmp_path, "echo no memory; exit 3"), Settings.save(sysfs))


def test_c_program_that_hangs_is_killed_with_its_children(sysfs: Path, tmp_path: Path) -> None:
    """After the timeout no process is left, and the settings are back."""
    script = f"echo 2 > {sysfs}/run; sleep 1000 & echo $!; wait"
    run = compare.run_c(c_program(tmp_path, script), Settings.save(sysfs), timeout_s=0.3)
    assert run.timed_out
    assert 0.3 <= run.wall_s < DEADLINE_S
    assert (sysfs / "run").read_text() == "0"
    await_condition(lambda: not is_running(int(run.output)))


def test_our_failure_is_shown_with_the_end_of_its_output(sysfs: Path) -> None:
    """A failing suite is not measured, and says why."""
    script = "print('1 failed'); raise SystemExit(1)"
    with pytest.raises(compare.BenchError, match=r"(?s)gave 1:.*1 failed"):
        compare.run_ours([sys.executable, "-c", script], Settings.save(sysfs))


def test_cpu_time_includes_children() -> None:
    """The work of pytest-xdist's workers counts."""
    burn = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    assert measure([sys.executable, "-c", script], CHECKOUT, DEADLINE_S).cpu_s >= 0.2


def await_condition(holds: Callable[[], bool]) -> None:
    """Wait for something to become true, or fail."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"not so after {DEADLINE_S} s"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process has not ended; a zombie has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def supports_mergeable() -> bool:
    """Whether this kernel has KSM."""
    try:
        busy_neighbour.mergeable(mmap.PAGESIZE)
    except OSError:
        return False
    return True


needs_ksm = pytest.mark.skipif(
    not supports_mergeable(), reason="madvise(MADV_MERGEABLE) fails: CONFIG_KSM is not set"
)


@contextmanager
def started(command: Sequence[str] = NEIGHBOUR) -> Iterator[subprocess.Popen[bytes]]:
    """Have a program, by default a neighbour, that has said its first line."""
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        try:
            assert child.stdout is not None
            assert select.select([child.stdout], [], [], DEADLINE_S)[0]
            yield child
        finally:
            child.kill()


@needs_ksm
def test_neighbour_ends_when_its_stdin_is_closed() -> None:
    """Who holds the pipe ends the neighbour by closing it."""
    with started() as child:
        assert child.poll() is None
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(DEADLINE_S) == 0


@needs_ksm
def test_neighbour_ends_when_its_parent_is_killed() -> None:
    """Not even SIGKILL to the bench leaves a neighbour behind."""
    script = (
        "import os; from bench import busy_neighbour\n"
        "with busy_neighbour.running(mib=1):\n"
        "    path = f'/proc/self/task/{os.getpid()}/children'\n"
        "    print(open(path).read(), flush=True); input()\n"
    )
    with started([sys.executable, "-c", script]) as parent:
        assert parent.stdout is not None
        neighbour = int(parent.stdout.readline())
        assert is_running(neighbour)
        parent.kill()
    try:
        await_condition(lambda: not is_running(neighbour))
    finally:
        with suppress(ProcessLookupError):
            os.kill(neighbour, signal.SIGKILL)


@needs_ksm
def test_neighbour_alone_ends_in_time() -> None:
    """By hand, without a pipe, the neighbour runs as long as it is told to."""
    command = [*NEIGHBOUR, "--seconds", "0.2"]
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stdout == busy_neighbour.READY


def test_neighbour_changes_every_page_in_every_pass() -> None:
    """No page rests, and all three kinds of content are there in each pass."""
    passes = [[busy_neighbour.content(page, turn) for page in range(9)] for turn in range(3)]
    for before, after in pairwise(passes):
        assert all(old != new for old, new in zip(before, after, strict=True))
    assert passes[1].count(bytes(mmap.PAGESIZE)) == 3
    assert len(set(passes[1])) == 1 + 1 + 3  # zero, equal, three of their own


def source_package(directory: Path, names: Sequence[str]) -> Path:
    """Make an unpacked Debian source package whose tarball has empty files of these names."""
    (directory / "usr/src").mkdir(parents=True)
    with tarfile.open(directory / "usr/src/linux-source-7.2.tar.xz", "w:xz") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(f"linux-source-7.2/{name}"), io.BytesIO())
    return directory


def test_only_what_the_build_needs_is_unpacked(tmp_path: Path) -> None:
    """The kernel's gigabytes stay in the tarball."""
    needed = ["Makefile", "tools/include/linux/types.h", f"{cprogram.SELFTESTS}/mm/vm_util.c"]
    source = source_package(tmp_path / "package", [*needed, "mm/ksm.c", "drivers/Makefile"])
    tree = cprogram.unpack(source, tmp_path)
    unpacked = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())
    assert unpacked == needed


def test_missing_compiler_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(cprogram.BuildError, match="apt-get install gcc make"):
        cprogram.build()


def test_last_line_is_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Programs read the last line."""
    monkeypatch.setattr(sys, "argv", ["bench", "--pairs", "1"])
    monkeypatch.setattr(command_line, "_obstacle", lambda: None)
    monkeypatch.setattr(command_line, "other_users", lambda: None)
    monkeypatch.setattr(command_line, "build", lambda _: tmp_path)
    monkeypatch.setattr(compare, "compare", lambda *_: MEASURED)
    assert command_line.main() == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == compare.ratios(MEASURED)


def test_other_users_of_ksm_are_noted(monkeypatch: pytest.MonkeyPatch, sysfs: Path) -> None:
    """Times taken beside other users of KSM are marked as such."""
    monkeypatch.setattr(command_line, "SYSFS", sysfs)
    (sysfs / "pages_shared").write_text("0\n")
    assert command_line.other_users() is None
    (sysfs / "run").write_text("1\n")
    assert str(command_line.other_users()).startswith("note: KSM is in use (run 1")


def test_without_ksm_exit_status_is_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A kernel without KSM is not a failure of the bench."""
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.setattr(command_line, "SYSFS", tmp_path / "none")
    assert command_line.main() == 2
    assert "this kernel has no KSM (CONFIG_KSM)" in capsys.readouterr().err


def test_without_root_exit_status_is_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sysfs: Path
) -> None:
    """Nor is a missing privilege."""
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.setattr(command_line, "SYSFS", sysfs)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert command_line.main() == 2
    assert "this is uid 1000: run it with sudo" in capsys.readouterr().err
