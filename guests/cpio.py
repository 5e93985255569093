# SPDX-License-Identifier: GPL-2.0
"""Archives a kernel unpacks as its initramfs (the kernel's buffer-format.rst, "newc" form).

They are written here because everything in them is to belong to root, whoever makes them, and to be
the same for the same input. Times are 0 for that reason.
"""

import os
import stat
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO

TRAILER = "TRAILER!!!"
BLOCK = 512  # archives are padded to it, so that another one may follow


class Writer:
    """Writes one archive; parents of what is added are added before it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._written = 0
        self._inode = 0
        self._directories: set[str] = set()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Finish the archive, unless it is a failure."""
        if kind is None:
            self._entry(TRAILER, 0)
            self._pad(BLOCK)

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory, once."""
        name = _relative(path)
        if name and name not in self._directories:
            self._parents(name)
            self._directories.add(name)
            self._entry(name, stat.S_IFDIR | mode)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        name = _relative(path)
        self._parents(name)
        self._entry(name, stat.S_IFREG | mode, data)

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        name = _relative(path)
        self._parents(name)
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def tree(self, root: Path, at: str = "") -> None:
        """Add what is below `root`; other kinds of files than the above are left out."""
        for directory, subdirectories, files in os.walk(root):
            base = PurePosixPath(at, Path(directory).relative_to(root))
            subdirectories.sort()
            for name in sorted(subdirectories + files):
                self._copy(Path(directory, name), str(base / name))

    def _copy(self, source: Path, path: str) -> None:
        status = source.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISLNK(status.st_mode):
            self.symlink(path, str(source.readlink()))
        elif stat.S_ISDIR(status.st_mode):
            self.directory(path, mode)
        elif stat.S_ISREG(status.st_mode):
            self.file(path, source.read_bytes(), mode)

    def _parents(self, name: str) -> None:
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            self.directory(str(parent))

    def _entry(self, name: str, mode: int, data: bytes = b"") -> None:
        encoded = name.encode() + b"\0"
        self._inode += 1
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        self._write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        self._pad(4)
        self._write(data)
        self._pad(4)

    def _pad(self, to: int) -> None:
        self._write(b"\0" * (-self._written % to))

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._written += len(data)


def _relative(path: str) -> str:
    name = str(PurePosixPath("/", path))[1:]
    if ".." in PurePosixPath(name).parts:
        raise ValueError(f"{path} leads out of the archive")
    return name
