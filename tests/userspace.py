# SPDX-License-Identifier: GPL-2.0
"""The userspace of a release of Debian's, with nothing but its packages, to run the suite in.

It is a root directory in the cache, made anew every week, since what is tested of unstable is that
the suite runs with what there is now. The kernel is this one.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from guests.cache import cache_dir, locked, publish, workshop
from guests.debian import download_settings, keyring
from guests.mirror import debian_mirror
from reports.kselftest import PACKAGES

INCLUDED = ("python3", *(package for package, _ in PACKAGES.values()))
MAX_AGE = 7 * 24 * 3600  # s
MAKING = 1800  # s; it takes one minute
PLACE = "/mnt"  # where the root has what it is given

# Enters a root, of which /tmp and PLACE alone can be written to, in mounts of its own. /run is the
# machine's, since runs of the suite take turns there.
ENTER = f"""
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
root=$1 given=$2
shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
for directory in /proc /sys /dev /run; do mount --rbind $directory "$root$directory"; done
mount -t tmpfs tmp "$root/tmp"
mount --bind "$given" "$root{PLACE}"
exec chroot "$root" "$@"
"""


@contextmanager
def userspace(suite: str, given: Path) -> Iterator[Sequence[str]]:
    """Hold a suite's userspace; the value is what a command begins with to run in it.

    The directory `given` is PLACE there. Raises CalledProcessError where it cannot be made.
    """
    images = cache_dir() / "images"  # `python -m guests clean` empties it
    images.mkdir(mode=0o700, exist_ok=True)
    final = images / f"userspace-{suite}"
    with locked(images / f"userspace-{suite}.lock") as lock:
        if not _is_recent(final):
            shutil.rmtree(final, ignore_errors=True)
            with workshop(images / f"making-userspace-{suite}") as work:
                _make(work / "done/root", suite, lock)
                publish(work / "done", final)
        yield ("unshare", "--mount", "sh", "-c", ENTER, "sh", str(final / "root"), str(given))


def _is_recent(final: Path) -> bool:
    try:
        return 0 <= time.time() - final.stat().st_mtime < MAX_AGE
    except FileNotFoundError:
        return False


def _make(root: Path, suite: str, lock: int) -> None:
    root.parent.mkdir()
    options = (f"--aptopt={setting}" for setting in download_settings())
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=essential"),
            f"--include={','.join(INCLUDED)}",
            *options,
            *(suite, str(root), f"deb [signed-by={keyring()}] {debian_mirror()} {suite} main"),
        ],
        stdin=subprocess.DEVNULL,
        timeout=MAKING,
        pass_fds=(lock,),
        check=True,
    )
