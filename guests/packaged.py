# SPDX-License-Identifier: GPL-2.0
"""Kernels as Debian packages them."""

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

from guests.cache import cache_dir
from guests.debian import INDEX_AGE_S, FetchError, Package, dependencies, fetch
from guests.kernel import Kernel, KernelFiles


@dataclass(frozen=True)
class PackagedKernel(Kernel):
    """The newest build that a package of Debian's depends on."""

    package: str
    suite: str

    @property
    def debian(self) -> Package:
        """The package to fetch. Raises ValueError where there can be none of that name."""
        return Package(self.package, self.suite, self.arch)

    @property
    def origin(self) -> str:
        """The suite."""
        return self.suite

    def files(self) -> KernelFiles:
        """What was fetched within a day, else fetched now: asking a mirror takes seconds."""
        return (self.at_hand() if self._is_recent() else None) or self.fetch()

    def fetch(self) -> KernelFiles:
        """Fetch the newest build. Raises FetchError."""
        trees = [fetch(package) for package in build(self.debian)]
        files = locate(trees)
        self._note.parent.mkdir(mode=0o700, exist_ok=True)
        self._note.write_text("".join(f"{tree}\n" for tree in trees), encoding="utf-8")
        return files

    def at_hand(self) -> KernelFiles | None:
        """What the last fetch left."""
        try:
            return locate([Path(line) for line in self._note.read_text("utf-8").splitlines()])
        except (FileNotFoundError, FetchError):
            return None

    @property
    def _note(self) -> Path:
        """Names the trees of the last fetch."""
        return cache_dir() / "kernels" / f"{self.package}_{self.suite}_{self.arch}"

    def _is_recent(self) -> bool:
        try:
            return 0 <= time.time() - self._note.stat().st_mtime < INDEX_AGE_S
        except FileNotFoundError:
            return False


def build(package: Package) -> list[Package]:
    """Follow dependencies from the name that stays to the packages with the kernel in them.

    Up to 6.12 that is linux-image-RELEASE; in 7.2 this depends on linux-binary-RELEASE with the
    kernel, linux-base-RELEASE with the configuration and linux-modules-RELEASE.
    """
    names = [name for name in dependencies(package) if re.match(r"linux-image-\d", name)]
    image = replace(package, name=names[0]) if names else package
    parts = [
        name for name in dependencies(image) if re.match(r"linux-(binary|base|modules)-\d", name)
    ]
    return [replace(package, name=name) for name in parts] or [image]


def locate(trees: list[Path]) -> KernelFiles:
    """Find the kernel in unpacked packages. Raises FetchError where anything is missing."""
    image = _find(trees, "boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")
    release = image.name.removeprefix("vmlinuz-")
    modules = image.parent.parent / "lib/modules" / release / "kernel"
    if image.name == "vmlinuz":
        release = image.parent.name
        modules = _find(trees, f"usr/lib/modules/{release}/kernel")
    config = _find(trees, f"boot/config-{release}", f"usr/lib/modules/{release}/config")
    return KernelFiles(release, image, config, modules)


def _find(trees: list[Path], *patterns: str) -> Path:
    for tree in trees:
        for pattern in patterns:
            for path in sorted(tree.glob(pattern)):
                return path
    raise FetchError(f"no {' or '.join(patterns)} in {', '.join(map(str, trees))}")
