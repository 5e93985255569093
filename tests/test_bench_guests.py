# SPDX-License-Identifier: GPL-2.0
"""The bench of guests: what it reads out of runs, what it computes of them, and what it refuses."""

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from bench import guest_times, guests, vng
from bench.compare import BenchError
from bench.guest_times import Row, Times
from bench.watched import Watched, watch
from guests import catalogue
from guests.kernel import KernelFiles
from guests.packaged import PackagedKernel
from guests.qemu import Emulator
from tests.test_bench import await_condition, is_running

DEADLINE_S = 30.0
READY = re.compile(rb"^ready$", re.MULTILINE)
OUTPUT = b"""\
collecting ... collected 9 items / 8 deselected / 1 selected

ksmtests/test_vma_flags.py::test_flag[dontfork, dontdump-7.2-amd64] PASSED [100%]

======================= 1 passed, 8 deselected in 4.02s =======================
"""


@pytest.fixture(autouse=True)
def own_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command of the bench does with signals would stay with pytest, for all tests."""
    monkeypatch.setattr(guests, "end_on_signals", lambda: None)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As on a terminal: what a shell starts in its background ignores SIGINT, with all below."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def kernel(name: str = "7.2-amd64") -> PackagedKernel:
    """A kernel of the catalogue."""
    return catalogue.load().kernels[name]


def ran(first_s: float | None = 1.0, exit_code: int = 0, *, timed_out: bool = False) -> Watched:
    """A run of pytest."""
    return Watched(first_s, 2.0, exit_code, timed_out, "1 error")


def shell(script: str, wanted: re.Pattern[bytes] = READY, timeout_s: float = DEADLINE_S) -> Watched:
    """Watch a shell script."""
    return watch(["sh", "-c", script], Path("/"), {"PATH": "/usr/bin:/bin"}, timeout_s, wanted)


def test_result_is_a_line_about_a_test() -> None:
    """Neither what comes before the first result nor the summary is taken for it."""
    before, result, _ = OUTPUT.partition(b" PASSED")
    assert not guests.RESULT.search(before)
    assert guests.RESULT.search(before + result)
    assert not guests.RESULT.search(OUTPUT.replace(b"PASSED", b"FAILED"))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (ran(exit_code=1), "pytest gave 1:\n1 error"),
        (ran(None), "no test passed:\n1 error"),
        (ran(timed_out=True, exit_code=2), "took longer than 2 s"),
    ],
)
def test_run_that_did_not_pass_is_not_measured(run: Watched, message: str) -> None:
    """The error says what happened instead, with the end of the output."""
    with pytest.raises(BenchError, match=message):
        guest_times.times(run)


def test_first_result_is_timed_before_the_end() -> None:
    """A program is timed where it says what is waited for, and where it ends."""
    run = shell("echo begin; echo ready; sleep 0.1; echo end; exit 3")
    assert run.first_s is not None
    assert run.first_s < run.end_s
    assert (run.exit_code, run.output) == (3, "begin\nready\nend\n")


def test_program_that_never_says_so_has_no_first_result() -> None:
    """Silence is not a time."""
    assert shell("echo already").first_s is None


def test_what_a_program_leaves_behind_is_ended() -> None:
    """A server in the background does not outlive the program that started it."""
    run = shell("sleep 1000 >/dev/null & echo $!")
    await_condition(lambda: not is_running(int(run.output)))


@pytest.mark.usefixtures("interruptible")
def test_late_program_is_interrupted_first() -> None:
    """It may clear up behind itself before it is killed."""
    run = shell("trap 'echo cleared; exit' INT; sleep 1000 & wait", timeout_s=0.3)
    assert run.timed_out
    assert run.output == "cleared\n"


def test_interrupt_ends_the_program(tmp_path: Path) -> None:
    """Ctrl-C leaves no process behind."""

    class Interrupt:
        def search(self, _: bytes) -> None:
            raise KeyboardInterrupt

    note = tmp_path / "pid"
    with pytest.raises(KeyboardInterrupt):
        shell(f"echo $$ > {note}; echo; exec sleep 1000", cast("re.Pattern[bytes]", Interrupt()))
    await_condition(lambda: not is_running(int(note.read_text())))


def measured(name: str = "7.2-amd64") -> Row:
    """What was measured of a kernel."""
    return Row(
        kernel(name),
        Times(100.0, 101.0),
        boot=[Times(9.0, 9.5), Times(90.0, 91.0), Times(8.0, 11.0)],
        resume=[Times(2.0, 3.0), Times(1.0, 1.5)],
        vng=[4.0, 40.0, 3.0],
    )


def test_figures_are_medians_and_ratios_of_first_results() -> None:
    """One slow run decides neither."""
    assert measured().figures() == {
        "kernel": "7.2-amd64",
        "cold": {"first": 100.0, "end": 101.0},
        "boot": {"first": 9.0, "end": 11.0},
        "resume": {"first": 1.5, "end": 2.25},
        "vng": 4.0,
        "resume_over_vng": 0.375,
        "boot_over_vng": 2.25,
    }


def test_table_says_whether_the_aim_is_met() -> None:
    """It is one of vng's own architecture; what was left out is no number."""
    there, elsewhere = measured(), measured("7.2-arm64")
    elsewhere.cold = None
    lines = guest_times.table([there, elsewhere])
    assert lines[-2].endswith("0.375  (aim <= 0.5: met)")
    assert " ".join(lines[-1].split()) == "7.2-arm64 - - 9.00 11.00 1.50 2.25 4.00 2.25 0.375"


