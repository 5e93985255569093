# SPDX-License-Identifier: GPL-2.0
"""The catalogue of kernels: `kernels.toml` beside this file, and a file of the user's own.

A file has one table per kernel and, if wanted, groups of them:

    [kernels."6.12-arm64-16k"]
    arch = "arm64"                      # Debian's name, which is also that of the QEMU machine
    package = "linux-image-arm64-16k"   # the package that depends on the kernel's newest build
    suite = "bookworm-backports"
    append = "mitigations=off"          # optional: more for the kernel's command line
    memory_mib = 1024                   # optional
    machine = "virt,mte=on"             # optional: what QEMU is told instead of machines.py's
    cpu = "max,pauth-impdef=on"         # optional, too
    cpus = 2                            # optional
    nodes = 2                           # optional: NUMA nodes, which share the memory equally

    [groups]
    slow = ["6.12-*", "my-kernel"]
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from guests.kernel import Kernel
from guests.machines import MACHINES
from guests.packaged import PackagedKernel

__all__ = ["ALL", "Catalogue", "CatalogueError", "Kernel", "load"]

OWN = Path(__file__).with_name("kernels.toml")
ALL = "all"  # the group of everything

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")  # becomes part of test ids and file names


class CatalogueError(Exception):
    """A catalogue is malformed, or has no such kernel."""


@dataclass(frozen=True)
class Catalogue:
    """Kernels and groups of their names or patterns, in the order of the files."""

    kernels: Mapping[str, PackagedKernel] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def resolve(self, pattern: str) -> list[PackagedKernel]:
        """The kernels of a name, a group or a glob. Raises CatalogueError where there is none."""
        if pattern == ALL:
            return list(self.kernels.values())
        wanted = self.groups.get(pattern, (pattern,))
        found = [
            kernel
            for kernel in self.kernels.values()
            if any(fnmatchcase(kernel.name, one) for one in wanted)
        ]
        if not found:
            raise CatalogueError(self._unknown(pattern))
        return found

    def _unknown(self, pattern: str) -> str:
        known = [*self.kernels, ALL, *self.groups]
        if pattern in self.groups:
            return f"the group {pattern} has no kernels: {', '.join(self.groups[pattern])}"
        near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        return f"no kernel, group or pattern {pattern}: {hint}"


def load(user_file: Path | None = None) -> Catalogue:
    """Read the suite's catalogue and, if given, the user's, whose entries come last and win."""
    catalogue = _read(OWN)
    if user_file is None:
        return catalogue
    added = _read(user_file)
    return Catalogue({**catalogue.kernels, **added.kernels}, {**catalogue.groups, **added.groups})


def _read(path: Path) -> Catalogue:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogueError(f"cannot read the catalogue {path}: {error.strerror}") from error
    except ValueError as error:  # of TOML or of UTF-8
        raise CatalogueError(f"{path}: {error}") from error
    for key in data:
        if key not in {"kernels", "groups"}:
            raise CatalogueError(f"{path}: unknown table [{key}]: there are [kernels] and [groups]")
    return Catalogue(
        {
            name: _kernel(path, name, entry)
            for name, entry in _table(path, "kernels", data.get("kernels", {})).items()
        },
        {
            name: _group(path, name, entry)
            for name, entry in _table(path, "groups", data.get("groups", {})).items()
        },
    )


def _table(path: Path, where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CatalogueError(f"{path}: {where} is {value!r}, not a table")
    return value


def _kernel(path: Path, name: str, entry: object) -> PackagedKernel:
    where = f'{path}: kernels."{name}"'
    if not _NAME.fullmatch(name):
        raise CatalogueError(f"{where}: a kernel's name matches {_NAME.pattern}")
    table = _table(path, f'kernels."{name}"', entry)
    types = {one.name: one.type for one in fields(PackagedKernel) if one.name != "name"}
    for key, value in table.items():
        if key not in types:
            raise CatalogueError(f"{where}: unknown key {key}: there are {', '.join(types)}")
        if type(value) is not types[key]:
            raise CatalogueError(f"{where}: {key} is {value!r}, not {types[key]}")
    for key in ("arch", "package", "suite"):
        if key not in table:
            raise CatalogueError(f"{where}: the key {key} is missing")
    if table["arch"] not in MACHINES:
        raise CatalogueError(f"{where}: arch is {table['arch']!r}; there are {', '.join(MACHINES)}")
    try:
        kernel = PackagedKernel(name, **table)
        _ = kernel.debian
    except ValueError as error:
        raise CatalogueError(f"{where}: {error}") from error
    return kernel


def _group(path: Path, name: str, entry: object) -> tuple[str, ...]:
    if name == ALL:
        raise CatalogueError(f"{path}: groups.{name}: that is the group of all kernels already")
    if not isinstance(entry, list) or not all(isinstance(one, str) for one in entry):
        raise CatalogueError(f"{path}: groups.{name} is {entry!r}, not a list of names or patterns")
    return tuple(entry)
