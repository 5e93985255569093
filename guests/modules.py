# SPDX-License-Identifier: GPL-2.0
"""The modules a guest loads before it can be talked to, in the order they are loaded."""

import lzma
import re
from pathlib import Path

from guests.kernel import KernelFiles

# The channel and the bus it hangs on: modules in Debian's 6.1, built in since.
CHANNEL = ("virtio_pci", "virtio_console")
PLACES = ("drivers/virtio", "drivers/char")  # of these and of what they depend on
# What tests need: swap in memory (6.1 compresses it with a module of its own), and the way to make
# poisoned pages good again.
DEVICES = {"lzo_rle": "CRYPTO_LZO", "zram": "ZRAM", "hwpoison_inject": "HWPOISON_INJECT"}
DEVICE_PLACES = ("crypto", "drivers/block/zram", "lib/*", "mm")


def needed(files: KernelFiles) -> list[Path]:
    """The modules and what they depend on, of those that are not built in.

    Those of devices are loaded where there are any; without them their tests are skipped.
    """
    if files.config is None:
        return []
    config = files.config.read_text("utf-8", errors="replace")
    symbols = {**{name: name.upper() for name in CHANNEL}, **DEVICES}
    modular = [name for name, symbol in symbols.items() if f"\nCONFIG_{symbol}=m\n" in config]
    places = (*PLACES, *DEVICE_PLACES) if modular else ()
    paths = {
        _name(path): path
        for place in places
        for path in sorted(files.modules.glob(f"{place}/*.ko*"))
    }
    ordered: list[Path] = []
    for name in modular:
        _add(name, paths, ordered)
    return ordered


def content(module: Path) -> bytes:
    """What insmod takes: not every kernel decompresses modules."""
    data = module.read_bytes()
    return lzma.decompress(data) if module.suffix == ".xz" else data


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
    found = re.search(rb"\0depends=([\w,-]*)\0", content(module))
    names = found[1].decode().replace("-", "_") if found else ""
    return [name for name in names.split(",") if name]
