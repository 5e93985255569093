# SPDX-License-Identifier: GPL-2.0
"""Trace instances: what is read from them, and that none is left behind."""

import contextlib
import os
import signal

import pytest

from uapi import tracefs
from uapi.tracefs import Event, EventsLost, Instance

HEAD = "# tracer: nop\n#\n#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n"
KSMD = "            ksmd-38      [001] .....   123.456789: ksm_start_scan: seq 1 rmap size 3\n"
ODD = "   a-b: [0] c-1234567 [000] d..1.  9999.000001: ksm_enter: mm ffff888100000000\n"

needs_events = pytest.mark.skipif(
    os.geteuid() != 0 or not tracefs.has_events("ksm"), reason="the kernel does not trace KSM"
)


def test_events_are_parsed() -> None:
    """Whatever the name of the task looks like."""
    assert tracefs.parse(HEAD + KSMD + ODD) == [
        Event("ksm_start_scan", 38, "seq 1 rmap size 3"),
        Event("ksm_enter", 1234567, "mm ffff888100000000"),
    ]


def test_lost_events_are_told() -> None:
    """A test that counts events must not miss some."""
    with pytest.raises(EventsLost, match="5"):
        tracefs.parse(HEAD + KSMD + "CPU:1 [LOST 5 EVENTS]\n")


def test_anything_else_is_an_error() -> None:
    """A format that changed is not an empty trace."""
    with pytest.raises(ValueError, match="not an event: 'ksmd 38'"):
        tracefs.parse("ksmd 38\n")


@needs_events
def test_instance_is_removed() -> None:
    """With the end of the block, by an exception, too."""
    with contextlib.suppress(RuntimeError), Instance("ksm"):
        (name,) = own_instances()
        assert name.startswith(f"{tracefs.PREFIX}{os.getpid()}-")
        raise RuntimeError
    assert own_instances() == []


@needs_events
def test_unknown_system_leaves_nothing() -> None:
    """An instance that cannot trace is removed at once."""
    with pytest.raises(FileNotFoundError), Instance("no such system"):
        pass
    assert own_instances() == []


@needs_events
def test_instance_of_a_killed_process_is_removed() -> None:
    """By whoever comes next; that of a living process stays."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        with Instance("ksm"):
            os.write(writing, b"x")
            signal.pause()
    os.read(reading, 1)
    tracefs.remove_leftovers()
    theirs = [name for name in tracefs.instances() if name.split("-")[1] == str(pid)]
    assert len(theirs) == 1
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    tracefs.remove_leftovers()
    assert not set(theirs) & set(tracefs.instances())


def own_instances() -> list[str]:
    """Those of this process."""
    return [name for name in tracefs.instances() if name.split("-")[1] == str(os.getpid())]
