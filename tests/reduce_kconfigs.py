# SPDX-License-Identifier: GPL-2.0
"""`python -m tests.reduce_kconfigs`: make the files of tests/kconfigs anew.

Configurations are those of Debian's kernels, from its packages linux-config-*, which differ from
what the kernels carry in signing keys and build salt alone; of each the symbols that the suite asks
about are kept. With `--tree LINUX` the symbols are looked up in the Kconfig files of a source tree
instead, and what was found is written to `symbols`.
"""

import argparse
import lzma
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from guests.debian import Package, fetch
from kconfig.configuration import FORMER_NAMES, Configuration, parse
from kconfig.fragment import ARCHITECTURES, wanted
from plugins.features import FEATURES

KCONFIGS = Path(__file__).parent / "kconfigs"
SYMBOLS = KCONFIGS / "symbols"
ABSENT = re.compile(r"# (CONFIG_\w+) is absent")

_STANZA = re.compile(r"\s*(?:menu)?config (\w+)\s*")
_OTHER = re.compile(r"\s*(?:choice|endchoice|menu|endmenu|if|endif|comment|source|mainmenu|help)\b")
_PROMPT = re.compile(r'\s*(?:bool|tristate|int|hex|string|prompt)\s+"')


@dataclass(frozen=True)
class Kernel:
    """One Debian kernel."""

    version: str
    architecture: str  # Debian's name
    flavour: str

    @property
    def machine(self) -> str:
        """What uname -m prints."""
        return MACHINES[self.architecture]

    @property
    def name(self) -> str:
        """The file's name, less its suffix."""
        return f"{self.version}-{self.flavour}"

    @property
    def path(self) -> Path:
        """Its reduced configuration."""
        return KCONFIGS / f"{self.name}.config"


SUITES = {"6.1": "bookworm", "6.12": "bookworm-backports", "7.2": "sid"}
FLAVOURS = {  # by Debian's architecture
    "amd64": ("amd64", "cloud-amd64"),
    "arm64": ("arm64", "cloud-arm64", "arm64-16k"),
    "armhf": ("armmp", "armmp-lpae"),
}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "armhf": "armv7l"}
NOT_BUILT = {("6.1", "arm64-16k")}


def kernels(architecture: str = "", version: str = "") -> list[Kernel]:
    """The kernels of an architecture and a version; of all."""
    return [
        Kernel(number, each, flavour)
        for number in SUITES
        for each, flavours in FLAVOURS.items()
        for flavour in flavours
        if (number, flavour) not in NOT_BUILT
        if architecture in ("", each)
        if version in ("", number)
    ]


def debian_name(kernel: Kernel) -> str:
    """The file of the kernel's configuration in its package linux-config-*."""
    return f"config.{kernel.architecture}_none_{kernel.flavour}.xz"


def symbols() -> list[str]:
    """Every symbol that features, fragments or architectures ask about."""
    asked = {architecture.symbol for architecture in ARCHITECTURES.values()}
    for feature in FEATURES.values():
        asked.update(feature.kconfig, feature.selected)
    for name in ARCHITECTURES:
        asked.update(entry.symbol for entry in wanted(name))
    asked.update(former for symbol, former in FORMER_NAMES.items() if symbol in asked)
    return sorted(asked)


def reduced(configuration: Configuration) -> str:
    """A configuration of the wanted symbols alone."""
    lines = [f"# {configuration.source}, reduced by `python -m tests.reduce_kconfigs`"]
    for symbol in symbols():
        value = configuration.values.get(symbol)
        if value is None:
            lines.append(f"# {symbol} is absent")
        else:
            lines.append(f"# {symbol} is not set" if value == "n" else f"{symbol}={value}")
    return "\n".join(lines) + "\n"


def reduce_debian() -> None:
    """Fetch what Debian configures its kernels with, and write the reduced files."""
    for version, suite in SUITES.items():
        for architecture in FLAVOURS:
            package = Package(f"linux-config-{version}", suite, architecture)
            tree = fetch(package)
            release = tree.name.split("_")[1]
            for kernel in kernels(architecture, version):
                path = next(tree.rglob(debian_name(kernel)))
                text = lzma.decompress(path.read_bytes()).decode()
                source = f"{package.name} {release}, {path.name}"
                kernel.path.write_text(reduced(parse(text, source)), encoding="utf-8")
                sys.stdout.write(f"{kernel.path}: {source}\n")


def _definitions(path: Path) -> Iterator[tuple[str, bool]]:
    """The symbols that a Kconfig file defines, and whether it gives them a prompt."""
    name, prompt = "", False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        stanza = _STANZA.fullmatch(line)
        if name and (stanza or _OTHER.match(line)):
            yield name, prompt
            name, prompt = "", False
        if stanza:
            name = stanza[1]
        prompt = prompt or bool(_PROMPT.match(line))
    if name:
        yield name, prompt


def look_up(tree: Path) -> str:
    """Where the Kconfig files of a source tree define the wanted symbols, and how."""
    asked = set(symbols())
    lines = set()
    for directory, _, names in os.walk(tree, followlinks=True):
        file = Path(directory).relative_to(tree)
        if file.parts[:1] in (("Documentation",), ("scripts",), ("tools",)):
            continue
        for path in (Path(directory, name) for name in names if name.startswith("Kconfig")):
            for name, prompt in _definitions(path):
                if f"CONFIG_{name}" in asked:
                    how = "prompt" if prompt else "hidden"
                    lines.add(f"CONFIG_{name} {how} {file / path.name}\n")
    return "".join(sorted(lines))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.reduce_kconfigs", description=__doc__)
    parser.add_argument("--tree", type=Path, metavar="LINUX", help="a source tree of Linux 7.2")
    options = parser.parse_args(arguments)
    if options.tree:
        SYMBOLS.write_text(look_up(options.tree), encoding="utf-8")
    else:
        reduce_debian()


if __name__ == "__main__":
    main()
