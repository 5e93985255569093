# SPDX-License-Identifier: GPL-2.0
"""What comes of each feature on Debian's kernels, as reviewed in tests/kconfigs/expected."""

import lzma
from dataclasses import replace
from pathlib import Path

import pytest

from guests.debian import Package, fetch
from kconfig.configuration import parse
from kconfig.fragment import architecture_of
from plugins.features import FEATURES
from tests.kconfig_matrix import EXPECTED, StaleConfiguration, configuration_of, table
from tests.reduce_kconfigs import (
    KCONFIGS,
    SUITES,
    Kernel,
    debian_name,
    kernels,
    reduced,
    symbols,
)

ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64", "armv7l": "arm"}


@pytest.fixture(params=kernels(), ids=lambda kernel: kernel.name)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """Each kernel."""
    found: Kernel = request.param
    return found


def test_outcomes_are_as_reviewed() -> None:
    """Run `python -m tests.kconfig_matrix`, and review the difference."""
    assert table() == EXPECTED.read_text(encoding="utf-8")


def test_every_configuration_is_some_kernels() -> None:
    """None is left over."""
    assert {kernel.path for kernel in kernels()} == set(KCONFIGS.glob("*.config"))


def test_configuration_is_for_its_machine(kernel: Kernel) -> None:
    """And says so itself."""
    assert architecture_of(configuration_of(kernel)) == ARCHITECTURES[kernel.machine]


def test_configuration_keeps_what_it_should(kernel: Kernel) -> None:
    """Reducing it again changes nothing but the line that says where it is from."""
    configuration = configuration_of(kernel)
    first, _, rest = kernel.path.read_text(encoding="utf-8").partition("\n")
    assert first.startswith(f"# linux-config-{kernel.version} {kernel.version}.")
    assert f"_none_{kernel.flavour}.xz" in first
    assert reduced(configuration).partition("\n")[2] == rest


def test_reduced_configuration_keeps_y_m_n_and_absence() -> None:
    """One of each, among symbols that nobody asked about."""
    one, two, three, *others = symbols()
    text = f"{one}=y\n# {two} is not set\n{three}=m\nCONFIG_UNASKED=y\n"
    found = reduced(parse(text, "here")).splitlines()
    assert found[1:4] == [f"{one}=y", f"# {two} is not set", f"{three}=m"]
    assert found[4:] == [f"# {symbol} is absent" for symbol in others]


def test_feature_with_a_new_symbol(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is no silent `absent`: the configurations have to be reduced again."""
    monkeypatch.setitem(FEATURES, "ksm", replace(FEATURES["ksm"], selected=("CONFIG_NEW",)))
    with pytest.raises(StaleConfiguration, match="CONFIG_NEW is set, which ksm needs: run"):
        configuration_of(kernels()[0])


@pytest.mark.network
def test_configuration_is_still_debians(kernel: Kernel) -> None:
    """Debian may have changed it since: run `python -m tests.reduce_kconfigs`."""
    package = Package(f"linux-config-{kernel.version}", SUITES[kernel.version], kernel.architecture)
    path: Path = next(fetch(package).rglob(debian_name(kernel)))
    now = parse(lzma.decompress(path.read_bytes()).decode(), "Debian")
    old = configuration_of(kernel)
    assert {each: now.values.get(each) for each in symbols()} == {
        each: old.values.get(each) for each in symbols()
    }
