# SPDX-License-Identifier: GPL-2.0
"""Debian packages of any suite and architecture, fetched and unpacked by apt and dpkg themselves.

apt verifies what it fetches against Debian's archive keys. It works on an index, a configuration
and a cache of its own, so neither the system's apt state nor root is needed. Unpacked trees live
below the cache directory, named after the package's version and hash:

    debian/apt/SUITE-ARCHITECTURE/     one index, under one lock
    debian/trees/NAME_VERSION_ARCHITECTURE-HASH/
"""

import contextlib
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from guests.cache import cache_dir, locked, publish, workshop
from guests.mirror import OVERRIDE, debian_mirror

__all__ = ["FetchError", "Package", "cache_dir", "dependencies", "download_settings", "fetch"]

KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
INDEX_AGE_S = 24 * 3600  # an index younger than this is used as it is
COMMAND_TIMEOUT_S = 1800  # for a kernel's source over a slow line
ATTEMPTS = 3
NOT_INSTALLED = (
    "{} is not installed, but Debian packages are fetched with it: "
    "install apt and dpkg (most distributions have both)"
)
PAUSE_S = 5.0  # before another attempt at a mirror in the middle of its own update

# What apt says when index and packages are not of one state of the archive.
_UNSETTLED = re.compile(r"unexpected size|Hash Sum mismatch|Mirror sync in progress|404 +Not Found")
_CANDIDATE = re.compile(r"'\S+' (?P<file>\S+)\.deb (?P<size>\d+) SHA\d+:(?P<hash>[0-9a-f]{64,})")
_SETTING = re.compile(r'Acquire::(?!IndexTargets|Changelogs|Languages)\S+ "[^"]*";')

_CONFIGURATION = """\
Dir::State "{home}/state";
Dir::State::status "{home}/status";
Dir::Cache "{home}/cache";
Dir::Etc::sourcelist "{home}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
"""

log = logging.getLogger(__name__)


class FetchError(Exception):
    """A package could not be fetched; nothing of it is in the cache."""


class UnsettledMirrorError(FetchError):
    """The mirror's index and its packages do not fit together: it is being updated."""


@dataclass(frozen=True)
class Package:
    """A binary package in a suite of the Debian archive, in its newest version there."""

    name: str
    suite: str  # "bookworm", "bookworm-backports", "sid"
    architecture: str = "all"  # Debian's name: "amd64", "arm64", "armhf"

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be a package: the parts become arguments and paths."""
        for part, pattern in (
            (self.name, r"[a-z0-9][a-z0-9+.-]+"),
            (self.suite, r"[a-z][a-z0-9.-]*"),
            (self.architecture, r"[a-z0-9][a-z0-9-]*"),
        ):
            if not re.fullmatch(pattern, part):
                raise ValueError(f"{self}: {part!r} does not match {pattern}")

    @property
    def index_architecture(self) -> str:
        """The architecture whose index lists the package; each of them lists those for all."""
        return "amd64" if self.architecture == "all" else self.architecture


@dataclass(frozen=True)
class Candidate:
    """The .deb that the index names for a package."""

    file: str  # without ".deb"
    hash: str  # SHA-256 or longer, hexadecimal

    @property
    def tree(self) -> str:
        """Name of the directory it is unpacked to."""
        return f"{self.file}-{self.hash[:16]}"


@dataclass(frozen=True)
class Index:
    """What one suite offers for one architecture. Its methods are called under its lock."""

    home: Path
    lock: int  # descriptor, handed to apt, which thus holds the lock even if this process dies
    source: str  # line of sources.list

    @property
    def _stamp(self) -> Path:
        """Holds the source of the last complete update, and by its mtime when that was."""
        return self.home / "updated"

    def configure(self, architecture: str) -> None:
        """Write apt's configuration; downloads follow the system's (proxies, for instance)."""
        for directory in ("state/lists/partial", "cache/archives/partial"):
            (self.home / directory).mkdir(parents=True, exist_ok=True)
        own = _CONFIGURATION.format(home=self.home, architecture=architecture)
        inherited = "".join(f"{line}\n" for line in download_settings())
        (self.home / "apt.conf").write_text(inherited + own, encoding="utf-8")
        (self.home / "sources.list").write_text(self.source + "\n", encoding="utf-8")
        (self.home / "status").write_text("", encoding="utf-8")

    def is_recent(self) -> bool:
        """Whether the last update was less than a day ago and from the same mirror."""
        try:
            age = time.time() - self._stamp.stat().st_mtime
            return 0 <= age < INDEX_AGE_S and self._stamp.read_text("utf-8") == self.source
        except FileNotFoundError:
            return False

    def update(self, *options: str) -> None:
        """Fetch the index anew. Raises FetchError when any part of it cannot be had."""
        log.info("fetching the index of %s", self.home.name)
        self._stamp.unlink(missing_ok=True)
        self.run("apt-get", "-q", "--error-on=any", *options, "update")
        self._stamp.write_text(self.source, encoding="utf-8")

    def find(self, name: str) -> Candidate | None:
        """Return what the index has for the package `name`, if anything."""
        try:
            listing = self.run("apt-get", "-q", "--print-uris", "download", name)
        except FetchError as error:
            if re.search(r"Unable to locate package|no candidate", str(error)):
                return None
            raise
        match = _CANDIDATE.fullmatch(listing.strip())
        if not match or not match["file"].startswith(f"{name}_"):  # apt took it for a pattern
            return None
        return Candidate(match["file"], match["hash"])

    def dependencies(self, name: str) -> list[str]:
        """Return the names `name` depends on; the first one of alternatives."""
        shown = self.run("apt-cache", "--no-all-versions", "show", name)
        depends = re.search(r"^Depends: (.*)$", shown, re.MULTILINE)
        names = re.findall(r"(?:^|, *)([a-z0-9][a-z0-9+.-]+)", depends[1]) if depends else []
        return [str(dependency) for dependency in names]

    def unpack(self, name: str, candidate: Candidate, tree: Path, *options: str) -> None:
        """Download the candidate of package `name` and unpack it to `tree`, whole or not at all."""
        log.info("fetching %s", name)
        with workshop(self.home / "unpacking") as work:
            self.run("apt-get", "-q", *options, "download", name, cwd=work)
            self.run("dpkg-deb", "-x", f"{candidate.file}.deb", "tree", cwd=work)
            publish(work / "tree", tree)

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Return what a command prints. Raises FetchError with its complaints when it fails."""
        environment = {**os.environ, "LC_ALL": "C", "APT_CONFIG": str(self.home / "apt.conf")}
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=COMMAND_TIMEOUT_S,
                pass_fds=(self.lock,),
                check=False,
            )
        except FileNotFoundError as error:
            raise FetchError(NOT_INSTALLED.format(command[0])) from error
        except subprocess.TimeoutExpired as error:
            raise FetchError(f"{_line(command)} took longer than {error.timeout:.0f} s") from error
        if done.returncode:
            kind = UnsettledMirrorError if _UNSETTLED.search(done.stderr) else FetchError
            raise kind(
                f"`{_line(command)}` exited with {done.returncode} for `{self.source}` "
                f"(another mirror can be named in {OVERRIDE}):\n{done.stderr.strip()}"
            )
        return done.stdout


