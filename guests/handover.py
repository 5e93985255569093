# SPDX-License-Identifier: GPL-2.0
"""What QEMU reads and writes, within reach of the user it runs as in place of root.

Root's directories let nobody in. What lies in them is opened here and named by its descriptor,
which QEMU inherits: who opens /proc/self/fd/N needs to be allowed the file or the directory that
it is, not the way to it (proc_pid_fd(5)).
"""

import os
import shutil
import stat
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from guests.qemu import CONSOLE, READS_MEMORY, Emulator, Ram
from guests.sparse import copy_sparse
from guests.user import User

Places: TypeAlias = tuple[Emulator, Path, Path, Ram]  # the binary, the kernel, a directory, memory


class Handover(ExitStack):
    """Keeps what QEMU inherits open until that has been started."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptors: list[int] = []

    def places(self, user: User, places: Places) -> Places:
        """What QEMU is to call them, and the user is let in. The launcher opens the binary."""
        emulator, image, directory, ram = places
        _let_in(user, directory)
        if not image.stat().st_mode & stat.S_IROTH:
            image = Path(shutil.copyfile(image, directory / "kernel"))
        if ram.saved and emulator.version < READS_MEMORY:
            ram = replace(ram, paths=tuple(map(self._copied, ram.paths)))
        return (
            replace(emulator, data=tuple(map(self._opened, emulator.data))),
            self._opened(image),
            self._opened(directory),
            replace(ram, paths=tuple(map(self._opened, ram.paths))),
        )

    def _opened(self, path: Path) -> Path:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        self.callback(os.close, descriptor)
        self.descriptors.append(descriptor)
        return Path(f"/proc/self/fd/{descriptor}")

    def _copied(self, path: Path) -> Path:
        """Memory for a QEMU that opens it to be written, though it writes to none of the cache."""
        memory = os.memfd_create("ksmtests-guest")
        self.callback(os.close, memory)
        with path.open("rb") as stream:
            copy_sparse(stream.fileno(), memory)
        return Path(f"/proc/self/fd/{memory}")


def _let_in(user: User, directory: Path) -> None:
    """Have the user read what is in the directory, and write nothing there but the console."""
    for path in directory.iterdir():
        path.chmod(0o644)
    console = directory / CONSOLE
    console.touch(0o600)
    os.chown(console, user.uid, user.gid)
    os.chown(directory, -1, user.gid)
    directory.chmod(0o710)
