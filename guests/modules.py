# SPDX-License-Identifier: GPL-2.0
"""The modules a guest needs before it can be talked to, in the order they are loaded."""

import re
from pathlib import Path

from guests.kernel import KernelFiles

# The channel and the bus it hangs on: modules in Debian's 6.1, built in since.
CHANNEL = ("virtio_pci", "virtio_console")
PLACES = ("drivers/virtio", "drivers/char")  # of these and of what they depend on


def channel_modules(files: KernelFiles) -> list[Path]:
    """The channel's modules and what they depend on; none where they are built in."""
    if files.config is None:
        return []
    config = files.config.read_text("utf-8", errors="replace")
    modular = [name for name in CHANNEL if f"\nCONFIG_{name.upper()}=m\n" in config]
    places = [files.modules / place for place in PLACES] if modular else []
    paths = {_name(path): path for place in places for path in sorted(place.glob("*.ko*"))}
    ordered: list[Path] = []
    for name in modular:
        _add(name, paths, ordered)
    return ordered


def _add(name: str, paths: dict[str, Path], ordered: list[Path]) -> None:
    path = paths.get(name)  # None: built in
    if path is None or path in ordered:
        return
    for dependency in _dependencies(path):
        _add(dependency, paths, ordered)
    ordered.append(path)


def _name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _dependencies(module: Path) -> list[str]:
    """What .modinfo says; a package has no modules.dep, that is made where it is installed."""
    found = re.search(rb"\0depends=([\w,-]*)\0", module.read_bytes())
    names = found[1].decode().replace("-", "_") if found else ""
    return [name for name in names.split(",") if name]