def download_settings() -> list[str]:
    """How this system's apt downloads (proxies, for instance), for others to do the same.

    They are lines of apt.conf(5). Raises FetchError where there is no apt.
    """
    command = ("apt-config", "dump", "--format", '%F "%v";%n')
    try:
        shown = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    except FileNotFoundError as error:
        raise FetchError(NOT_INSTALLED.format(command[0])) from error
    except subprocess.CalledProcessError as error:
        raise FetchError(f"`{_line(command)}` failed:\n{error.stderr.strip()}") from error
    return [line for line in shown.splitlines() if _SETTING.match(line)]


def _line(command: Sequence[str]) -> str:
    return " ".join(command)


def fetch(package: Package) -> Path:
    """Return the directory `package` is unpacked in, fetching what is missing.

    The newest version in an index not older than a day is returned, or, when the mirror cannot be
    reached, the one of the last index if that was fetched before. May be called by several
    processes at once. Raises FetchError, or CacheError for an unusable cache directory.
    """
    trees = cache_dir() / "debian/trees"
    with _index(package) as index:
        try:
            return _newest(index, package, trees)
        except FetchError as error:
            tree = _fetched_before(index, package, trees)
            if tree is None:
                raise
            log.warning("%s\nusing what was fetched before: %s", error, tree)
            return tree


def dependencies(package: Package) -> list[str]:
    """Return the names `package` depends on; without a mirror the last index answers."""
    with _index(package) as index:
        if not index.is_recent():
            try:
                index.update()
            except FetchError as error:
                log.warning("%s\nusing the last index", error)
        return index.dependencies(package.name)


@contextlib.contextmanager
def _index(package: Package) -> Iterator[Index]:
    """Lock and configure the index that lists `package`."""
    home = cache_dir() / "debian/apt" / f"{package.suite}-{package.index_architecture}"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(home / "lock") as lock:
        index = Index(
            home, lock, f"deb [signed-by={keyring()}] {debian_mirror()} {package.suite} main"
        )
        index.configure(package.index_architecture)
        yield index


def keyring() -> Path:
    """Return the file of the keys that Debian's archive is signed with."""
    for path in KEYRINGS:
        if path.is_file():
            return path
    raise FetchError(
        f"Debian's archive keys are not at {KEYRINGS[0]}: install the package "
        "debian-archive-keyring (other distributions have it, too)"
    )


def _newest(index: Index, package: Package, trees: Path) -> Path:
    """Fetch from a mirror that may be in the middle of an update, in which case try again."""
    for attempt in range(1, ATTEMPTS):
        try:
            return _attempt(index, package, trees, again=attempt > 1)
        except UnsettledMirrorError as error:
            log.info("attempt %d of %d at %s: %s", attempt, ATTEMPTS, package, error)
            time.sleep(PAUSE_S * attempt)
    return _attempt(index, package, trees, again=True)


def _attempt(index: Index, package: Package, trees: Path, *, again: bool) -> Path:
    options = ("-o", "Acquire::http::No-Cache=true") if again else ()
    candidate = index.find(package.name) if index.is_recent() and not again else None
    if candidate is None:
        index.update(*options)
        candidate = index.find(package.name)
    if candidate is None:
        raise FetchError(
            f"no package {package.name} for {package.index_architecture} in the index of "
            f"`{index.source}`: check the name and the suite"
        )
    tree = trees / candidate.tree
    if not tree.is_dir():
        index.unpack(package.name, candidate, tree, *options)
    return tree


def _fetched_before(index: Index, package: Package, trees: Path) -> Path | None:
    with contextlib.suppress(FetchError):
        candidate = index.find(package.name)
        if candidate and (trees / candidate.tree).is_dir():
            return trees / candidate.tree
    return None
