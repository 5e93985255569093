# SPDX-License-Identifier: GPL-2.0
"""Runs a program that ends when its starter does, and then clears a directory behind it.

    python3 -I launcher.py DIRECTORY PROGRAM [ARGUMENTS…]

The starter holds the other end of standard input. At its end, which comes however the starter ends,
the program is killed; if this process is killed, the program goes with it (PR_SET_PDEATHSIG, which
the starter cannot use itself: it is bound to the thread that started). Exits as the program did.
"""

import ctypes
import os
import select
import shutil
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3 of <linux/capability.h>
MOST_CAPABILITIES = 64


def _give_up_privileges() -> None:
    """Keep root from being more than the owner of root's files: the program needs no capability."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for capability in range(MOST_CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # or an exec would give it back to root
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())


def _become(command: list[str], parent: int) -> None:
    _give_up_privileges()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call above
        os._exit(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # the starter's end of file is not the program's
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(127)


def main(directory: str, command: list[str]) -> int:
    """Run the command until it or the starter ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the starter decides
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _become(command, parent)
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([0, ended], [], [])
    os.kill(child, signal.SIGKILL)  # nothing to a program that has ended and is not waited for
    _, status = os.waitpid(child, 0)
    if 0 in ready:  # or the starter reads what is in it
        shutil.rmtree(directory, ignore_errors=True)
    return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
