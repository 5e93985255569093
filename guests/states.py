# SPDX-License-Identifier: GPL-2.0
"""Saved guests: machines whose agent waits, to be resumed in a fraction of the time a boot takes.

A state is a directory in the cache, named after all it depends on:

    states/KEY/ramN         memory of a NUMA node, sparse; mapped by resumed guests, copied on write
    states/KEY/devices      the rest of the machine, as QEMU's migration writes it
    states/KEY/manifest     what both files were like when they were complete

No file is flushed to disk, which would take seconds of a boot: states are of one boot of this
machine, and what a power cut may have damaged is never looked at.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from guests.cache import LockedError, cache_dir, locked, workshop
from guests.monitor import MonitorError
from guests.running import Qemu
from guests.sparse import copy_sparse

MOST_STATES = 20
MOST_BYTES = 6 << 30  # on disk, of all states together
MAKING = "making-"  # before a key: what lies here is not complete
REMOVED = "removed-"  # not any more
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class State:
    """A complete state's files."""

    directory: Path

    def ram(self, node: int) -> Path:
        """Memory of one of the guest's NUMA nodes; a guest has at least one."""
        return self.directory / f"ram{node}"

    @property
    def devices(self) -> Path:
        """The rest of the machine."""
        return self.directory / "devices"

    @property
    def manifest(self) -> Path:
        """What they were like."""
        return self.directory / "manifest"

    def described(self) -> str:
        """Sizes and times of both files: what changed them later does not keep these."""
        paths = {*self.directory.iterdir(), self.ram(0), self.devices} - {self.manifest}
        stats = [path.stat() for path in sorted(paths)]
        return json.dumps([(status.st_size, status.st_mtime_ns) for status in stats])

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_blocks * 512 for path in self.directory.glob("*"))


def key(command: Iterable[str], used: Iterable[Path], content: bytes) -> str:
    """Name a state after what QEMU is told, the files it reads, and what the guest begins with."""
    files = [(path, path.stat()) for path in used]
    identity = [
        BOOT_ID.read_text("utf-8"),
        *command,
        *(f"{path} {one.st_ino} {one.st_size} {one.st_mtime_ns}" for path, one in files),
        hashlib.sha256(content).hexdigest(),
    ]
    return hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32]


def find(name: str) -> State | None:
    """The state of a key, now the most recently used; one that was changed is removed."""
    state = State(_home() / name)
    try:
        whole = state.manifest.read_text("utf-8") == state.described()
        os.utime(state.directory)
    except FileNotFoundError:
        whole = False
    if whole:
        return state
    if state.directory.is_dir():
        log.warning("the saved guest %s is damaged: removing it", state.directory)
        discard(state)
    return None


def discard(state: State) -> None:
    """Remove a state, at once for others; who has resumed it runs on."""
    doomed = state.directory.with_name(f"{REMOVED}{state.directory.name}-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        state.directory.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def save(name: str, qemu: Qemu, rams: Sequence[int]) -> None:
    """Save a guest, with a descriptor of each node's memory, unless somebody has done so or does.

    It stands still while its memory is copied. What goes wrong with that is no more than a warning,
    as it has booted all the same. Raises MonitorError where it does not go on.
    """
    home = _home()
    try:
        with locked(home / f"{name}.lock", 0), workshop(home / f"{MAKING}{name}") as work:
            if not (home / name).is_dir():
                _write(State(work), qemu, rams)
                work.rename(home / name)
    except LockedError:
        log.info("the guest is being saved by somebody else")
    except (MonitorError, OSError) as error:
        log.warning("the guest could not be saved for the next time: %s", error)
    finally:
        qemu.monitor.go_on()
    prune()


def _write(state: State, qemu: Qemu, rams: Sequence[int]) -> None:
    qemu.monitor.save_devices(state.devices)
    for node, ram in enumerate(rams):
        with state.ram(node).open("xb") as target:
            copy_sparse(ram, target.fileno())
            os.fchmod(target.fileno(), 0o644)  # root's guests resume as another user (user.py)
    state.manifest.write_text(state.described(), encoding="utf-8")


def prune(most: int = MOST_STATES, most_bytes: int = MOST_BYTES) -> None:
    """Remove what was not used for longest, until the rest is within bounds, and leftovers."""
    home = _home()
    total = 0
    for number, (_, size, state) in enumerate(sorted(_used(home), reverse=True)):
        total += size
        if number >= most or total > most_bytes:
            discard(state)
    for path in home.glob(f"{REMOVED}*"):
        shutil.rmtree(path, ignore_errors=True)
    for lock in home.glob("*.lock"):
        if not lock.with_suffix("").is_dir():
            _remove_leftover(home / f"{MAKING}{lock.stem}", lock)


def _used(home: Path) -> Iterator[tuple[int, int, State]]:
    """When states were last used, and how large they are."""
    for manifest in home.glob("*/manifest"):
        state = State(manifest.parent)
        if state.directory.name.startswith((MAKING, REMOVED)):
            continue
        with contextlib.suppress(FileNotFoundError):  # somebody else removes it
            yield state.directory.stat().st_mtime_ns, state.size(), state


def _remove_leftover(work: Path, lock: Path) -> None:
    """Remove what a killed process has left, and its lock."""
    with contextlib.suppress(LockedError), locked(lock, 0):  # else it is being made
        shutil.rmtree(work, ignore_errors=True)
        lock.unlink(missing_ok=True)


def clean() -> None:
    """Remove all states. Those being saved are not disturbed."""
    prune(most=0)


def _home() -> Path:
    home = cache_dir() / "states"
    home.mkdir(mode=0o700, exist_ok=True)
    return home
