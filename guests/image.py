# SPDX-License-Identifier: GPL-2.0
"""What guests find in their root directory: two archives, unpacked by the kernel one after another.

The base, Python with its packages, is made once per architecture and version of anything in it.
What belongs to the kernel (the agent, its modules, its configuration) is added in front of it,
because the kernel takes what follows a compressed archive for more of it. The checkout comes over
the channel, so that a guest that was saved can be given another one.
"""

import hashlib
import io
import logging
import os
import shutil
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

from guests import cpio, modules, wheels
from guests.agent import SOURCES
from guests.cache import cache_dir, locked, publish, workshop
from guests.debian import download_settings, keyring
from guests.kernel import KernelFiles
from guests.machines import MACHINES
from guests.mirror import debian_mirror

PYTHONS = {"bookworm": "3.11", "sid": "3.14"}  # by suite; one that is here compiles ahead
PACKAGES = ("python3", "python3-cffi-backend", "busybox-static")
MERGED = ("bin", "sbin", "lib", "lib64")  # links into /usr, which no package here makes
BASE = "base.cpio.lz4"
DIGEST = "sha256"  # beside the base: what it was like when it was complete
MODULES = "ksm-modules"  # beside /lib, which is a link on systems with a merged /usr
AGENT = "ksm-agent"
BUILD_TIMEOUT_S = 1800

# Nothing in a guest needs these, and every megabyte is unpacked by an emulated processor.
PRUNED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/perl*",
    "usr/lib/*/perl*",
    "usr/lib/*/gconv",
    "usr/bin/perl*",
    "usr/bin/openssl",
    "usr/lib/python3*/lib2to3",
    "usr/lib/python3*/idlelib",
    "usr/lib/python3*/tkinter",
    "usr/lib/python3*/pydoc_data",
    "usr/lib/python3*/distutils",
    "usr/lib/python3*/ensurepip",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/cache",
    "var/log",
    "etc/apt",
)

log = logging.getLogger(__name__)

INIT = f"""\
#!/bin/busybox sh
# The first process of the guest: file systems, modules, then the agent.
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LANG=C.UTF-8 TERM=dumb
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /run /tmp /root
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ -e /boot/config ] && ln -s config "/boot/config-$(uname -r)"
for module in /{MODULES}/*; do
    [ -e "$module" ] && insmod "$module"
done
PYTHONPATH=/{AGENT} python3 -m guests.agent
echo "the agent ended with $?"
poweroff -f
"""


class ImageError(Exception):
    """A root image could not be made."""


def base_image(architecture: str) -> Path:
    """Return the base of Debian's `architecture`, made if it is not in the cache.

    Raises ImageError, or NotInstalledError for a Python package this interpreter lacks.
    """
    packages = wheels.closure()
    images = cache_dir() / "images"
    final = images / f"{architecture}-{_key(architecture, packages)}"
    if not final.is_dir():
        images.mkdir(mode=0o700, exist_ok=True)
        with locked(images / f"{architecture}.lock") as lock:
            if not final.is_dir():
                log.info("making the root image of %s", architecture)
                with workshop(images / f"making-{architecture}") as work:
                    _make(work, architecture, packages, lock)
                    publish(work / "done", final)
    return final / BASE


def _key(architecture: str, packages: list[Distribution]) -> str:
    suite = MACHINES[architecture].suite
    recipe = [
        architecture,
        suite,
        *PACKAGES,
        *PRUNED,
        Path(cpio.__file__).read_text("utf-8"),
        *(f"{package.name}=={package.version}" for package in packages),
        "compiled" if _interpreter(PYTHONS[suite]) else "",
    ]
    return hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:16]


