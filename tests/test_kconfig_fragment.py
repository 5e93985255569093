# SPDX-License-Identifier: GPL-2.0
"""The fragments in kconfig/: they ask for what features need, and for nothing else.

With KSMTESTS_LINUX naming a clean source tree of Linux 7.2, and flex, bison and a C compiler there,
its own kconfig has the last word.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import arch
from kconfig import marks
from kconfig.__main__ import SUITE
from kconfig.configuration import read
from kconfig.fragment import (
    ARCHITECTURES,
    EVERY_TEST,
    HERE,
    Entry,
    architecture_of,
    fragments,
    lacking,
    parse_fragment,
    wanted,
)
from plugins.features import FEATURES, Feature
from tests.reduce_kconfigs import SYMBOLS, look_up

TREE = os.environ.get("KSMTESTS_LINUX", "")
DIRECTORIES = {"i386": "x86"}  # in arch/ of the kernel, where named otherwise
ARCHES = {each.name: each for each in arch.architectures()}
USED = {name: FEATURES[name] for name in marks.tests_by_feature(SUITE)}

# What the whole suite needs: KSM, its files, /proc and madvise(2), and what carries the tests.
EVERY_TESTS = {
    "CONFIG_KSM",
    "CONFIG_SYSFS",
    "CONFIG_PROC_FS",
    "CONFIG_ADVISE_SYSCALLS",
    "CONFIG_MMU",
    "CONFIG_FILE_LOCKING",
    "CONFIG_POSIX_TIMERS",
    "CONFIG_UNIX",
    "CONFIG_NET",
    "CONFIG_TMPFS",
    "CONFIG_SHMEM",
    "CONFIG_PRINTK",
    "CONFIG_BUG",
}
# A tinyconfig for POWER is for a 32-bit processor.
BASES = {"powerpc": "ppc64le_defconfig"}
# Some symbols depend on what the assembler knows.
CROSS_COMPILERS = {"arm64": "aarch64-linux-gnu-"}


def definitions() -> dict[str, dict[str, bool]]:
    """Symbol -> Kconfig file of 7.2 -> whether it has a prompt there."""
    found: dict[str, dict[str, bool]] = {}
    for line in SYMBOLS.read_text(encoding="utf-8").splitlines():
        symbol, how, file = line.split(" ", 2)
        found.setdefault(symbol, {})[file] = how == "prompt"
    return found


def files_for(symbol: str, name: str) -> dict[str, bool]:
    """Those of the definitions that count on an architecture."""
    directory = f"arch/{DIRECTORIES.get(name, name)}/"
    return {
        file: prompt
        for file, prompt in definitions().get(symbol, {}).items()
        if file.startswith(directory) or not file.startswith("arch/")
    }


def possible(name: str) -> list[Feature]:
    """The features that tests need and an architecture can have."""
    return [
        feature
        for feature in USED.values()
        if feature.name not in ARCHES[name].never
        and all(files_for(symbol, name) for symbol in feature.kconfig)
    ]


@pytest.fixture(params=sorted(ARCHES))
def name(request: pytest.FixtureRequest) -> str:
    """Each architecture."""
    return str(request.param)


def test_every_architecture_is_known() -> None:
    """A module of `arch/` has a line in kconfig/fragment.py."""
    assert ARCHES.keys() == ARCHITECTURES.keys()
    for each, architecture in ARCHES.items():
        assert ARCHITECTURES[each].machine in {*architecture.machines, each}


def test_no_fragment_is_left_over() -> None:
    """Each file is some architecture's, so that it is found."""
    used = {path for each in ARCHITECTURES for path in fragments(each)}
    assert {*HERE.glob("config"), *HERE.glob("config.*")} == used


def test_asks_for_what_features_need(name: str) -> None:
    """Both ways: each feature of a symbol that a test needs is named above it, and no other."""
    features = {feature.name: feature for feature in possible(name)}
    asked = {
        (entry.symbol, need.feature)
        for entry in wanted(name)
        for need in entry.needs
        if not need.through and need.feature in features
    }
    declared = {(symbol, each) for each, feature in features.items() for symbol in feature.kconfig}
    assert asked == declared


def test_names_features_that_exist(name: str) -> None:
    """An architecture's own fragment names those it can have, and the whole suite's needs."""
    own = {feature.name for feature in possible(name)}
    for path in fragments(name):
        for entry in parse_fragment(path.read_text(encoding="utf-8")):
            for need in entry.needs:
                if need.feature == EVERY_TEST:
                    assert entry.symbol in EVERY_TESTS
                else:
                    assert need.feature in (USED if path.name == "config" else own)
                if need.through and need.feature != EVERY_TEST:
                    assert is_reached(need.through, need.feature, wanted(name))


