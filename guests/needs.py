# SPDX-License-Identifier: GPL-2.0
"""What a kernel's configuration must have for a guest of it to be talked to."""

import re

# Built in, because nothing could load a module before they are there.
BUILT_IN = (
    "BLK_DEV_INITRD",  # the root directory
    "RD_LZ4",  # how it is compressed
    "BINFMT_ELF",
    "BINFMT_SCRIPT",  # /init is one
    "PROC_FS",
    "SYSFS",
    "DEVTMPFS",  # /dev has the channel's port without udev
    "TTY",
    "EPOLL",  # the agent's selectors
    "FUTEX",  # Python's threads
    "POSIX_TIMERS",  # pytest-timeout
    "FILE_LOCKING",  # leases of KSM
    "UNIX",  # sockets to the processes under test
)
MODULAR = ("VIRTIO_PCI", "VIRTIO_CONSOLE")  # loaded from the image; with what they depend on
NO_PCI = ("s390x",)  # the channel hangs on channel I/O
OF_MACHINE = {
    "amd64": ("SERIAL_8250_CONSOLE",),
    "arm64": ("PCI_HOST_GENERIC", "SERIAL_AMBA_PL011_CONSOLE"),
    "armhf": ("PCI_HOST_GENERIC", "SERIAL_AMBA_PL011_CONSOLE"),
    "riscv64": ("PCI_HOST_GENERIC", "SERIAL_OF_PLATFORM", "SERIAL_8250_CONSOLE"),
    "s390x": ("S390_GUEST", "SCLP_VT220_CONSOLE"),
    "ppc64el": ("PPC_PSERIES", "HVC_CONSOLE"),
}


def values(config: str) -> dict[str, str]:
    """Symbols and their values in the text of a .config."""
    return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", config, re.MULTILINE))


def missing(config: str, arch: str, modules: frozenset[str]) -> list[str]:
    """Symbols to set to y; `modules` are those of MODULAR that are built as such."""
    known = values(config)
    return [
        symbol
        for symbol in (*BUILT_IN, *MODULAR, *OF_MACHINE.get(arch, ()))
        if (symbol != "VIRTIO_PCI" or arch not in NO_PCI)
        and known.get(symbol) != "y"
        and not (known.get(symbol) == "m" and symbol in modules)
    ]
