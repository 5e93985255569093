# SPDX-License-Identifier: GPL-2.0
"""Kernels with all injected bugs in them: fetched, edited, configured and built.

Below the cache directory, once for each release and shared by its architectures:

    mutants/RELEASE/tree/           the source, edited
    mutants/RELEASE/originals/      what the edited files were
    mutants/RELEASE/ARCH/           what `make O=` builds, with mutants.json and build.log

The tree stays, and only files whose text changes are written, so that a changed bug costs the
files it is in.
"""

import json
import logging
import os
import platform
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from guests import needs
from guests.cache import cache_dir, locked, publish, workshop
from guests.debian import Package, fetch
from mutants.catalogue import Bug, bugs, described, version
from mutants.edits import Source

SUITES = {"7.2": "sid", "6.12": "bookworm-backports"}  # Debian's, with linux-source-RELEASE
CATALOGUE = "mutants.json"
LOG = "build.log"
HERE = Path(__file__).parent
CHECKOUT = HERE.parent
SWITCH = {"ksm_mutant.h": "include/linux", "ksm_mutant.c": "mm"}
MAKEFILE = "mm/Makefile"
MAKEFILE_LINE = "obj-y += ksm_mutant.o\n"
PROGRESS_S = 10.0

log = logging.getLogger(__name__)


class BuildError(Exception):
    """A kernel cannot be built; the message says what is missing or what make said."""


@dataclass(frozen=True)
class Target:
    """An architecture to build for."""

    guest: str  # Debian's name
    machine: str  # UTS_MACHINE, as in names of fragments
    image: str  # make's target, and where it ends up
    path: str
    compiler: str  # prefix of the cross compiler, and Debian's package of it
    package: str


TARGETS: Mapping[str, Target] = {
    "x86": Target(
        *("amd64", "x86_64", "bzImage", "arch/x86/boot/bzImage"),
        *("x86_64-linux-gnu-", "gcc-x86-64-linux-gnu"),
    ),
    "arm64": Target(
        *("arm64", "aarch64", "Image", "arch/arm64/boot/Image"),
        *("aarch64-linux-gnu-", "gcc-aarch64-linux-gnu"),
    ),
    "arm": Target(
        *("armhf", "arm", "zImage", "arch/arm/boot/zImage"),
        *("arm-linux-gnueabihf-", "gcc-arm-linux-gnueabihf"),
    ),
}


@dataclass(frozen=True)
class Variant:
    """How a kernel differs from the one that bugs are run on."""

    name: str = ""
    symbols: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()  # for make


PLAIN = Variant()
COMMANDS = {"make": "make", "gcc": "gcc", "flex": "flex", "bison": "bison", "bc": "bc"}


def build(arch: str, release: str, say: Callable[[str], object], variant: Variant = PLAIN) -> Path:
    """Build a kernel with all bugs; the directory of the build, with image and mutants.json.

    Raises BuildError, AnchorError, CatalogueError, and what fetching raises.
    """
    target = TARGETS[arch]
    _require(target)
    with _home(release) as home:
        tree = _unpacked(home, release, say)
        found = bugs(version(release))
        changed = edit(tree, home / "originals", found)
        said = described(found, arch)
        say(f"{len(said)} bugs in {tree}, {len(changed)} files written")
        output = home / "-".join(filter(None, (arch, variant.name)))
        output.mkdir(exist_ok=True)
        builder = Builder(arch, tree, output, say, variant)
        builder.configure()
        builder.run(target.image)
        catalogue = json.dumps(said, indent=1) + "\n"
        (output / CATALOGUE).write_text(catalogue, encoding="utf-8")
    return output


def source(release: str, say: Callable[[str], object]) -> Path:
    """The tree of a release, fetched if need be. Raises what fetching raises."""
    with _home(release) as home:
        return _unpacked(home, release, say)


@contextmanager
def _home(release: str) -> Iterator[Path]:
    home = cache_dir() / "mutants" / release
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(home / "lock"):
        yield home


def _require(target: Target) -> None:
    commands = dict(COMMANDS)
    if platform.machine() != target.machine:
        commands[f"{target.compiler}gcc"] = target.package
    missing = [package for command, package in commands.items() if not shutil.which(command)]
    if missing:
        raise BuildError(
            f"a kernel cannot be built without {', '.join(missing)}: "
            f"`apt-get install {' '.join(missing)}`, or what your distribution calls them"
        )


def _unpacked(home: Path, release: str, say: Callable[[str], object]) -> Path:
    tree = home / "tree"
    if not tree.is_dir():
        package = fetch(Package(f"linux-source-{release}", SUITES[release]))
        tarball = package / f"usr/src/linux-source-{release}.tar.xz"
        say(f"unpacking {tarball}")
        with workshop(home / "unpacking") as work, tarfile.open(tarball) as tar:
            tar.extractall(work, filter="tar")
            publish(work / f"linux-source-{release}", tree)
    return tree


