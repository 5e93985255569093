# SPDX-License-Identifier: GPL-2.0
"""Guests in QEMU, ready for programs to be run in:

with start(kernel, checkout) as guest:
    status = guest.run(["python3", "-m", "pytest"], sys.stdout.buffer.write)
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from guests import states
from guests.formats import loadable
from guests.guest import Guest, LostGuest, RefusedError
from guests.image import base_image, front, write_image
from guests.kernel import Kernel, KernelFiles
from guests.monitor import MonitorError
from guests.patience import scaled
from guests.qemu import Emulator, Ram, command, find_emulator
from guests.running import Qemu, memory
from guests.states import State

__all__ = ["Guest", "LostGuest", "RefusedError", "boot", "start"]

BOOT_S = 60
RESUME_S = 30
ATTEMPTS = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What a guest is made of."""

    kernel: Kernel
    files: KernelFiles
    emulator: Emulator
    base: Path
    front: bytes

    @classmethod
    def of(cls, kernel: Kernel) -> "Parts":
        """Fetch and make what is missing. Raises what that raises."""
        emulator = find_emulator(kernel.arch)
        files = kernel.files()
        return cls(kernel, files, emulator, base_image(kernel.arch), front(files))

    def key(self) -> str:
        """The name of the state such a guest is saved as."""
        told = command(
            *(self.kernel, self.emulator, self.files.image, Path("guest")),
            *(Ram((Path("ram"),) * self.kernel.nodes, saved=True),),
            channel=0,
            monitor=0,
        )
        used = (self.files.image, self.base, self.emulator.binary)
        return states.key(told, used, self.front)


@contextmanager
def start(kernel: Kernel, checkout: Path, *, fresh: bool = False) -> Iterator[Guest]:
    """A guest of a kernel, with the checkout in it, fetching and making what is missing.

    It is resumed from the state of an earlier one, saved when its agent was ready; without one,
    it boots and is saved. `fresh` is for who wants neither. The guest ends with the block. Raises
    LostGuest, and what fetching and making raise.
    """
    begun = time.monotonic()
    parts = Parts.of(kernel)
    checkout = checkout.resolve()
    guest, qemu = _booted(parts, checkout, None) if fresh else _resumed_or_booted(parts, checkout)
    guest.ready_seconds = time.monotonic() - begun
    try:
        yield guest
    finally:
        qemu.close()


def boot(kernel: Kernel, checkout: Path) -> AbstractContextManager[Guest]:
    """Boot a kernel with the checkout in it, whatever was saved."""
    return start(kernel, checkout, fresh=True)


def _resumed_or_booted(parts: Parts, checkout: Path) -> tuple[Guest, Qemu]:
    key = parts.key()
    state = states.find(key)
    if state:
        try:
            return _resumed(parts, checkout, state)
        except (LostGuest, MonitorError) as error:
            log.warning("a saved guest could not be resumed, booting one: %s", error)
            states.discard(state)
    return _booted(parts, checkout, key)


def _resumed(parts: Parts, checkout: Path, state: State) -> tuple[Guest, Qemu]:
    log.info("resuming")
    with _directory() as directory:
        image = loadable(parts.files.image, directory / "kernel")
        ram = Ram(tuple(map(state.ram, range(parts.kernel.nodes))), saved=True)
        qemu = Qemu(parts.kernel, parts.emulator, image, directory, ram)
    with _closed_on_error(qemu):
        qemu.monitor.resume_devices(state.devices)
        guest = Guest(parts.kernel.name, qemu, checkout)
        guest.wake(scaled(RESUME_S))
        guest.bring_checkout()
    return guest, qemu


def _booted(parts: Parts, checkout: Path, key: str | None) -> tuple[Guest, Qemu]:
    """Boot; once more, with a warning, where that fails: emulation fails now and then.

    A kernel that cannot boot fails twice. The guest is saved under the key.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return _attempt(parts, checkout, key)
        except LostGuest as error:
            log.warning("boot %d of %d failed, trying again: %s", attempt, ATTEMPTS, error)
    return _attempt(parts, checkout, key)


def _attempt(parts: Parts, checkout: Path, key: str | None) -> tuple[Guest, Qemu]:
    log.info("booting")
    with memory(parts.kernel) as descriptors:
        with _directory() as directory:
            write_image(directory / "initramfs", parts.front, parts.base)
            image = loadable(parts.files.image, directory / "kernel")
            ram = Ram(tuple(Path(f"/proc/self/fd/{descriptor}") for descriptor in descriptors))
            qemu = Qemu(parts.kernel, parts.emulator, image, directory, ram, descriptors)
        with _closed_on_error(qemu):
            guest = Guest(parts.kernel.name, qemu, checkout)
            guest.wait_ready(scaled(BOOT_S))
            (directory / "initramfs").unlink()  # QEMU has loaded it
            if key:
                _save(guest, key, qemu, descriptors)
            guest.bring_checkout()
    return guest, qemu


def _save(guest: Guest, key: str, qemu: Qemu, rams: Sequence[int]) -> None:
    log.info("saving")
    try:
        states.save(key, qemu, rams)
    except MonitorError as error:
        raise guest.lost(f"did not go on after it was saved: {error}") from error


@contextmanager
def _directory() -> Iterator[Path]:
    """A new directory that only this user can look into; on success it stays."""
    directory = Path(tempfile.mkdtemp(prefix="ksmtests-guest-"))
    try:
        yield directory
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


@contextmanager
def _closed_on_error(qemu: Qemu) -> Iterator[None]:
    try:
        yield
    except BaseException:
        qemu.close()
        raise