def test_last_line_is_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs read the last line."""
    monkeypatch.setattr(guests, "run", lambda _: [measured()])
    assert guests.main([]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"amd64": measured().figures()}


def test_one_kernel_of_each_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    """Figures have the architecture's name."""
    assert guests.main(["7.2-amd64", "6.12-amd64"]) == 2
    assert "7.2-amd64, 6.12-amd64 are all for amd64" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("named", "chosen", "expected"),
    [
        (None, ["6.12-amd64"], "6.12-amd64"),
        (None, ["7.2-arm64"], "7.2-amd64"),
        ("6.12-amd64", ["7.2-amd64"], "6.12-amd64"),
    ],
)
def test_vng_boots_the_kernel_that_is_measured(
    named: str | None, chosen: list[str], expected: str
) -> None:
    """Where none of those can be, it boots the default's."""
    found = guests.choose_yardstick(named, guests.choose(chosen))
    assert found.name == expected


@pytest.fixture
def cache(tmp_path: Path) -> guests.Cache:
    """A cache that shares what another one has."""
    other = tmp_path / "other"
    for name in ("debian", "images", "kernels", "states/of-the-user"):
        (other / name).mkdir(parents=True)
    shared = guests.Cache(tmp_path / "own")
    shared.share(other)
    return shared


def save_guest(cache: guests.Cache, name: str) -> None:
    """Save a guest as states.save() would."""
    state = cache.home / "states" / name
    state.mkdir(parents=True)
    (state / "manifest").touch()


def test_cache_has_all_but_the_users_guests(cache: guests.Cache) -> None:
    """The user's saved guests are neither used nor replaced."""
    assert {path.name for path in cache.home.iterdir()} == {"debian", "images", "kernels"}
    save_guest(cache, "own")
    assert list(cache.guests()) == ["own"]
    cache.forget_guests()
    assert cache.guests() == {}


Step = Callable[[PackagedKernel, guests.Cache], Times]


@pytest.mark.parametrize(
    ("step", "saved", "message"),
    [
        (guests.boot, None, "7.2-amd64 was not saved when it had booted:\n1 error"),
        (guests.resume, "another", "7.2-amd64 was not resumed:\n1 error"),
    ],
)
def test_only_what_was_to_be_measured_is(
    monkeypatch: pytest.MonkeyPatch, cache: guests.Cache, step: Step, saved: str, message: str
) -> None:
    """A boot is not taken for a resumption, nor is a guest resumed that nobody saved."""

    def run_test(*_: object) -> Watched:
        if saved:
            save_guest(cache, saved)
        return ran()

    monkeypatch.setattr(guests, "run_test", run_test)
    with pytest.raises(BenchError, match=message):
        step(kernel(), cache)


def files(tmp_path: Path, config: str = "") -> KernelFiles:
    """A kernel's files."""
    (tmp_path / "config").write_text(config)
    return KernelFiles("7.2", tmp_path / "vmlinuz", tmp_path / "config", tmp_path)


def test_vng_gets_the_same_machine(tmp_path: Path) -> None:
    """The same image, QEMU, firmware, memory and processors."""
    emulator = Emulator(Path("/qemu"), (10, 0), (Path("/data"), Path("/bios")))
    one = vng.Vng(tmp_path, tmp_path, kernel(), files(tmp_path), emulator)
    words = " ".join(one.command())
    assert f"--run {tmp_path}/vmlinuz " in words
    assert "--qemu /qemu --memory 512M --cpus 1 --append no_timer_check" in words
    assert words.endswith("--qemu-opts=-L /data -L /bios -audiodev none,id=none")


def test_what_vng_needs_must_be_built_in(tmp_path: Path) -> None:
    """Modules and what is off are named."""
    config = "CONFIG_VIRTIO_PCI=y\nCONFIG_FUSE_FS=m\nCONFIG_VIRTIO_CONSOLE=y\n"
    assert vng.not_built_in(files(tmp_path, config)) == ["CONFIG_FUSE_FS", "CONFIG_VIRTIO_FS"]


def test_vng_is_not_measured_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the kernel and the machine."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(BenchError, match=r"this is 7.2-amd64 \(amd64\) on aarch64"):
        vng.prepared(kernel()).__enter__()


def test_vng_that_cannot_be_installed_is_an_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What pip said is in it; next time it is tried again."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$2" = venv ] || { echo no index; exit 1; }\n')
    python.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(python))
    for _ in range(2):
        with pytest.raises(BenchError, match=r"(?s)cannot be installed.*an index.*\nno index"):
            vng.install()


def test_boot_that_fails_tells_how_to_look_into_it(tmp_path: Path) -> None:
    """The command that shows the console is in the error."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/vng"
    program.write_text("#!/bin/sh\necho no root\nexit 255\n")
    program.chmod(0o755)
    emulator = Emulator(Path("/qemu"), (10, 0))
    one = vng.Vng(tmp_path, tmp_path, kernel(), files(tmp_path), emulator)
    with pytest.raises(BenchError, match=r"(?s)did not boot.*bin/vng --run.* --verbose`\nno root"):
        one.boot()