def edit(tree: Path, originals: Path, found: Iterable[Bug]) -> list[str]:
    """Put bugs and their switch into a tree; returns the files that were written.

    Raises AnchorError before anything is written.
    """
    edits = [edit for bug in found for edit in bug.edits]
    texts: dict[str, str] = {}
    for file in dict.fromkeys(edit.file for edit in edits):
        source = Source(file, _original(tree, originals, file))
        for one in edits:
            if one.file == file:
                source.apply(one)
        texts[file] = source.text()
    for file, directory in SWITCH.items():
        texts[f"{directory}/{file}"] = (HERE / "switch" / file).read_text("utf-8")
    texts[MAKEFILE] = _original(tree, originals, MAKEFILE) + MAKEFILE_LINE
    for path in originals.rglob("*"):
        file = str(path.relative_to(originals))
        if path.is_file() and file not in texts:  # no bug is in there any more
            texts[file] = path.read_text("utf-8")
    return [file for file, text in texts.items() if _written(tree / file, text)]


def _original(tree: Path, originals: Path, file: str) -> str:
    kept = originals / file
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with workshop(originals / "copying") as work:
            shutil.copy(tree / file, work / "file")
            (work / "file").rename(kept)
    return kept.read_text("utf-8")


def _written(path: Path, text: str) -> bool:
    if path.exists() and path.read_text("utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True


@dataclass(frozen=True)
class Builder:
    """Runs make of a tree."""

    arch: str
    tree: Path
    output: Path
    say: Callable[[str], object]
    variant: Variant

    def configure(self) -> None:
        """Configure what the tests and guests need, and nothing else."""
        target = TARGETS[self.arch]
        guests = (*needs.BUILT_IN, *needs.MODULAR, *needs.OF_MACHINE[target.guest])
        wanted = (*guests, *self.variant.symbols)
        fragment = self.output / "guests.config"
        fragment.write_text("".join(f"CONFIG_{one}=y\n" for one in wanted), encoding="utf-8")
        config = self.output / ".config"
        fragments = [fragment, *_fragments(CHECKOUT / "kconfig/config", target.machine)]
        fragments += _fragments(HERE / "kernel.config", target.machine)
        before = config.read_text("utf-8") if config.exists() else ""
        known = self.output / "fragments.config"
        merged = "".join(one.read_text("utf-8") for one in fragments)
        if before and known.exists() and known.read_text("utf-8") == merged:
            return
        self._make("tinyconfig")
        script = self.tree / "scripts/kconfig/merge_config.sh"
        self._run([str(script), "-m", "-O", str(self.output), str(config), *map(str, fragments)])
        self._make("olddefconfig")
        for line in missing(merged, config.read_text("utf-8")):
            self.say(f"{line}: this architecture or release has no such symbol, or it is not free")
        known.write_text(merged, encoding="utf-8")

    def run(self, image: str) -> None:
        """Build the image, and say every few seconds how far it is."""
        path = self.output / LOG
        with path.open("wb") as out:
            process = subprocess.Popen(
                self._command(image), stdout=out, stderr=subprocess.STDOUT, env=_environment()
            )
            try:
                self._follow(process, path)
            finally:
                process.terminate()
                process.wait()
        if process.returncode:
            tail = path.read_text("utf-8", errors="replace").splitlines()[-20:]
            raise BuildError("\n".join([f"{path}: make failed:", *tail]))
        self.say(f"built {self.output / TARGETS[self.arch].path}; the log is {path}")

    def _follow(self, process: subprocess.Popen[bytes], path: Path) -> None:
        begun = time.monotonic()
        while process.poll() is None:
            try:
                process.wait(PROGRESS_S)
            except subprocess.TimeoutExpired:
                lines = path.read_text("utf-8", errors="replace").splitlines()
                seconds = time.monotonic() - begun
                last = lines[-1].strip() if lines else ""
                self.say(f"{seconds:4.0f} s, {len(lines)} lines of make: {last}")

    def _command(self, *goals: str) -> list[str]:
        target = TARGETS[self.arch]
        cross = [] if platform.machine() == target.machine else [f"CROSS_COMPILE={target.compiler}"]
        return [
            *("make", "-C", str(self.tree), f"O={self.output}", f"ARCH={self.arch}", *cross),
            *(f"-j{os.cpu_count() or 1}", *self.variant.variables, *goals),
        ]

    def _make(self, goal: str) -> None:
        self._run(self._command(goal))

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            command,
            cwd=self.tree,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise BuildError(f"`{' '.join(command)}` failed:\n{done.stdout[-2000:]}{done.stderr}")


def _environment() -> dict[str, str]:
    """The environment without what a calling make, or a kernel developer's shell, would change."""
    foreign = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEFILES", "O", "KBUILD_OUTPUT", "LLVM"}
    return {name: value for name, value in os.environ.items() if name not in foreign}


def _fragments(common: Path, machine: str) -> list[Path]:
    """One for all machines, and what there is for this one.

    A name that begins with `config` would have `make kselftest-merge` take it for a selftest's.
    """
    paths = [common, common.with_name(f"{common.name}.{machine}")]
    return [path for path in paths if path.exists()]


def missing(wanted: str, config: str) -> list[str]:
    """What fragments ask for and a configuration does not have."""
    has = needs.values(config)
    return [
        f"CONFIG_{symbol}={value}"
        for symbol, value in needs.values(wanted).items()
        if has.get(symbol) != value
    ]
