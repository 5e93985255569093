# SPDX-License-Identifier: GPL-2.0
"""`python -m tests.kconfig_matrix`: write tests/kconfigs/expected, the table of what comes of each
feature on each kernel of tests/kconfigs. Review the difference before it is committed.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace

import arch
from kconfig.configuration import Configuration, parse
from plugins.features import FEATURES, Feature
from plugins.requirements import resolve
from tests.reduce_kconfigs import ABSENT, KCONFIGS, SUITES, Kernel, kernels

EXPECTED = KCONFIGS / "expected"
HEADING = """\
# What comes of each feature on Debian's kernels: skipped for a reason, or left to its probe, with
# what follows when that finds nothing. Made by `python -m tests.kconfig_matrix`.
"""


class StaleConfiguration(Exception):
    """A reduced configuration was made before a feature asked about a symbol."""


def configuration_of(kernel: Kernel) -> Configuration:
    """The reduced configuration, which must know all that features ask about."""
    text = kernel.path.read_text(encoding="utf-8")
    configuration = parse(text, "the configuration")
    known = {*configuration.values, *ABSENT.findall(text)}
    for feature in FEATURES.values():
        for symbol in feature.kconfig + feature.selected:
            if symbol not in known:
                raise StaleConfiguration(
                    f"{kernel.path} does not say whether {symbol} is set, which {feature.name} "
                    "needs: run `python -m tests.reduce_kconfigs`"
                )
    return configuration


def outcome(feature: Feature, kernel: Kernel) -> str:
    """What resolve() makes of a feature, with its reason."""
    machine, configuration = arch.current(kernel.machine), configuration_of(kernel)
    found = resolve(replace(feature, probe=lambda: True), machine, configuration, kernel.version)
    if not found.run:
        return f"skip: {found.reason}"
    missed = resolve(replace(feature, probe=lambda: False), machine, configuration, kernel.version)
    if missed.fail:
        return "probe, or fail"
    return f"probe, or skip: {missed.reason}".replace(tempfile.gettempdir(), "TMPDIR")


def _which(chosen: list[Kernel]) -> Iterator[str]:
    """The kernels, a version to a line."""
    if chosen == kernels():
        yield "every kernel"
        return
    for version in SUITES:
        flavours = [kernel.flavour for kernel in chosen if kernel.version == version]
        if len(flavours) == len(kernels(version=version)):
            yield f"{version} every flavour"
        elif flavours:
            yield f"{version} {' '.join(flavours)}"


def table() -> str:
    """The outcomes of each feature, and below each the kernels that have it."""
    lines = [HEADING]
    for feature in FEATURES.values():
        outcomes: dict[str, list[Kernel]] = {}
        for kernel in kernels():
            outcomes.setdefault(outcome(feature, kernel), []).append(kernel)
        lines.append(f"\n{feature.name}\n")
        for each, chosen in outcomes.items():
            lines.append(f"  {each}\n")
            lines.extend(f"    {which}\n" for which in _which(chosen))
    return "".join(lines)


if __name__ == "__main__":
    EXPECTED.write_text(table(), encoding="utf-8")
