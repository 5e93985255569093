# SPDX-License-Identifier: GPL-2.0
"""Runs a program that ends when its starter does, and then clears a directory behind it.

    python3 -I launcher.py IDS DIRECTORY PROGRAM [ARGUMENTS…]

IDS are whom the program runs as, UID:GID or UID:GID:GROUP…; an empty word leaves it the starter's.
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
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3 of <linux/capability.h>
MOST_CAPABILITIES = 64


def command(directory: str, program: Sequence[str], ids: Sequence[int] = ()) -> list[str]:
    """The command line: ids are a user's, a group's, and those of further groups."""
    told = ":".join(map(str, ids))
    return [sys.executable, "-I", __file__, told, directory, *program]


def _give_up_privileges(ids: list[int]) -> None:
    """Become the user; root without one is no more than the owner of root's files.

    No capability is left, and none can be gained. Raises OSError.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for capability in range(MOST_CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # or an exec would give it back to root
    if ids:
        user, group, *groups = ids
        os.setgroups(groups)
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())


def _become(program: list[str], ids: list[int], parent: int) -> None:
    try:
        path = shutil.which(program[0]) or program[0]
        found: str | int = path
        if ids:  # it may lie where only the starter is let in
            found = os.open(path, os.O_PATH)
            os.set_inheritable(found, True)  # the interpreter of a script opens it once more
        _give_up_privileges(ids)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user clears it
        if os.getppid() != parent:  # it ended before the call above
            os._exit(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)  # the starter's end of file is not the program's
        os.execve(found, program, os.environ)
    except OSError as error:
        sys.stderr.write(f"{program[0]}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(127)


def main(ids: str, directory: str, program: list[str]) -> int:
    """Run the program until it or the starter ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the starter decides
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _become(program, [int(each) for each in ids.split(":") if each], parent)
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([0, ended], [], [])
    os.kill(child, signal.SIGKILL)  # nothing to a program that has ended and is not waited for
    _, status = os.waitpid(child, 0)
    if 0 in ready:  # or the starter reads what is in it
        shutil.rmtree(directory, ignore_errors=True)
    return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
