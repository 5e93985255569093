# SPDX-License-Identifier: GPL-2.0
"""`--kernel ssh:…` through a real ssh and sshd, on the loopback of this machine."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_kernels import ROOT

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
DEADLINE_S = 20
LEFTOVERS = "ksmtests-board-*"

pytestmark = [
    pytest.mark.skipif(
        SSHD is None, reason="sshd is not installed: apt-get install openssh-server"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="KSM's settings are root's alone"),
]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def path_to_board(tmp_path: Path) -> Iterator[str]:
    """A PATH whose ssh knows `board`, which is this machine behind a server of its own."""
    port = free_port()
    for key in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / key)]
        subprocess.run(command, check=True)
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nPermitRootLogin yes\nStrictModes no\n"
        f"PidFile {tmp_path}/pid\n"
    )
    (tmp_path / "ssh_config").write_text(
        f"Host board\n  HostName 127.0.0.1\n  Port {port}\n  User root\n"
        f"  IdentityFile {tmp_path}/user\n  StrictHostKeyChecking no\n"
        f"  UserKnownHostsFile {tmp_path}/known\n"
    )
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin/ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {tmp_path}/ssh_config "$@"\n')
    wrapper.chmod(0o755)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    command = [str(SSHD), "-D", "-e", "-f", str(tmp_path / "sshd_config")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for_listener(port)
            yield f"{wrapper.parent}:{os.environ['PATH']}"
        finally:
            server.terminate()


def wait_for_listener(port: int) -> None:
    """Until the server takes connections."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"nobody listens on port {port}"
            time.sleep(0.05)
        else:
            return


def run(path: str, board: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the suite there."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, f"--kernel=ssh:{board}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_module_of_the_suite_on_a_board(path_to_board: str) -> None:
    """It passes there, and leaves nothing."""
    temporary = Path(tempfile.gettempdir())
    before = set(temporary.glob(LEFTOVERS))
    done = run(path_to_board, "root@board", "ksmtests/test_profit.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.uname().release in done.stdout
    assert set(temporary.glob(LEFTOVERS)) <= before


def test_a_board_that_is_not_there(path_to_board: str) -> None:
    """The tests fail with what ssh says."""
    done = run(path_to_board, "no-such-board.invalid", "ksmtests/test_profit.py", "-k", "loss")
    assert done.returncode == 1
    assert "no-such-board.invalid" in done.stdout
    assert "ssh ended with status 255" in done.stdout or "Could not resolve" in done.stdout
