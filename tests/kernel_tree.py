# SPDX-License-Identifier: GPL-2.0
"""What tests run of the kernel's source: kselftest's scripts, KUnit's parser, merge_config.sh."""

import tarfile
from pathlib import Path

from guests.cache import cache_dir, locked, publish, workshop
from guests.debian import Package, fetch

PACKAGE = Package("linux-source-7.2", "sid")
SELFTESTS = Path("tools/testing/selftests")
MEMBERS = (
    *(f"{SELFTESTS}/{name}" for name in ("Makefile", "lib.mk", "run_kselftest.sh", "kselftest/")),
    f"{SELFTESTS}/kselftest_harness.h",
    "tools/testing/kunit/",
    "scripts/subarch.include",
    "scripts/kconfig/merge_config.sh",
)


def kernel_tree() -> Path:
    """A kernel tree with these files, in the cache; nobody writes to it.

    Raises what guests.debian.fetch() raises.
    """
    source = fetch(PACKAGE)
    home = cache_dir() / "kernel-tree"
    home.mkdir(mode=0o700, exist_ok=True)
    final = home / source.name
    with locked(home / "lock"):
        if not final.is_dir():
            with workshop(home / "unpacking") as work:
                _unpack(next(source.glob("usr/src/linux-source-*.tar.xz")), work / "linux")
                publish(work / "linux", final)
    return final


def _unpack(tarball: Path, tree: Path) -> None:
    with tarfile.open(tarball, "r|xz") as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python >= 3.11.4 has it
        for member in tar:
            _, _, member.name = member.name.partition("/")  # below linux-source-7.2/
            if member.name.startswith(MEMBERS):
                tar.extract(member, tree)
