# SPDX-License-Identifier: GPL-2.0
"""Processes under test: their answers, their memory, and that none of them outlives its test."""

import errno
import importlib
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import pytest

from mm import process as process_module
from mm import served
from mm.process import Process, ProcessLost, Zygote
from uapi import libc
from uapi.libc import PAGE_SIZE, lib

DEADLINE = 60  # s
LONG = 3600.0  # s; a call that never ends of itself
SCENE = f"""
import sys, time
from mm.process import Zygote

zygote = Zygote()
idle, stuck = zygote.process.fork(), zygote.process.fork()
grandchild, fresh = idle.fork(), stuck.fork()
fresh.execute()
stuck.send(time.sleep, {LONG})
print(*(process.pid for process in (zygote.process, idle, stuck, grandchild, fresh)), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """What processes are forked from."""
    started = Zygote()
    yield started
    started.close()


@pytest.fixture
def process(zygote: Zygote) -> Iterator[Process]:
    """A process of the test's own."""
    child = zygote.process.fork()
    yield child
    if child.alive:
        child.kill()


def wait_for_ends(pidfds: list[int]) -> None:
    """Wait until every process of these has ended."""
    end = time.monotonic() + DEADLINE
    running = set(pidfds)
    while running:
        left = end - time.monotonic()
        assert left > 0, f"{len(running)} of {len(pidfds)} processes still run"
        running -= set(select.select(list(running), [], [], left)[0])


