# SPDX-License-Identifier: GPL-2.0
"""QEMU's monitor: what it is told to save a guest, and that it may fail."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from guests.monitor import Monitor, MonitorError


@contextlib.contextmanager
def monitored(version: tuple[int, ...], *answers: bytes) -> Iterator[tuple[Monitor, list[bytes]]]:
    """A monitor that answers so after its greeting; what it is told."""
    ours, theirs = socket.socketpair()
    told: list[bytes] = []

    def answer() -> None:
        theirs.sendall(b'{"QMP": {}}\n')
        for each in (b'{"return": {}}', *answers):
            told.append(theirs.recv(4096))
            theirs.sendall(each + b"\n")
        theirs.close()

    thread = threading.Thread(target=answer)
    thread.start()
    monitor = Monitor(ours, version)
    yield monitor, told
    monitor.close()
    thread.join()


OK = b'{"return": {}}'
DONE = b'{"return": {"status": "completed"}}'


@pytest.mark.parametrize(
    ("version", "handed", "uri", "after"),
    [
        ((10, 0, 2), b'{"return": {"fdset-id": 3}}', "file:/dev/fdset/3", [OK]),
        ((7, 2, 22), OK, "fd:state", []),
    ],
)
def test_devices_are_saved_to_a_descriptor(
    version: tuple[int, ...], handed: bytes, uri: str, after: list[bytes], tmp_path: Path
) -> None:
    """QEMU, which may not be let into the cache, keeps none. Events in between are no answers."""
    event = b'{"event": "STOP"}\n'
    with monitored(version, OK, handed, OK, event + DONE, *after) as (monitor, told):
        monitor.save_devices(tmp_path / "devices")
    assert (tmp_path / "devices").is_file()
    assert f'"uri": "{uri}"' in told[3].decode()
    assert [b"remove-fd" in each for each in told[5:]] == [True] * len(after)


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ((b'{"error": {"desc": "no"}}',), "QEMU refused migrate-set-capabilities: no"),
        ((OK, OK, OK, b'{"return": {"status": "failed"}}'), "did not save .* failed"),
        ((OK,), "QEMU has closed its monitor|takes no commands"),
        ((b"[]",), "QEMU's monitor said \\[\\]"),
        ((b"nonsense",), "QEMU's monitor said nonsense"),
    ],
)
def test_a_monitor_that_fails(tmp_path: Path, answers: tuple[bytes, ...], complaint: str) -> None:
    """Whatever it says, it is a MonitorError."""
    with (
        monitored((10, 0), *answers) as (monitor, _),
        pytest.raises(MonitorError, match=complaint),
    ):
        monitor.save_devices(tmp_path / "devices")
