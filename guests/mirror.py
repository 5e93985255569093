# SPDX-License-Identifier: GPL-2.0
"""Which Debian mirror this system uses, read from apt's own lists of sources (sources.list(5))."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from guests.cache import CacheError

OVERRIDE = "KSMTESTS_DEBIAN_MIRROR"

# Names a suite of Debian's main archive begins with: "bookworm", "bookworm-backports", "sid".
CODENAMES = frozenset(("buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid"))
ALIASES = frozenset(("oldoldstable", "oldstable", "stable", "testing", "unstable", "experimental"))
LOCAL_SCHEMES = ("cdrom:", "file:", "copy:")  # hold a part of the archive at best

_SWITCHED_OFF = frozenset(("no", "false", "without", "off", "disable", "0"))
_ONE_LINE = re.compile(r"deb\s+(?:\[([^]]*)]\s+)?(\S+)\s+(\S+)\s*(.*)")


class NoMirrorError(CacheError):
    """Nobody knows where to fetch packages from."""


@dataclass(frozen=True)
class Source:
    """One entry of apt's sources: archives that offer binary packages."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    @property
    def is_debian(self) -> bool:
        """Whether this is Debian's main archive: not its security archive, not a third party's."""
        return (
            "main" in self.components
            and any(_is_main_suite(suite) for suite in self.suites)
            and all(Path(key).name.startswith("debian-archive-") for key in self.signed_by.split())
        )


def _is_main_suite(suite: str) -> bool:
    release, _, kind = suite.partition("-")
    return release in CODENAMES | ALIASES and kind != "security"


def one_line_sources(text: str) -> Iterator[Source]:
    """Yield the entries of a file in the one-line format (`sources.list`, `*.list`)."""
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match:
            options, uri, suite, components = match.groups(default="")
            signed_by = re.search(r"signed-by=(\S+)", options)
            keys = signed_by[1].replace(",", " ") if signed_by else ""
            yield Source((uri,), (suite,), tuple(components.split()), keys)


def deb822_sources(text: str) -> Iterator[Source]:
    """Yield the enabled entries of a file in the deb822 format (`*.sources`)."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields = {
            name.lower(): " ".join(value.split())
            for name, value in re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        enabled = fields.get("enabled", "yes").lower() not in _SWITCHED_OFF
        if enabled and "deb" in fields.get("types", "").split():
            yield Source(
                uris=tuple(fields.get("uris", "").split()),
                suites=tuple(fields.get("suites", "").split()),
                components=tuple(fields.get("components", "").split()),
                signed_by=fields.get("signed-by", ""),
            )


def _system_sources(etc: Path) -> Iterator[Source]:
    for path in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
        read = {".list": one_line_sources, ".sources": deb822_sources}.get(path.suffix)
        if read and path.is_file() and os.access(path, os.R_OK):
            yield from read(path.read_text(encoding="utf-8", errors="replace"))


def debian_mirror(etc: Path = Path("/etc/apt")) -> str:
    """Return the URI of a Debian mirror.

    It is that of the environment variable KSMTESTS_DEBIAN_MIRROR, else the first of this system's
    apt configuration in `etc`. Raises NoMirrorError where neither names one.
    """
    if override := os.environ.get(OVERRIDE):
        return override.rstrip("/")
    for source in _system_sources(etc):
        for uri in source.uris:
            if source.is_debian and _is_archive(uri):
                return uri.rstrip("/")
    raise NoMirrorError(
        f"no source of Debian's main archive in {etc}: set {OVERRIDE} to the URI of a mirror"
    )


def _is_archive(uri: str) -> bool:
    """Tell Debian's archive from others that name their suites after Debian's releases."""
    path = uri.rstrip("/")
    return "debian" in path and "security" not in path and not path.startswith(LOCAL_SCHEMES)
