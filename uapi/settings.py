# SPDX-License-Identifier: GPL-2.0
"""A kernel setting, one value in one file of sysfs or procfs, as a typed attribute."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Self, TypeVar, overload

T = TypeVar("T")


def read_value(path: Path) -> str:
    """The file's text without its newline; of a list of choices, the one in brackets.

    Raises OSError naming the file.
    """
    text = path.read_text().strip()
    chosen = re.search(r"\[(.+?)\]", text)
    return chosen[1] if chosen else text


def write_value(path: Path, value: str) -> None:
    """Write in one write(2), as the kernel's parsers expect.

    Raises OSError with the file and the value: a plain write(2) error names neither.
    """
    try:
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: writing {value!r}", str(path)) from None


def on_off(text: str) -> bool:
    """The kernel prints booleans as 0 and 1."""
    return text != "0"


class SettingsDirectory:
    """A directory of settings; the subclass names the files."""

    default_root = Path("/")

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or self.default_root

    def has(self, name: str) -> bool:
        """Whether the running kernel offers the file."""
        return (self.root / name).exists()

    def values(self) -> dict[str, str]:
        """Every readable file's value, as text."""
        return {
            path.name: read_value(path)
            for path in sorted(self.root.iterdir())
            if path.is_file() and os.access(path, os.R_OK)
        }


class Setting(Generic[T]):
    """One file. Reading parses it, assigning writes it; the file's name is the attribute's."""

    def __init__(self, parse: Callable[[str], T], text: Callable[[T], str] = str) -> None:
        self.parse = parse
        self.text = text

    def __set_name__(self, owner: type[SettingsDirectory], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, directory: None, owner: type[SettingsDirectory]) -> Self: ...
    @overload
    def __get__(self, directory: SettingsDirectory, owner: type[SettingsDirectory]) -> T: ...
    def __get__(
        self, directory: SettingsDirectory | None, owner: type[SettingsDirectory]
    ) -> Self | T:
        if directory is None:
            return self
        return self.parse(read_value(directory.root / self.name))

    def __set__(self, directory: SettingsDirectory, value: T) -> None:
        write_value(directory.root / self.name, self.text(value))


class Counter(Setting[int]):
    """A file the kernel only lets us read."""

    def __init__(self) -> None:
        super().__init__(int)

    def __set__(self, directory: SettingsDirectory, value: int) -> None:
        raise AttributeError(f"{directory.root / self.name} is read-only")


def switch() -> Setting[bool]:
    """A setting that is 0 or 1."""
    return Setting(on_off, lambda value: "1" if value else "0")
