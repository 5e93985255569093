# SPDX-License-Identifier: GPL-2.0
"""Fetching of Debian packages: whom we ask, where it goes, and what is never left behind."""

import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from guests import cache, debian, mirror
from guests.debian import FetchError, Package, fetch

CHECKOUT = Path(__file__).resolve().parent.parent
TOOL = Package("tool", "bookworm", "arm64")
UNSETTLED = (
    "E: Failed to fetch tool.deb  File has unexpected size (9 != 8). Mirror sync in progress?"
)
UNREACHABLE = "E: Failed to fetch InRelease  Could not connect to mirror"

# Stand-ins for apt and dpkg-deb. Each call is logged; what `fail-COMMAND` says it fails with, as
# often as `times-COMMAND` has lines.
APT_GET = """\
#!/bin/sh
for last; do :; done
case "$*" in
*--print-uris*) step=find ;;
*update) step=update ;;
*) step=download ;;
esac
echo $step >> "$ARCHIVE/log"
version=$(cat "$ARCHIVE/version")
if [ -s "$ARCHIVE/fail-$step" ] && [ -s "$ARCHIVE/times-$step" ]; then
    sed -i 1d "$ARCHIVE/times-$step"
    cat "$ARCHIVE/fail-$step" >&2
    exit 100
fi
case $step in
find)
    if [ "$last" != tool ]; then echo "E: Unable to locate package $last" >&2; exit 100; fi
    printf "'http://mirror/tool.deb' tool_%s_arm64.deb 8 SHA256:%064d\\n" "$version" "$version" ;;
download)
    sleep 0.2
    echo contents > "tool_${version}_arm64.deb" ;;
esac
"""
DPKG_DEB = """\
#!/bin/sh
echo unpack >> "$ARCHIVE/log"
mkdir tree && echo half > tree/first
if [ -e "$ARCHIVE/midway" ]; then . "$ARCHIVE/midway"; fi
echo whole > tree/second
"""
APT_CONFIG = """\
#!/bin/sh
echo 'Acquire::http::Proxy "http://proxy:3128";'
echo 'APT::Update::Post-Invoke:: "rm -rf /";'
"""


