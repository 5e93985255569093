# SPDX-License-Identifier: GPL-2.0
"""What all kernels to boot have in common, wherever they come from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class KernelFiles:
    """What a boot needs of a kernel."""

    release: str  # as uname -r says it; empty where only a boot can tell
    image: Path
    config: Path | None  # a guest without one judges features by probing alone
    modules: Path  # where drivers/ lies that *.ko are looked for in; may not exist


@dataclass(frozen=True)
class Kernel(ABC):
    """One kernel to boot, and the machine to boot it on."""

    name: str
    arch: str  # Debian's name, which is also that of the machine (machines.py)
    append: str = field(default="", kw_only=True)  # more for the kernel's command line
    memory_mib: int = field(default=512, kw_only=True)
    cpus: int = field(default=1, kw_only=True)
    nodes: int = field(default=1, kw_only=True)  # of NUMA, with equal shares of the memory
    machine: str = field(default="", kw_only=True)  # QEMU's, where it is not the usual one
    cpu: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        """Raise ValueError for a machine that cannot be."""
        for key in ("memory_mib", "cpus", "nodes"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; the least is 1")
        if self.memory_mib % self.nodes:
            raise ValueError(
                f"memory_mib is {self.memory_mib}, which is no multiple of {self.nodes} nodes"
            )

    @property
    def node_mib(self) -> int:
        """Memory of one NUMA node, MiB."""
        return self.memory_mib // self.nodes

    @property
    @abstractmethod
    def origin(self) -> str:
        """Where it comes from, for people."""

    @abstractmethod
    def files(self) -> KernelFiles:
        """Its files, fetched if need be. Raises FetchError."""

    @abstractmethod
    def fetch(self) -> KernelFiles:
        """Its newest files: asks again where they come from. Raises FetchError."""

    @abstractmethod
    def at_hand(self) -> KernelFiles | None:
        """The files a boot without a network would use; None where there are none."""
