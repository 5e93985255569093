# SPDX-License-Identifier: GPL-2.0
"""Kernels of one's own: an image, or the tree it is built in."""

import re
from dataclasses import dataclass
from pathlib import Path

from guests import needs
from guests.catalogue import CatalogueError
from guests.formats import FormatError, architecture, refuse_unloadable
from guests.kernel import Kernel, KernelFiles
from guests.machines import MACHINES
from guests.modules import PLACES

# Where a build leaves images that QEMU loads, by the symbol that says what it is for.
BUILDS = {
    "X86_64": ("amd64", ("arch/x86/boot/bzImage",)),
    "ARM64": ("arm64", ("arch/arm64/boot/Image", "arch/arm64/boot/Image.gz")),
    "ARM": ("armhf", ("arch/arm/boot/zImage",)),
    "RISCV": ("riscv64", ("arch/riscv/boot/Image", "arch/riscv/boot/Image.gz")),
    "S390": ("s390x", ("arch/s390/boot/bzImage",)),
    "PPC64": ("ppc64el", ("vmlinux",)),
}
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._+-]+")  # a name becomes part of test ids and file names


@dataclass(frozen=True)
class LocalKernel(Kernel):
    """A kernel that lies on this machine."""

    path: Path  # of the tree or the image, absolute
    image: Path
    config: Path | None
    modules: Path  # the directory whose drivers/ has the modules

    @property
    def origin(self) -> str:
        """The path."""
        return str(self.path)

    def files(self) -> KernelFiles:
        """What was found when the path was looked at."""
        return KernelFiles("", self.image, self.config, self.modules)

    def fetch(self) -> KernelFiles:
        """The same: nothing is fetched."""
        return self.files()

    def at_hand(self) -> KernelFiles:
        """The same."""
        return self.files()


def find(path: Path) -> LocalKernel:
    """The kernel at a path. Raises CatalogueError, which says what is missing or unfit."""
    try:
        path = path.expanduser().resolve(strict=True)
        tree = _tree_of(path)
        kernel = _of_tree(path, tree) if tree else _of_image(path)
        _refuse_unfit(kernel)
    except FormatError as error:
        raise CatalogueError(str(error)) from error
    except OSError as error:
        raise CatalogueError(f"cannot read the kernel {path}: {error.strerror}") from error
    except (RuntimeError, ValueError) as error:  # ~nobody, or a loop of links; a NUL
        raise CatalogueError(f"cannot find the kernel {str(path)!r}: {error}") from error
    return kernel


def _tree_of(path: Path) -> Path | None:
    """The tree a path is, or is an image of."""
    if path.is_dir():
        return path
    for _, images in BUILDS.values():
        for image in images:
            root = path.parents[image.count("/")] if len(path.parents) > image.count("/") else None
            if root and path == root / image and (root / ".config").is_file():
                return root
    return None


def _of_tree(path: Path, tree: Path) -> LocalKernel:
    config = tree / ".config"
    if not config.is_file():
        kind = "is no tree of a kernel" if not (tree / "Kbuild").is_file() else "is not configured"
        raise CatalogueError(f"{tree} {kind}: it has no .config")
    arch, images = _build(config)
    built = [tree / image for image in images if (tree / image).is_file()]
    if path.is_file():
        built = [path]
    if not built:
        raise CatalogueError(f"{tree} has no {images[0]}: run make in it")
    return LocalKernel(name_of(tree, 1), arch, tree, built[0], config, tree)


def _build(config: Path) -> tuple[str, tuple[str, ...]]:
    known = needs.values(config.read_text("utf-8", errors="replace"))
    for symbol, (arch, images) in BUILDS.items():
        if known.get(symbol) == "y" and arch in MACHINES:
            return arch, images
    raise CatalogueError(
        f"{config} is for none of the architectures there are machines for: {', '.join(MACHINES)}"
    )


def _of_image(path: Path) -> LocalKernel:
    arch = architecture(path)
    if arch not in MACHINES:
        kind = f"a kernel for {arch}" if arch else "no image of a kernel that is known here"
        raise CatalogueError(f"{path} is {kind}; there are machines for {', '.join(MACHINES)}")
    refuse_unloadable(path)
    release = path.name.partition("-")[2] if path.name.startswith("vmlinu") else ""
    beside = [path.with_name(f"{path.name}.config"), *map(path.with_name, (".config", "config"))]
    modules = path.parent / "kernel"
    if release:
        beside.insert(0, path.with_name(f"config-{release}"))
        modules = path.parent.parent / "lib/modules" / release / "kernel"
    config = next((file for file in beside if file.is_file()), None)
    return LocalKernel(name_of(path, 1), arch, path, path, config, modules)


def name_of(path: Path, parts: int) -> str:
    """A name made of the last `parts` parts of a path."""
    return _UNNAMEABLE.sub("-", "-".join(path.parts[-parts:])).lstrip("._+-") or "kernel"


def _refuse_unfit(kernel: LocalKernel) -> None:
    if kernel.config is None:
        return
    text = kernel.config.read_text("utf-8", errors="replace")
    missing = needs.missing(text, kernel.arch, _built_modules(kernel.modules))
    if missing:
        enable = " ".join(f"-e {symbol}" for symbol in missing)
        raise CatalogueError(
            f"a guest of {kernel.path} could not be talked to: {kernel.config} must have "
            + ", ".join(f"CONFIG_{symbol}=y" for symbol in missing)
            + f" (scripts/config {enable} && make olddefconfig && make)"
        )


def _built_modules(modules: Path) -> frozenset[str]:
    """Symbols of the channel's modules that are there to be loaded."""
    paths = [path for place in PLACES for path in modules.glob(f"{place}/*.ko")]
    found = {path.stem for path in paths}
    return frozenset(symbol for symbol in needs.MODULAR if symbol.lower() in found)
