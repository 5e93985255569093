# SPDX-License-Identifier: GPL-2.0
"""Programs at a terminal of their own, and what somebody in front of it would see."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyte

from guests.patience import scaled

ROWS, COLUMNS = 100, 120
DEADLINE_S = 120
CANNOT_EXECUTE = 127  # as shells have it


@dataclass
class Shown:
    """What was to be seen."""

    status: int
    final: str  # the screen at the end
    ever: str  # every line that was on it at some time, once
    cursor_hidden: bool


def run(
    command: list[str],
    directory: Path,
    environment: Mapping[str, str],
    typed: Mapping[str, bytes] | None = None,
) -> Shown:
    """Run a program, and type keys once a text is on the screen. Raises TimeoutError."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # who runs in the background ignores it
            os.chdir(directory)
            os.execvpe(command[0], command, {**environment, "TERM": "xterm-256color"})
        finally:
            os._exit(CANNOT_EXECUTE)  # the exception would have pytest go on here a second time
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    ever: dict[str, None] = {}
    lines: list[str] = []
    waiting = dict(typed or {})
    end = time.monotonic() + scaled(DEADLINE_S)
    try:
        while data := _read(terminal, end):
            stream.feed(data)
            lines = [line.rstrip() for line in screen.display]
            ever.update(dict.fromkeys(lines))
            for text in [text for text in waiting if text in "\n".join(lines)]:
                os.write(terminal, waiting.pop(text))
    except TimeoutError:
        os.killpg(pid, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Shown(status, "\n".join(lines).rstrip(), "\n".join(ever), screen.cursor.hidden)


def _read(descriptor: int, end: float) -> bytes:
    """What a terminal shows next; nothing at its end."""
    if not select.select([descriptor], (), (), max(0.0, end - time.monotonic()))[0]:
        raise TimeoutError("the program has not ended in time")
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # EIO: nobody has the other side open
        return b""
