# SPDX-License-Identifier: GPL-2.0
"""Archives that somebody has tampered with: the real apt, as it is configured here, takes nothing.

archive/ is a mirror with one package, signed with key.asc (RFC 9580), whose secret key is no more:
what a test changes stays unsigned. other-key.asc has signed nothing.
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from guests import debian, mirror
from guests.debian import FetchError, Package, fetch

ARCHIVE = Path(__file__).with_name("archive")
TOOL = Package("tool", "bookworm", "arm64")
INVALID = "BADSIG|sqv returned an error"  # as gpgv says it, or apt of Sequoia's, which it may call
CONTENT = "usr/share/tool/content"
pytestmark = pytest.mark.skipif(not shutil.which("apt-get"), reason="of what apt verifies")


@dataclass(frozen=True)
class Mirror:
    """A copy of the archive, and the cache that is filled from it."""

    root: Path
    cache: Path

    @property
    def release(self) -> Path:
        """The signed file, which has the index's hash."""
        return self.root / "dists/bookworm/InRelease"

    @property
    def packages(self) -> Path:
        """The index, which has the package's hash."""
        return self.root / "dists/bookworm/main/binary-arm64/Packages"

    @property
    def package(self) -> Path:
        """The package."""
        return self.root / "pool/tool_1_arm64.deb"

    @property
    def published(self) -> list[Path]:
        """What is taken for verified: trees, and indexes that are up to date."""
        return [*self.cache.glob("debian/trees/*"), *self.cache.glob("debian/apt/*/updated")]


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """A mirror to tamper with, and an empty cache."""
    shutil.copytree(ARCHIVE, tmp_path / "mirror")
    monkeypatch.setattr(debian, "KEYRINGS", (ARCHIVE / "key.asc",))
    monkeypatch.setattr(debian, "PAUSE_S", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(mirror.OVERRIDE, f"file:{tmp_path}/mirror")
    return Mirror(tmp_path / "mirror", tmp_path / "cache/ksmtests")


def change(path: Path, old: bytes, new: bytes) -> None:
    """Keep the size, which is looked at before the hash."""
    content = path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new))


def unsign(copied: Mirror) -> None:
    """Leave what was signed, without the signature."""
    signed = re.search(r"\n\n(.*)-----BEGIN PGP SIG", copied.release.read_text(), re.DOTALL)
    assert signed
    copied.release.with_name("Release").write_text(signed[1])
    copied.release.unlink()


def change_index(copied: Mirror) -> None:
    """Name another package for the name; what is signed has the hash of the old index."""
    change(copied.packages, b"tool_1_arm64.deb", b"tool_2_arm64.deb")


def change_what_is_signed(copied: Mirror) -> None:
    """Have the hash there of another index, and keep the signature."""
    before = sha256(copied.packages.read_bytes()).hexdigest()
    change_index(copied)
    after = sha256(copied.packages.read_bytes()).hexdigest()
    change(copied.release, before.encode(), after.encode())


def change_package(copied: Mirror) -> None:
    """Put something else into it; index and signature stay."""
    copied.package.write_bytes(copied.package.read_bytes()[:-8] + b"tampered")


def test_the_archive_as_it_was_signed(copied: Mirror) -> None:
    """It is good, so that each of the others fails for what is done to it."""
    assert (fetch(TOOL) / CONTENT).read_text() == "of the archive\n"
    assert len(copied.published) == 2


@pytest.mark.parametrize(
    ("tamper", "complaint"),
    [
        (unsign, r"bookworm Release' is not signed"),
        (change_what_is_signed, rf"bookworm InRelease: .*({INVALID})"),
        (change_index, r"binary-arm64/Packages .*Hash Sum mismatch"),
    ],
)
def test_an_index_that_is_not_what_was_signed(
    tamper: Callable[[Mirror], None], complaint: str, copied: Mirror
) -> None:
    """The error names it; nothing is fetched by it, now or later."""
    tamper(copied)
    with pytest.raises(FetchError) as caught:
        fetch(TOOL)
    assert re.search(complaint, str(caught.value), re.DOTALL), str(caught.value)
    assert f"file:{copied.root} bookworm" in str(caught.value)
    assert copied.published == []


def test_an_index_that_another_has_signed(copied: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever that is, and whatever keys the system's own apt trusts."""
    monkeypatch.setattr(debian, "KEYRINGS", (ARCHIVE / "other-key.asc",))
    with pytest.raises(FetchError, match=rf"NO_PUBKEY|{INVALID}"):
        fetch(TOOL)
    assert copied.published == []


def test_a_package_that_is_not_what_the_index_names(copied: Mirror) -> None:
    """The index is good and stays; nothing is unpacked."""
    change_package(copied)
    with pytest.raises(FetchError, match=r"tool_1_arm64\.deb .*Hash Sum mismatch"):
        fetch(TOOL)
    assert [path.name for path in copied.published] == ["updated"]


@pytest.mark.parametrize("tamper", [unsign, change_what_is_signed])
def test_what_was_fetched_before_is_not_replaced(
    tamper: Callable[[Mirror], None], copied: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    """A mirror that was signed once is not trusted for it."""
    before = fetch(TOOL)
    (updated,) = copied.cache.glob("debian/apt/*/updated")
    os.utime(updated, (0, 0))
    tamper(copied)
    assert fetch(TOOL) == before
    assert "using what was fetched before" in caplog.text
    assert copied.published == [before]
