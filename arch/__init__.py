# SPDX-License-Identifier: GPL-2.0
"""What differs between architectures: one module each, data and small functions."""

import importlib
import pkgutil
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Arch:
    """An architecture."""

    name: str
    machines: tuple[str, ...]  # what uname -m prints
    never: dict[str, str] = field(default_factory=dict)  # feature -> why it cannot exist there
    # Feature -> what not every processor of the architecture has, and the feature needs.
    processor: dict[str, str] = field(default_factory=dict)
    # KiB of a page -> KiB of a huge page: several where processor or configuration decide.
    huge_pages: dict[int, tuple[int, ...]] = field(default_factory=dict)
    # __HAVE_COLOR_ZERO_PAGE: the address decides which one is mapped. The suite compares no PFN
    # with that of "the" zero page anywhere, but looks at KPF_ZERO_PAGE.
    several_zero_pages: bool = False
    # ARCH_HAS_COPY_MC: a page whose memory fails while a write fault copies it kills no kernel.
    copies_survive_bad_memory: bool = False
    # A kernel defect: the first attempt to replace a page fails, so that freshly written zeros
    # merge with each other before they are tried on the zero page (docs/upstream-bugs.md).
    places_zeros_late: bool = False


class UnknownArchitecture(Exception):
    """No module of `arch/` knows the machine."""


def architectures() -> tuple[Arch, ...]:
    """The `ARCH` of every module here."""
    return tuple(
        importlib.import_module(f"arch.{module.name}").ARCH
        for module in pkgutil.iter_modules(__path__)
    )


def current(machine: str = "", others: Iterable[Arch] = ()) -> Arch:
    """The architecture of `machine`, this one by default; `others` come before the modules here.

    Raises UnknownArchitecture.
    """
    machine = machine or platform.machine()
    for arch in (*others, *architectures()):
        if machine in arch.machines:
            return arch
    raise UnknownArchitecture(
        f"no architecture names the machine {machine!r}: add a module to arch/, or a plugin with "
        "the hook pytest_ksmtests_architectures"
    )
