# SPDX-License-Identifier: GPL-2.0
"""The fragments `config` and `config.MACHINE`: which symbols the suite needs, and what for.

`make kselftest-merge` merges `config`, and `config.$(UTS_MACHINE)` of the architecture it builds
for, so the fragments are named after that.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from kconfig import ConfigurationError
from kconfig.configuration import Configuration
from kconfig.dotconfig import settings

HERE = Path(__file__).parent
EVERY_TEST = "every test"

_FOR = re.compile(r"# for (.+?)(?:, through (CONFIG_\w+))?")


@dataclass(frozen=True)
class Architecture:
    """An architecture as a build knows it."""

    machine: str  # UTS_MACHINE: the fragment is config.MACHINE, if there is one
    symbol: str  # set in every configuration for it


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {  # names as in `arch/`
        "arm": Architecture("arm", "CONFIG_ARM"),
        "arm64": Architecture("aarch64", "CONFIG_ARM64"),
        "i386": Architecture("i386", "CONFIG_X86_32"),
        "powerpc": Architecture("ppc64le", "CONFIG_PPC64"),
        "riscv": Architecture("riscv64", "CONFIG_RISCV"),
        "s390": Architecture("s390x", "CONFIG_S390"),
        "x86": Architecture("x86_64", "CONFIG_X86_64"),
    }
)


@dataclass(frozen=True)
class Need:
    """What a symbol is needed for."""

    feature: str  # or EVERY_TEST
    through: str = ""  # the symbol that depends on it, or is selected by it


@dataclass(frozen=True)
class Entry:
    """A symbol of a fragment."""

    symbol: str
    value: str
    needs: tuple[Need, ...]


def parse_fragment(text: str) -> Iterator[Entry]:
    """The symbols of each paragraph, with what the lines "for" of that paragraph say."""
    for paragraph in text.split("\n\n"):
        needs = tuple(_needs(paragraph))
        for symbol, value in settings(paragraph).items():
            yield Entry(symbol, value, needs)


def _needs(paragraph: str) -> Iterator[Need]:
    for line in paragraph.splitlines():
        if match := _FOR.fullmatch(line):
            for feature in match[1].split(", "):
                yield Need(feature, match[2] or "")


def fragments(architecture: str) -> tuple[Path, ...]:
    """The files for an architecture; for "" those that all have."""
    machine = ARCHITECTURES[architecture].machine if architecture else ""
    files = (HERE / "config", HERE / f"config.{machine}")
    return tuple(path for path in files if path.is_file())


def wanted(architecture: str) -> tuple[Entry, ...]:
    """Every symbol that the suite needs on an architecture."""
    return tuple(
        entry
        for path in fragments(architecture)
        for entry in parse_fragment(path.read_text(encoding="utf-8"))
    )


def architecture_of(configuration: Configuration) -> str:
    """The architecture that a configuration is for. Raises ConfigurationError."""
    for name, architecture in ARCHITECTURES.items():
        if configuration.lacks(architecture.symbol) is None:
            return name
    raise ConfigurationError(
        f"{configuration.source} is for none of the architectures "
        f"{', '.join(ARCHITECTURES)}: name one with --arch"
    )


def lacking(configuration: Configuration, architecture: str) -> Iterator[tuple[str, list[Need]]]:
    """Each symbol that is off, in words, with what needs it.

    What is needed through another symbol is left out where that one is set all the same.
    """
    for entry in wanted(architecture):
        if reason := configuration.lacks(entry.symbol):
            needs = [
                need
                for need in entry.needs
                if not need.through or configuration.lacks(need.through)
            ]
            if needs:
                yield reason, needs