def _make(work: Path, architecture: str, packages: list[Distribution], lock: int) -> None:
    root = work / "root"
    _bootstrap(root, architecture, lock)
    for pattern in PRUNED:
        for path in root.glob(pattern):
            _remove(path)
    for name in MERGED:
        if (root / "usr" / name).is_dir() and not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    version = next(root.glob("usr/lib/python3.*")).name.removeprefix("python")
    site = root / f"usr/local/lib/python{version}/dist-packages"
    for package in packages:
        for name, source in wheels.files(package).items():
            target = site / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    _compile(root, version, lock)
    (work / "done").mkdir()
    _pack(root, work / "done" / BASE, lock)
    with (work / "done" / BASE).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    (work / "done" / DIGEST).write_text(digest, encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _bootstrap(root: Path, architecture: str, lock: int) -> None:
    """Unpack Debian packages: no program of theirs is run, so any architecture will do."""
    suite = MACHINES[architecture].suite
    mode = "root" if os.geteuid() == 0 else "chrootless"
    source = f"deb [signed-by={keyring()}] {debian_mirror()} {suite} main"
    _run(
        lock,
        "mmdebstrap",
        "--quiet",
        f"--mode={mode}",
        "--variant=extract",
        f"--architectures={architecture}",
        f"--include={','.join(PACKAGES)}",
        *(f"--aptopt={setting}" for setting in download_settings()),
        suite,
        str(root),
        source,
    )


def _interpreter(version: str) -> str | None:
    """A Python on this machine that writes .pyc files for `version`."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        return sys.executable
    return shutil.which(f"python{version}")


def _compile(root: Path, version: str, lock: int) -> None:
    """Compile all modules ahead, which halves a guest's first pytest run."""
    python = _interpreter(version)
    if python is None:
        return  # guests of this Python start more slowly
    _run(
        lock,
        *(python, "-I", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"),
        *("-s", str(root), "-p", "/", str(root / "usr")),
        accepted=(0, 1),  # 1: a module that is not for this Python, in lib2to3's tests and the like
    )


def _pack(root: Path, archive: Path, lock: int) -> None:
    plain = archive.with_suffix("")
    with plain.open("wb") as stream, cpio.Writer(stream) as writer:
        writer.tree(root)
        for directory in ("dev", "proc", "sys", "run", "tmp", "root", "boot"):
            writer.directory(directory)
    _run(lock, "lz4", "-l", "-9", "-q", str(plain), str(archive))
    plain.unlink()


def _run(lock: int, *command: str, accepted: tuple[int, ...] = (0,)) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=BUILD_TIMEOUT_S,
            pass_fds=(lock,),
            check=False,
        )
    except FileNotFoundError as error:
        raise ImageError(
            f"{command[0]} is not installed, but root images are made with it: "
            f"apt-get install {command[0]}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"{' '.join(command)} took longer than {error.timeout:.0f} s") from error
    if done.returncode not in accepted:
        raise ImageError(
            f"`{' '.join(command)}` exited with {done.returncode}:\n{done.stderr.strip()}"
        )


def front(files: KernelFiles) -> bytes:
    """The archive that comes before the base: all that depends on the kernel, and the agent."""
    stream = io.BytesIO()
    with cpio.Writer(stream) as writer:
        writer.file("init", INIT.encode(), 0o755)
        for name in SOURCES:
            source = Path(__file__).with_name(f"{name}.py")
            writer.file(f"{AGENT}/guests/{name}.py", source.read_bytes())
        if files.config:
            writer.file("boot/config", files.config.read_bytes())
        for number, module in enumerate(modules.needed(files)):
            writer.file(f"{MODULES}/{number:02}-{module.name}", modules.content(module))
    return stream.getvalue()


def write_image(target: Path, front: bytes, base: Path) -> None:
    """Write what a guest boots with. Raises ImageError for a damaged base, which is removed."""
    digest = hashlib.sha256()
    with target.open("wb") as stream, base.open("rb") as compressed:
        stream.write(front)
        while chunk := compressed.read(1 << 20):
            digest.update(chunk)
            stream.write(chunk)
    try:
        expected = base.with_name(DIGEST).read_text("utf-8")
    except FileNotFoundError:
        return  # it was made by an older version
    if digest.hexdigest() != expected:
        shutil.rmtree(base.parent, ignore_errors=True)
        raise ImageError(f"{base} was damaged, and is removed: the next guest makes it anew")
