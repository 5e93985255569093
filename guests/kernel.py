# SPDX-License-Identifier: GPL-2.0
"""A kernel's files, as Debian packages them."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from guests.cache import cache_dir
from guests.catalogue import Kernel
from guests.debian import FetchError, Package, dependencies, fetch


@dataclass(frozen=True)
class KernelFiles:
    """What a boot needs of a kernel."""

    release: str  # as uname -r says it
    image: Path
    config: Path
    modules: Path  # lib/modules/RELEASE; does not exist where modules are packaged apart


def fetch_kernel(kernel: Kernel) -> KernelFiles:
    """Fetch a kernel's newest build. Raises FetchError."""
    trees = [fetch(package) for package in _build(kernel.debian)]
    files = locate(trees)
    _note(kernel).parent.mkdir(mode=0o700, exist_ok=True)
    _note(kernel).write_text("".join(f"{tree}\n" for tree in trees), encoding="utf-8")
    return files


def fetched_before(kernel: Kernel) -> KernelFiles | None:
    """What the last fetch of this kernel left, without asking any mirror."""
    try:
        return locate([Path(line) for line in _note(kernel).read_text("utf-8").splitlines()])
    except (FileNotFoundError, FetchError):
        return None


def _note(kernel: Kernel) -> Path:
    """Names the trees of the last fetch."""
    return cache_dir() / "kernels" / kernel.name


def _build(package: Package) -> list[Package]:
    """Follow dependencies from the name that stays to the packages with the kernel in them.

    Up to 6.12 that is linux-image-RELEASE; in 7.2 this depends on linux-binary-RELEASE with the
    kernel and linux-base-RELEASE with the configuration.
    """
    names = [name for name in dependencies(package) if re.match(r"linux-image-\d", name)]
    image = replace(package, name=names[0]) if names else package
    parts = [name for name in dependencies(image) if re.match(r"linux-(binary|base)-\d", name)]
    return [replace(package, name=name) for name in parts] or [image]


def locate(trees: list[Path]) -> KernelFiles:
    """Find the kernel in unpacked packages. Raises FetchError where anything is missing."""
    image = _find(trees, "boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")
    release = image.name.removeprefix("vmlinuz-")
    modules = image.parent.parent / "lib/modules" / release
    if image.name == "vmlinuz":
        release, modules = image.parent.name, image.parent
    config = _find(trees, f"boot/config-{release}", f"usr/lib/modules/{release}/config")
    return KernelFiles(release, image, config, modules)


def _find(trees: list[Path], *patterns: str) -> Path:
    for tree in trees:
        for pattern in patterns:
            for path in sorted(tree.glob(pattern)):
                return path
    raise FetchError(f"no {' or '.join(patterns)} in {', '.join(map(str, trees))}")
