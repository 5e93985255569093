# SPDX-License-Identifier: GPL-2.0
"""The emulated machine of each architecture, as data; the names are Debian's."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """What QEMU and the kernel are told about an architecture."""

    emulator: str  # QEMU's binary
    package: str  # Debian's package of it, since Debian 13 and in bookworm-backports
    machine: str
    cpu: str
    console: str
    channel: str = "virtio-serial-pci"  # QEMU's device with the agent's port
    suite: str = "bookworm"  # of Debian, for its userland: Python 3.11, the oldest that is good
    append: str = ""
    firmware: tuple[str, str] | None = None  # package, and where in it QEMU is to look
    bios: str = ""  # the file there, where it has another name than QEMU looks for
    kvm: tuple[str, ...] = ()  # modules of a host that runs such guests faster than QEMU alone
    least_qemu: tuple[int, int] = (7, 0)
    why_least: str = "older ones were never tried"


MACHINES = {
    "amd64": Machine(
        emulator="qemu-system-x86_64",
        package="qemu-system-x86",
        machine="q35",
        cpu="max",
        console="ttyS0",
        append="no_timer_check",  # or one boot in 50 panics: IO-APIC + timer doesn't work
        firmware=("seabios", "usr/share/seabios"),
        kvm=("kvm_intel", "kvm_amd"),  # other implementations may emulate every instruction
        least_qemu=(8, 0),
        why_least="7.2 lets guests oops at random and hang under load",
    ),
    "arm64": Machine(
        emulator="qemu-system-aarch64",
        package="qemu-system-arm",
        machine="virt",
        cpu="cortex-a76",  # "max" spends 5 s of every boot on pointer authentication
        console="ttyAMA0",
    ),
    "armhf": Machine(
        emulator="qemu-system-arm",
        package="qemu-system-arm",
        machine="virt,highmem=off",  # a kernel without LPAE does not reach PCI above 4 GiB
        cpu="cortex-a15",  # has LPAE
        console="ttyAMA0",
    ),
    "riscv64": Machine(
        emulator="qemu-system-riscv64",
        package="qemu-system-riscv",
        machine="virt",
        cpu="rv64",
        console="ttyS0",
        firmware=("opensbi", "usr/lib/riscv64-linux-gnu/opensbi/generic"),
        bios="fw_dynamic.bin",
        suite="sid",  # bookworm does not have it
    ),
    "s390x": Machine(
        emulator="qemu-system-s390x",
        package="qemu-system-s390x",
        machine="s390-ccw-virtio",
        cpu="max",
        console="ttysclp0",
        channel="virtio-serial-ccw",
    ),
    "ppc64el": Machine(
        emulator="qemu-system-ppc64",
        package="qemu-system-ppc",
        machine="pseries,x-vof=on",  # the other firmware, SLOF, is slow
        cpu="power9",
        console="hvc0",
    ),
}