def open_descriptors(pid: int | str) -> int:
    """How many descriptors a process has, in itself with the one that looks."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_calls_happen_in_the_process(process: Process) -> None:
    """And their results come back."""
    assert process.call(os.getpid) == process.pid != os.getpid()


def test_exceptions_come_back(process: Process) -> None:
    """With all that they carry; the process goes on."""
    with pytest.raises(OSError, match=r"madvise\(0x0, 1, 12345\)") as caught:
        process.call(libc.madvise, 0, 1, 12345)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(ZeroDivisionError):
        process.call(divmod, 1, 0)
    assert process.call(os.getpid) == process.pid


def test_result_that_cannot_be_sent_is_an_error_of_the_call(process: Process) -> None:
    """It is not the end of the process."""
    with pytest.raises(TypeError, match="cannot pickle"):
        process.call(threading.Lock)
    assert process.call(os.getpid) == process.pid


def test_function_unknown_there_is_an_error_of_the_call(
    process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process does not see all modules that the test does."""
    (tmp_path / "nowhere.py").write_text("def unknown(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        process.call(importlib.import_module("nowhere").unknown)
    assert process.call(os.getpid) == process.pid


def test_call_started_is_answered_later(process: Process) -> None:
    """The test does something else meanwhile."""
    process.send(divmod, 7, 3)
    assert process.answer() == (2, 1)


def test_answer_waits_for_memory() -> None:
    """A limit of memory that a call has reached may forbid the answer, too."""
    answers: list[bytes] = []

    class Forbidden:
        """Refuses twice."""

        tries = 0

        def send_bytes(self, data: bytes) -> None:
            """As a socket does that is charged for its buffers."""
            self.tries += 1
            if self.tries < 3:
                raise OSError((errno.ENOMEM, errno.ENOBUFS)[self.tries - 1], "no memory")
            answers.append(data)

    served.reply(cast("Connection", Forbidden()), b"answer")
    assert answers == [b"answer"]


def test_process_killed_in_a_call_is_lost(process: Process) -> None:
    """The call does not wait for its deadline."""
    process.send(time.sleep, LONG)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(ProcessLost, match="the process ended during call"):
        process.answer()


def test_process_that_ends_by_itself_in_a_call_is_lost(process: Process) -> None:
    """A crash looks like this."""
    with pytest.raises(ProcessLost, match="the process ended during _exit"):
        process.call(os._exit, 3)


@pytest.mark.parametrize("action", ["call", "fork", "execute"])
def test_nothing_can_be_asked_of_a_dead_process(process: Process, action: str) -> None:
    """Whatever is asked, the process is lost."""
    os.kill(process.pid, signal.SIGKILL)
    pidfd = os.pidfd_open(process.pid)
    wait_for_ends([pidfd])
    os.close(pidfd)
    with pytest.raises(ProcessLost):
        process.call(os.getpid) if action == "call" else getattr(process, action)()


def test_call_that_takes_too_long_is_given_up(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is one that is stuck in the kernel."""
    monkeypatch.setattr(process_module, "CALL_DEADLINE", 0.1)
    with pytest.raises(ProcessLost, match=r"no answer to sleep within 0\.1 s"):
        process.call(time.sleep, LONG)


def test_fork_gives_independent_memory(process: Process) -> None:
    """Parent and child begin with the same content, and see no write of each other."""
    address = process.call(libc.mmap, PAGE_SIZE)
    process.call(served.store, address, b"both")
    child = process.fork()
    process.call(served.store, address, b"mine")
    assert child.call(served.load, address, 4) == b"both"
    child.call(served.store, address, b"hers")
    assert process.call(served.load, address, 4) == b"mine"
    child.kill()


def test_fork_makes_a_child_of_the_process(process: Process) -> None:
    """Not of the test."""
    child = process.fork()
    assert child.call(os.getppid) == process.pid
    assert process.call(os.getppid) != os.getpid()
    child.kill()


def test_exec_gives_fresh_memory_to_the_same_process(process: Process) -> None:
    """The number stays, the mapping goes."""
    address = process.call(libc.mmap, PAGE_SIZE)
    process.execute()
    assert process.call(os.getpid) == process.pid
    with pytest.raises(OSError, match="madvise"):
        process.call(libc.madvise, address, PAGE_SIZE, lib.MADV_DONTNEED)


def test_exit_status_of_an_orderly_end(process: Process) -> None:
    """Zero, and no zombie."""
    child = process.fork()
    assert child.exit() == 0
    assert not child.alive
    assert not Path(f"/proc/{child.pid}").exists()


def test_exit_status_of_a_kill(process: Process) -> None:
    """The signal's number, negative."""
    child = process.fork()
    assert child.kill() == -signal.SIGKILL
    assert not child.alive
    assert not Path(f"/proc/{child.pid}").exists()


def test_exit_status_of_one_that_ended_before(process: Process) -> None:
    """Killing it again does not change how it ended."""
    child = process.fork()
    with pytest.raises(ProcessLost):
        child.call(os._exit, 3)
    assert child.kill() == 3


def test_child_ends_with_its_parent(process: Process) -> None:
    """Even in the middle of a call."""
    child = process.fork()
    child.send(time.sleep, LONG)
    pidfd = os.pidfd_open(child.pid)
    process.kill()
    wait_for_ends([pidfd])
    os.close(pidfd)


def test_interrupt_from_the_terminal_is_the_test_s_alone(process: Process) -> None:
    """Ctrl-C reaches the whole process group; what pdb looks at must not die of it."""
    os.kill(process.pid, signal.SIGINT)
    assert process.call(os.getpid) == process.pid


def test_fifty_forks_leave_no_descriptor_open(process: Process) -> None:
    """Neither here nor in the process that forks, nor do they pile up in the children."""
    process.fork().kill()
    here, there = (open_descriptors(pid) for pid in ("self", process.pid))
    for _ in range(50):
        child = process.fork()
        inherited = open_descriptors(child.pid)
        child.kill()
    assert inherited == there
    assert open_descriptors(process.pid) == there
    assert open_descriptors("self") == here


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give its rights up")
def test_fork_that_fails_leaves_no_descriptor_open(process: Process) -> None:
    """The error comes back, and the process goes on."""
    process.fork().kill()
    here, there = (open_descriptors(pid) for pid in ("self", process.pid))
    process.call(resource.setrlimit, resource.RLIMIT_NPROC, (0, 0))
    process.call(os.setuid, 65534)  # the limit does not bind root
    with pytest.raises(BlockingIOError):
        process.fork()
    assert open_descriptors(process.pid) == there
    assert open_descriptors("self") == here


@pytest.fixture
def scene() -> Iterator[subprocess.Popen[str]]:
    """A test's side: a zygote, two children, one stuck in a call, and a child of each of them."""
    test_side = subprocess.Popen(
        [sys.executable, "-c", SCENE],
        cwd=process_module.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with test_side:
        yield test_side
        test_side.kill()


def test_nothing_outlives_a_killed_test(scene: subprocess.Popen[str]) -> None:
    """SIGKILL of the test's side alone ends all of its processes, in silence."""
    assert scene.stdout
    assert scene.stderr
    pidfds = [os.pidfd_open(int(pid)) for pid in scene.stdout.readline().split()]
    assert len(pidfds) == 5
    scene.kill()
    wait_for_ends(pidfds)
    for pidfd in pidfds:
        os.close(pidfd)
    assert scene.stderr.read() == ""


def test_closing_the_zygote_ends_everything() -> None:
    """In the ordinary way, too."""
    zygote = Zygote()
    child = zygote.process.fork()
    child.send(time.sleep, LONG)
    pidfds = [os.pidfd_open(pid) for pid in (zygote.process.pid, child.pid)]
    zygote.close()
    wait_for_ends(pidfds)
    for pidfd in pidfds:
        os.close(pidfd)
