# SPDX-License-Identifier: GPL-2.0
"""Whatever happens to a guest, the right test fails for it, and the rest runs in a fresh one."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from guests.cache import cache_dir
from reports.records import read
from tests.test_kernels import ROOMS, ROOT

pytest_plugins = "pytester"
pytestmark = [pytest.mark.guest, pytest.mark.network]

KERNEL = "7.2-arm64"
CACHE = cache_dir().parent

CONFTEST = """
import os, signal
from pathlib import Path
import guests.guest, plugins.remote

pytest_plugins = [
    f"plugins.{name}" for name in ("requirements", "kernels", "matrix", "record")
]
plugins.remote.GRACE_S = 2
guests.guest.SILENCE_S = 8

def children(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

def pytest_runtest_logstart(nodeid):
    for name in ("SIGKILL", "SIGSTOP"):
        if name in nodeid:
            for launcher in children(os.getpid()):
                for qemu in children(launcher):
                    os.kill(qemu, getattr(signal, name))
"""

LOST = """
import ctypes, os, signal, time
from pathlib import Path
import pytest

def test_before(): pass
{test}
def test_after(): pass
"""


Lose: TypeAlias = Callable[..., pytest.RunResult]


@pytest.fixture
def lose(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Lose:
    """Run a test that loses its guest between two that do not, in a checkout of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))  # pytester has a home of its own
    for room in ROOMS:
        (pytester.path / room).symlink_to(ROOT / room)
    pytester.makeconftest(CONFTEST)
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\npythonpath = ['.']\ntimeout = 3\n")
    suite = pytester.mkpydir("suite")

    def run(test: str, *options: str) -> pytest.RunResult:
        (suite / "test_made_up.py").write_text(LOST.format(test=test))
        return pytester.runpytest_subprocess("suite", f"--kernel={KERNEL}", *options, timeout=400)

    return run


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("test", "lines"),
    [
        pytest.param(
            "def test_it(): open('/proc/sysrq-trigger', 'w').write('c')",
            [
                "*the connection was closed*QEMU ended*",
                "fingerprint: *sysrq triggered crash* in sysrq_handle_crash, *",
                "*console of the guest*",
                "*ksmtests: suite/test_made_up.py::test_it",
                "*Kernel panic - not syncing: sysrq triggered crash",
            ],
            id="panic",
        ),
        pytest.param(
            "def test_it():\n"
            "    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
            "    while True: time.sleep(1)",
            ["*the test had not ended after * s", "*ksmtests: suite/test_made_up.py::test_it"],
            id="a test that never ends",
        ),
        pytest.param(
            "def test_it():\n    os.kill(os.getppid(), signal.SIGSTOP)\n    time.sleep(60)",
            ["*said nothing for * s"],
            id="silence",
        ),
        pytest.param(  # panic() stops all processors, and without a timeout it waits for ever
            "def test_it():\n"
            "    open('/proc/sys/kernel/panic', 'w').write('0')\n"
            "    open('/proc/sysrq-trigger', 'w').write('c')",
            [
                "*said nothing for * s",
                "fingerprint: *sysrq triggered crash* in sysrq_handle_crash, *",
                "*Kernel panic - not syncing: sysrq triggered crash",
            ],
            id="hang of the kernel",
        ),
        pytest.param(
            "def test_it():\n"
            "    agent, libc = os.getppid(), ctypes.CDLL(None)\n"
            "    port = next(fd for fd in Path(f'/proc/{agent}/fd').iterdir()\n"
            "                if 'vport' in str(fd.readlink()))\n"
            "    getfd = 438  # pidfd_getfd on every architecture\n"
            "    ours = libc.syscall(getfd, os.pidfd_open(agent), int(port.name), 0)\n"
            "    os.write(ours, b'\\xff' * 64)\n"
            "    time.sleep(60)",
            ["*a message of 4294967295 bytes; * are the limit*"],
            id="garbage on the channel",
        ),
        pytest.param(
            "def test_it():\n    os.kill(os.getppid(), signal.SIGKILL)\n    time.sleep(60)",
            ["*the connection was closed*"],
            id="no agent any more",
        ),
        pytest.param(
            "@pytest.mark.timeout(90)\ndef test_it():\n"
            "    open('/proc/self/oom_score_adj', 'w').write('1000')\n"
            "    kept = [bytes(range(256)) * 4096 for _ in range(4096)]",
            ["*pytest there ended with status 137*", "*Out of memory: Killed process *"],
            id="no memory any more",
        ),
    ],
)
def test_what_a_guest_is_lost_with_fails(test: str, lines: list[str], lose: Lose) -> None:
    """And nothing else does."""
    done = lose(test)
    assert done.parseoutcomes() == {"passed": 2, "failed": 1}
    done.stdout.fnmatch_lines([f"_* test_it[[]{KERNEL}] _*", *lines])
    assert done.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "said"),
    [("SIGKILL", "*QEMU ended with status *"), ("SIGSTOP", "*said nothing for * s")],
)
def test_qemu_itself(number: str, said: str, lose: Lose) -> None:
    """Killed, or stopped, which is a hang with interrupts off; the next test has a new one."""
    done = lose(f"def test_{number}(): time.sleep(60)")
    assert done.parseoutcomes() == {"passed": 2, "failed": 1}
    done.stdout.fnmatch_lines([f"_* test_{number}*", said])


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a small file system")
def test_full_disk(lose: Lose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of before the first test."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "full", tmp_path], check=True)
    try:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        done = lose("", "--kernel-append", "full")  # no saved guest has that
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert done.parseoutcomes() == {"errors": 2}
    done.stdout.fnmatch_lines([f"{KERNEL} cannot be tested: *No space left on device*"])
    assert done.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.timeout(600)
def test_a_kernel_that_does_not_boot(lose: Lose, tmp_path: Path) -> None:
    """Is tried twice for the first test and for the second, and given up; its console is shown.

    In a record it is told by errors without a release.
    """
    record = tmp_path / "run.jsonl"
    done = lose("", "--kernel-append", "rdinit=/nothing panic=-1", f"--record={record}")
    assert {(one.result, one.kernel_release) for one in read(record).tests} == {("error", "")}
    assert done.parseoutcomes() == {"errors": 2}
    done.stdout.fnmatch_lines(
        ["*QEMU ended*", "fingerprint: Kernel panic - not syncing: *", "*console of the guest*"]
    )
    assert done.ret == pytest.ExitCode.TESTS_FAILED