@dataclass(frozen=True)
class Archive:
    """A stand-in for a Debian mirror with one package, and the tools that reach it."""

    directory: Path
    cache: Path

    @property
    def log(self) -> list[str]:
        """The steps taken so far."""
        path = self.directory / "log"
        return path.read_text().split() if path.exists() else []

    @property
    def trees(self) -> list[str]:
        """The packages that are taken for done."""
        return sorted(path.name for path in self.cache.glob("ksmtests/debian/trees/*"))

    def fail(self, step: str, message: str, times: int) -> None:
        """Have a step fail from now on, a number of times."""
        (self.directory / f"fail-{step}").write_text(message)
        (self.directory / f"times-{step}").write_text("once\n" * times)

    def interrupt(self, script: str) -> None:
        """Have a shell script run in the middle of unpacking."""
        (self.directory / "midway").write_text(script)

    def release(self, version: int) -> None:
        """Offer a version of the package."""
        (self.directory / "version").write_text(str(version))

    def age_index(self) -> None:
        """Make the indexes two days older."""
        for stamp in self.cache.glob("ksmtests/debian/apt/*/updated"):
            then = stamp.stat().st_mtime - 2 * 24 * 3600
            os.utime(stamp, (then, then))


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Tools on PATH that know one package, and an empty cache."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in (("apt-get", APT_GET), ("apt-config", APT_CONFIG), ("dpkg-deb", DPKG_DEB)):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(debian, "KEYRINGS", (keyring,))
    monkeypatch.setattr(debian, "PAUSE_S", 0)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("ARCHIVE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(mirror.OVERRIDE, "http://mirror/debian/")
    made = Archive(tmp_path, tmp_path / "cache")
    made.release(1)
    return made


def test_fetch_unpacks_into_a_private_cache(archive: Archive) -> None:
    """The first fetch updates the index, downloads and unpacks."""
    tree = fetch(TOOL)
    assert (tree / "second").read_text() == "whole\n"
    assert archive.log == ["update", "find", "download", "unpack"]
    assert (archive.cache / "ksmtests").stat().st_mode & 0o777 == 0o700


def test_second_fetch_uses_index_and_tree(archive: Archive) -> None:
    """Nothing is downloaded twice."""
    assert fetch(TOOL) == fetch(TOOL)
    assert archive.log == ["update", "find", "download", "unpack", "find"]


def test_newer_version_gets_a_tree_of_its_own(archive: Archive) -> None:
    """An old index is updated, and the older version's tree stays as it is."""
    older = fetch(TOOL)
    archive.release(2)
    archive.age_index()
    newer = fetch(TOOL)
    assert archive.trees == [older.name, newer.name]
    assert archive.log.count("update") == 2


def test_another_mirror_needs_another_index(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of one mirror says nothing about another."""
    fetch(TOOL)
    monkeypatch.setenv(mirror.OVERRIDE, "http://other/debian")
    fetch(TOOL)
    assert archive.log.count("update") == 2


def test_configuration_keeps_the_proxy_but_no_hooks(archive: Archive) -> None:
    """The system's way to the mirror is used; its hooks, which touch its state, are not."""
    fetch(TOOL)
    (home,) = archive.cache.glob("ksmtests/debian/apt/bookworm-arm64")
    configuration = (home / "apt.conf").read_text()
    assert 'Acquire::http::Proxy "http://proxy:3128";' in configuration
    assert "Invoke" not in configuration
    assert f'Dir::State "{home}/state";' in configuration
    assert (home / "sources.list").read_text() == (
        f"deb [signed-by={debian.KEYRINGS[0]}] http://mirror/debian bookworm main\n"
    )


def test_missing_package_is_looked_up_in_a_new_index(archive: Archive) -> None:
    """A recent index may still be too old for a new package."""
    fetch(TOOL)
    with pytest.raises(FetchError, match="no package absent for arm64 in the index of"):
        fetch(Package("absent", "bookworm", "arm64"))
    assert archive.log.count("update") == 2


@pytest.mark.parametrize("step", ["update", "download"])
def test_mirror_in_mid_sync_is_tried_again(archive: Archive, step: str) -> None:
    """A mirror that is being updated is given time, and its index fetched anew."""
    archive.fail(step, UNSETTLED, times=debian.ATTEMPTS - 1)
    assert (fetch(TOOL) / "second").exists()
    assert archive.log.count(step) == debian.ATTEMPTS
    assert archive.log.count("update") == debian.ATTEMPTS  # another package needs another index


def test_mirror_in_mid_sync_is_given_up(archive: Archive) -> None:
    """The attempts are bounded."""
    archive.fail("download", UNSETTLED, times=99)
    with pytest.raises(FetchError, match="unexpected size"):
        fetch(TOOL)
    assert archive.log.count("download") == debian.ATTEMPTS
    assert archive.trees == []


def test_unreachable_mirror_is_an_error_with_the_way_out(archive: Archive) -> None:
    """No attempt is repeated in vain, and another mirror can be named."""
    archive.fail("update", UNREACHABLE, times=99)
    with pytest.raises(FetchError, match=r"(?s)KSMTESTS_DEBIAN_MIRROR.*Could not connect"):
        fetch(TOOL)
    assert archive.log.count("update") == 1


def test_unreachable_mirror_leaves_what_was_fetched_before(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a network, what the last index names and is unpacked will do."""
    before = fetch(TOOL)
    archive.age_index()
    archive.fail("update", UNREACHABLE, times=99)
    assert fetch(TOOL) == before
    assert "using what was fetched before" in caplog.text


def test_failed_unpacking_leaves_nothing(archive: Archive) -> None:
    """Half a package is not taken for one, and the next fetch is whole."""
    archive.interrupt("echo 'dpkg-deb: no space left' >&2; exit 2")
    with pytest.raises(FetchError, match="no space left"):
        fetch(TOOL)
    assert archive.trees == []
    archive.interrupt("")
    assert (fetch(TOOL) / "second").exists()


def test_killed_fetch_leaves_nothing_that_counts(archive: Archive) -> None:
    """SIGKILL in the middle of unpacking is repaired by the next fetch."""
    archive.interrupt("kill -9 $PPID; exit 1")
    script = f"""
        from pathlib import Path
        from guests import debian
        debian.KEYRINGS = (Path({str(debian.KEYRINGS[0])!r}),)
        debian.fetch(debian.Package("tool", "bookworm", "arm64"))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.run(command, cwd=CHECKOUT, check=False).returncode == -signal.SIGKILL
    assert archive.trees == []
    archive.interrupt("")
    assert sorted(path.name for path in fetch(TOOL).iterdir()) == ["first", "second"]


def test_concurrent_fetches_do_it_once(archive: Archive) -> None:
    """Those who come second wait, and use what the first has fetched."""
    with ThreadPoolExecutor(4) as pool:
        trees = set(pool.map(fetch, [TOOL] * 4))
    assert len(trees) == 1
    assert archive.log.count("download") == 1


def test_missing_tools_are_named(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without apt the error says so."""
    monkeypatch.setenv("PATH", str(archive.directory))
    with pytest.raises(FetchError, match="apt-config is not installed"):
        fetch(TOOL)


def test_missing_keyring_is_named(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched that cannot be verified."""
    monkeypatch.setattr(debian, "KEYRINGS", (archive.directory / "none.gpg",))
    with pytest.raises(FetchError, match="install the package debian-archive-keyring"):
        fetch(TOOL)


@pytest.mark.parametrize("name", ["-o", "../x", "Tool", "a b", ""])
def test_impossible_package_names_are_refused(name: str) -> None:
    """A name becomes neither an option nor a path."""
    with pytest.raises(ValueError, match="does not match"):
        Package(name, "sid")


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_cache_others_can_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """What others could have put into the cache is not run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.cache_dir().chmod(mode)
    with pytest.raises(cache.CacheError, match=f"has mode {mode:04o}.*chmod 0700"):
        cache.cache_dir()


def test_cache_in_a_directory_of_everyone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor what others could have put in the cache's place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "open"))
    cache.cache_dir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(cache.CacheError, match="anyone can replace the cache directory"):
        cache.cache_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away needs root")
def test_cache_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root does not run what a user has in his cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    os.chown(cache.cache_dir(), 12345, -1)
    with pytest.raises(cache.CacheError, match="belongs to uid 12345, but this is uid 0"):
        cache.cache_dir()


def test_cache_default_is_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative XDG_CACHE_HOME is ignored, as its specification demands."""
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / ".cache/ksmtests"


def test_lock_is_not_waited_for_forever(tmp_path: Path) -> None:
    """A hanging process is named as the reason."""
    lock = tmp_path / "lock"
    with (
        cache.locked(lock),
        pytest.raises(cache.CacheError, match="locked by another process for 0 s"),
        cache.locked(lock, timeout_s=0),
    ):
        pass


ONE_LINE = """\
# deb http://commented/debian bookworm main
deb cdrom:[Debian GNU/Linux 12 _Bookworm_]/ bookworm main
deb-src http://source/debian bookworm main
deb http://security/debian-security bookworm-security main
deb [arch=amd64 signed-by=/etc/apt/keyrings/docker.asc] https://third/linux/debian bookworm main
deb [ arch=amd64 ] http://first/debian/ bookworm main contrib # the one
deb http://second/debian bookworm-updates main
"""
DEB822 = """\
# Comment before
Types: deb
URIs: https://third/debian
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/third.gpg

Enabled: no
Types: deb
URIs: http://disabled/debian
Suites: sid
Components: main

Types: deb deb-src
# Comment inside
URIs: mirror+file:/etc/apt/mirrors/debian.list
Suites: trixie
 trixie-updates
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty apt configuration."""
    monkeypatch.delenv(mirror.OVERRIDE, raising=False)
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def test_mirror_from_one_line_sources(etc: Path) -> None:
    """Comments, media, sources, security and third parties are passed over."""
    (etc / "sources.list").write_text(ONE_LINE)
    assert mirror.debian_mirror(etc) == "http://first/debian"


def test_mirror_from_deb822_sources(etc: Path) -> None:
    """So they are in the other format, where fields may have several lines."""
    (etc / "sources.list.d/debian.sources").write_text(DEB822)
    assert mirror.debian_mirror(etc) == "mirror+file:/etc/apt/mirrors/debian.list"


def test_mirror_of_another_distribution_is_not_used(etc: Path) -> None:
    """Without a Debian source it takes the user to name a mirror."""
    ubuntu = "deb http://archive/ubuntu noble main\ndeb https://third/oss/deb stable main\n"
    (etc / "sources.list.d/ubuntu.list").write_text(ubuntu)
    (etc / "sources.list.d/debian.sources.disabled").write_text(DEB822)
    with pytest.raises(mirror.NoMirrorError, match=mirror.OVERRIDE):
        mirror.debian_mirror(etc)


@pytest.mark.network
@pytest.mark.parametrize("suite", ["bookworm", "sid"])
def test_foreign_package_from_the_real_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str
) -> None:
    """The real apt fetches another architecture's package, verified."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tree = fetch(Package("hostname", suite, "arm64"))
    (program,) = tree.glob("**/bin/hostname")
    machine = program.read_bytes()[18:20]  # e_machine of an ELF header
    assert int.from_bytes(machine, "little") == 183  # EM_AARCH64
