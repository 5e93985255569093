# SPDX-License-Identifier: GPL-2.0
"""Whom QEMU runs as where it is root who starts it."""

import functools
import os
import pwd
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

KVM = Path("/dev/kvm")
NOBODY = "nobody"


@dataclass(frozen=True)
class User:
    """Whom a process runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()  # further ones

    @property
    def ids(self) -> tuple[int, ...]:
        """As the launcher is told of them."""
        return (self.uid, self.gid, *self.groups)


@functools.cache
def in_place_of_root(accelerator: str) -> User | None:
    """Who runs QEMU where root starts it: the user who called sudo, else nobody.

    None leaves it to who starts it: this is not root, there is no such user, root cannot become
    him (a namespace may lack him), or he could not use KVM, not even in the group /dev/kvm is of.
    """
    account = _account()
    if os.geteuid() != 0 or account is None:
        return None
    user = User(account.pw_uid, account.pw_gid)
    if accelerator != "kvm":
        return user if _succeeds(["true"], user) else None
    group = KVM.stat().st_gid
    user = replace(user, groups=(group,) if group else ())  # root's group has files of its own
    return user if _succeeds(["test", "-w", str(KVM)], user) else None


def _account() -> pwd.struct_passwd | None:
    """The caller of sudo, unless that was root, else nobody; None where neither is there."""
    caller = os.environ.get("SUDO_UID", "")
    with suppress(KeyError):
        if caller.isdecimal() and int(caller) != 0:
            return pwd.getpwuid(int(caller))
    with suppress(KeyError):
        return pwd.getpwnam(NOBODY)
    return None


def _succeeds(command: list[str], user: User) -> bool:
    try:
        done = subprocess.run(
            command, user=user.uid, group=user.gid, extra_groups=user.groups, check=False
        )
    except OSError:
        return False
    return done.returncode == 0