def is_reached(symbol: str, feature: str, entries: tuple[Entry, ...]) -> bool:
    """Whether a symbol is itself needed for the feature."""
    if symbol in FEATURES[feature].kconfig + FEATURES[feature].selected:
        return True
    return any(entry.symbol == symbol for entry in entries)


def test_every_line_says_what_for(name: str) -> None:
    """No symbol stands without a reason, or twice."""
    entries = wanted(name)
    assert all(entry.needs and entry.value == "y" for entry in entries)
    assert len({entry.symbol for entry in entries}) == len(entries)


def test_symbols_can_be_set(name: str) -> None:
    """They exist in Linux 7.2, and have a prompt on the architecture."""
    for entry in wanted(name):
        assert any(files_for(entry.symbol, name).values()), entry.symbol


def test_selected_symbols_cannot_be_set(name: str) -> None:
    """Nor are they in a fragment; they exist, or a misspelt one would skip tests for ever."""
    for feature in FEATURES.values():
        for symbol in feature.selected:
            assert symbol in definitions()
            assert not any(definitions()[symbol].values())
            assert symbol not in {entry.symbol for entry in wanted(name)}


def test_features_ask_for_what_can_be_set(name: str) -> None:
    """What nobody can set belongs to `selected`."""
    for feature in possible(name):
        for symbol in feature.kconfig:
            assert any(files_for(symbol, name).values()), symbol


def test_fixture_is_of_the_tree() -> None:
    """`symbols` says what the source tree says."""
    if not TREE:
        pytest.skip("KSMTESTS_LINUX names no source tree of Linux 7.2")
    assert SYMBOLS.read_text(encoding="utf-8") == look_up(Path(TREE))


def cross_compiler(name: str) -> str:
    """The prefix of the architecture's compiler, where that is not this machine's."""
    return CROSS_COMPILERS.get(name, "") if arch.current().name != name else ""


def make(name: str, output: Path, target: str) -> None:
    """Run a target of kconfig, outside the source tree."""
    build = {"x86": "x86_64"}.get(name, name)  # kconfig's ARCH
    command = ["make", "-s", "-C", TREE, f"O={output}", f"ARCH={build}", target]
    if prefix := cross_compiler(name):
        if not shutil.which(f"{prefix}gcc"):
            pytest.skip(f"symbols depend on what the assembler knows: install {prefix}gcc")
        command.append(f"CROSS_COMPILE={prefix}")
    subprocess.run(command, check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build tree for all architectures, so that kconfig itself is built once."""
    if not TREE:
        pytest.skip("KSMTESTS_LINUX names no source tree of Linux 7.2")
    for tool in ("make", "flex", "bison", "cc"):
        if not shutil.which(tool):
            pytest.skip(f"kconfig is built with {tool}: install it")
    return tmp_path_factory.mktemp("linux")


def test_what_never_is_cannot_be_configured(name: str, output: Path) -> None:
    """With everything set that can be, each such feature still lacks a symbol, or 64 bits."""
    make(name, output, "allyesconfig")
    configuration = read(output / ".config")
    for each in ARCHES[name].never:
        feature = FEATURES[each]
        symbols = feature.kconfig + feature.selected or ("CONFIG_64BIT",)
        assert any(map(configuration.lacks, symbols)), each


@pytest.fixture
def merged(name: str, output: Path) -> Path:
    """A smallest kernel's configuration, with the fragments merged as kselftest-merge does it."""
    make(name, output, BASES.get(name, "tinyconfig"))
    merge = ["sh", f"{TREE}/scripts/kconfig/merge_config.sh", "-y", "-m", "-O", str(output)]
    command = [*merge, str(output / ".config"), *map(str, fragments(name))]
    subprocess.run(command, check=True, capture_output=True, cwd=output, timeout=120)
    make(name, output, "olddefconfig")
    return output


def test_nothing_is_skipped_with_the_fragment(name: str, merged: Path) -> None:
    """Kconfig keeps every line of it, and what features need is set."""
    configuration = read(merged)
    assert architecture_of(configuration) == name
    assert list(lacking(configuration, name)) == []
    for entry in wanted(name):
        assert configuration.lacks(entry.symbol) is None
    for feature in possible(name):
        for symbol in feature.kconfig:
            assert configuration.lacks(symbol) is None
