# SPDX-License-Identifier: GPL-2.0
"""Features end to end: the options, the hook for architectures, kernels without their features."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from arch import Arch
from kconfig.configuration import Configuration
from plugins.features import FEATURES
from plugins.requirements import resolve
from uapi import ksm

ROOT = Path(__file__).parent.parent
X86 = Arch("x86", ("x86_64",))
SYMBOLS = chain.from_iterable(each.kconfig + each.selected for each in FEATURES.values())
EVERYTHING = Configuration("a test's .config", dict.fromkeys(SYMBOLS, "y"))

FakeKernel = Callable[[str], None]


@pytest.fixture
def fake_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    """A kernel whose ksm_stat has the text given, and whose sysfs has ksm_zero_pages."""

    def fake(ksm_stat: str) -> None:
        sysfs = tmp_path / "ksm"
        sysfs.mkdir()
        (sysfs / "ksm_zero_pages").write_text("0\n")
        monkeypatch.setattr(ksm.Ksm, "default_root", sysfs)
        monkeypatch.setattr(ksm, "process_stat", lambda _: ksm.parse_process_stat(ksm_stat))

    return fake


def test_a_new_kernel_without_its_line_in_ksm_stat_fails(fake_kernel: FakeKernel) -> None:
    """The release promises the line, the configuration does not take it away: a failure."""
    fake_kernel("ksm_rmap_items 0\nksm_merging_pages 0\n")
    verdict = resolve(FEATURES["ksm_zero_pages"], X86, EVERYTHING, "7.2.13")
    assert verdict.fail
    assert verdict.reason == (
        "ksm_zero_pages came with 6.6 and nothing in the configuration leaves it out, "
        "but 7.2.13 does not have it"
    )


def test_an_old_kernel_without_the_line_skips(fake_kernel: FakeKernel) -> None:
    """The same on a release before the feature: a skip that names both releases."""
    fake_kernel("ksm_rmap_items 0\n")
    verdict = resolve(FEATURES["ksm_zero_pages"], X86, EVERYTHING, "6.1.176")
    assert (verdict.run, verdict.fail) == (False, False)
    assert verdict.reason == "ksm_zero_pages came with 6.6; this is 6.1.176"


def test_a_backport_runs(fake_kernel: FakeKernel) -> None:
    """What the probe finds runs, whatever the release."""
    fake_kernel("ksm_zero_pages 0\n")
    assert resolve(FEATURES["ksm_zero_pages"], X86, EVERYTHING, "5.10.0").run


def test_what_not_every_processor_has_skips() -> None:
    """The configuration and the release promise it, and the architecture says what it takes."""
    picky = Arch("x86", ("x86_64",), processor={"pkeys": "PKU"})
    missing = replace(FEATURES["pkeys"], probe=lambda: False)
    verdict = resolve(missing, picky, EVERYTHING, "7.2.13")
    assert (verdict.run, verdict.fail) == (False, False)
    assert verdict.reason == "x86: pkeys needs a processor with PKU"
    assert resolve(missing, X86, EVERYTHING, "7.2.13").fail


def run_pytest(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run tests in a directory of their own with the plugins of this checkout."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null"),
            *("-p", "plugins.requirements", "-rA", str(directory), *arguments),
        ],
        cwd=directory,
        env={"PYTHONPATH": f"{ROOT}:{directory}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def lacking(tmp_path: Path) -> Path:
    """A test that needs what a made-up architecture never has, and that architecture's plugin."""
    (tmp_path / "made_up.py").write_text(
        "import platform\n"
        "from arch import Arch\n"
        "def pytest_ksmtests_architectures():\n"
        "    never = {'thp': 'its pages are hexagonal'}\n"
        "    return [Arch('hexagon', (platform.machine(),), never)]\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.needs('thp')\ndef test_huge(): pass\n"
    )
    return tmp_path


def test_a_plugin_brings_an_architecture(lacking: Path) -> None:
    """One small file outside the checkout is enough, and its reason is the skip's."""
    run = run_pytest(lacking, "-p", "made_up")
    assert "kernel: " in run.stdout
    assert ", hexagon, " in run.stdout
    assert "hexagon: its pages are hexagonal" in run.stdout
    assert "1 skipped" in run.stdout
    assert run.returncode == 0


@pytest.mark.parametrize("required", ["thp", "all"])
def test_what_is_required_fails_instead_of_being_skipped(required: str, lacking: Path) -> None:
    """--require turns the skip into a failure, with the skip's reason."""
    run = run_pytest(lacking, "-p", "made_up", "--require", required)
    assert "required, but hexagon: its pages are hexagonal" in run.stdout
    assert run.returncode == 1


@pytest.fixture
def old_kernel(tmp_path: Path) -> Path:
    """A test that needs ksm_zero_pages, and a plugin that makes the kernel a 6.1 without it."""
    (tmp_path / "old_kernel.py").write_text(
        "import platform\n"
        "from pathlib import Path\n"
        "import kconfig.configuration\n"
        "from uapi import ksm\n"
        "platform.release = lambda: '6.1.176'\n"
        "kconfig.configuration.find = lambda: None\n"
        "ksm.Ksm.default_root = Path(__file__).parent / 'no_such_files'\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.needs('ksm_zero_pages')\ndef test_zeros(): pass\n"
    )
    return tmp_path


def test_an_old_kernel_skips_the_test_with_both_releases(old_kernel: Path) -> None:
    """What the feature came with and what this is."""
    run = run_pytest(old_kernel, "-p", "old_kernel")
    assert "ksm_zero_pages came with 6.6; this is 6.1.176" in run.stdout
    assert "1 skipped" in run.stdout


def test_what_is_required_of_an_old_kernel_fails(old_kernel: Path) -> None:
    """However good the reason for the skip."""
    run = run_pytest(old_kernel, "-p", "old_kernel", "--require", "ksm_zero_pages")
    assert "required, but ksm_zero_pages came with 6.6; this is 6.1.176" in run.stdout
    assert run.returncode == 1


def test_requiring_something_else_still_skips(lacking: Path) -> None:
    """Only what is named is required."""
    run = run_pytest(lacking, "-p", "made_up", "--require", "ksm")
    assert "1 skipped" in run.stdout


def test_unknown_features_are_refused_with_the_known_ones(lacking: Path) -> None:
    """A misspelt option runs nothing and says what there is."""
    run = run_pytest(lacking, "--require", "ksm_zero_page")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ksm_zero_page: no such feature" in run.stderr
    assert "ksm_zero_pages" in run.stderr


def test_the_table_of_features_names_each_with_its_reason(lacking: Path) -> None:
    """--features prints every feature and runs no test."""
    run = run_pytest(lacking, "-p", "made_up", "--features")
    assert run.returncode == 0
    rows = {line.split()[0]: line for line in run.stdout.splitlines()[1:]}
    assert set(rows) == set(FEATURES)
    assert rows["thp"].endswith("no       hexagon: its pages are hexagonal")
    assert "test_huge" not in run.stdout
