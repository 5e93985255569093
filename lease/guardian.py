# SPDX-License-Identifier: GPL-2.0
"""The process that outlives every other one of a run: `python -m lease.guardian DIRECTORY`.

It waits until the last member is gone, however that came about, and restores the settings.
"""

import fcntl
import os
import signal
import sys
from pathlib import Path

from lease.locks import Lock
from lease.membership import restore_and_clear


def main(directory: Path) -> int:
    """Go on guard and return at once; the guarding is a child's."""
    on_guard = Lock(directory / "guardian")
    if not on_guard.try_acquire(fcntl.LOCK_EX):
        return 0
    members = Lock(directory / "members")
    # The lock belongs to the open file, which the child inherits.
    if os.fork() == 0:
        _detach()
        _guard(directory, members)
    return 0


def _detach() -> None:
    os.setsid()
    os.chdir("/")
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)


def _guard(directory: Path, members: Lock) -> None:
    members.wait(fcntl.LOCK_EX)
    try:
        problems = restore_and_clear(directory, members)
    except Exception as error:  # noqa: BLE001 nobody would read a traceback
        problems = [f"{type(error).__name__}: {error}"]
    if problems:
        _tell_kernel_log(problems)
    os._exit(bool(problems))


def _tell_kernel_log(problems: list[str]) -> None:
    """Nobody reads our output any more, and the settings are wrong: the kernel log stays."""
    with open("/dev/kmsg", "w") as log:
        for problem in problems:
            log.write(f"<3>ksmtests: setting not restored: {problem}\n")
            log.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
