# SPDX-License-Identifier: GPL-2.0
"""tmt, autopkgtest and LAVA run the suite by its own files, as docs/qa.md has it.

What they run is planted. tmt and autopkgtest install packages of the distribution, as they do
wherever they run on the machine itself.
"""

import fcntl
import json
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from guests.cache import cache_dir, locked
from reports import kselftest
from tests.kernel_tree import kernel_tree
from tests.suite_run import wait_until
from tests.test_kselftest import (
    DISTRIBUTION,
    FAILS,
    HANGS,
    KNOWN,
    PASSES,
    PATH,
    ROOT,
    SKIPS,
    copied,
    install,
    on_this_kernel,
    place,
    plant,
    run,
)

DIES = PASSES + "import os, signal\ndef test_dies(): os.kill(os.getpid(), signal.SIGKILL)\n"

LAVA = """
import json, sys, yaml
from lava_common.schemas.test.testdef import validate
with open(sys.argv[1]) as file:
    definition = yaml.safe_load(file)
validate(definition)
json.dump(definition, sys.stdout)
"""
# What LAVA puts into PATH of the machine under test.
DPKG_LOCK = Path("/var/lib/dpkg/lock-frontend")
LAVA_TEST_CASE = '#!/bin/sh\necho "$@" >>"$CALLS"\n'


def has(python: str, *modules: str) -> bool:
    """Whether a Python has all of these."""
    return run(python, "-c", f"import {', '.join(modules)}").returncode == 0


def command(name: str) -> pytest.MarkDecorator:
    """Skip a test where a command is not installed."""
    found = shutil.which(name, path=PATH)
    return pytest.mark.skipif(found is None, reason=f"{name} is not installed")


@pytest.fixture
def packages() -> Iterator[None]:
    """Nobody else installs packages, of tests for as long as this one runs: dpkg does not wait."""
    with locked(cache_dir() / "packages.lock"):
        wait_until(lambda: not _is_locked(DPKG_LOCK), f"others to be done with {DPKG_LOCK}")
        yield


def _is_locked(file: Path) -> bool:
    with file.open("r+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The suite, with what the systems find it by, and nothing planted in it."""
    copy = place(tmp_path / "suite")
    for left_out in (".fmf", "debian"):
        shutil.copytree(ROOT / left_out, copy / left_out, dirs_exist_ok=True)
    return copy


@pytest.mark.skipif(
    not has(DISTRIBUTION, *kselftest.PACKAGES),
    reason=f"{DISTRIBUTION} lacks {', '.join(name for name, _ in kselftest.PACKAGES.values())}",
)
def test_the_distribution_s_pytest_collects_the_suite() -> None:
    """The oldest that will do may lack what newer ones have."""
    pytest_of_it = (DISTRIBUTION, "-m", "pytest", "--rootdir", ROOT, "-c", ROOT / "pyproject.toml")
    done = run(*pytest_of_it, "-q", "--collect-only", ROOT / "ksmtests")
    assert done.returncode == 0, done.stdout


@pytest.mark.qa
@command("tmt")
def test_tmt_has_no_complaint() -> None:
    """Of the test and the plan."""
    done = run("tmt", "--root", ROOT, "lint")
    assert done.returncode == 0, done.stdout
    assert "fail " not in done.stdout
    assert "warn " not in done.stdout


@pytest.mark.qa
@pytest.mark.network
@on_this_kernel
@command("tmt")
@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("module", "arguments", "total"),
    [
        (FAILS, "", "total: 1 test passed and 2 tests failed"),
        (KNOWN, "", "total: 2 tests passed and 1 info"),
        (SKIPS, "", "total: 2 tests skipped"),
        (PASSES, "--nonsense", "total: 1 error"),
        (HANGS, "-n 0", "total: 1 test passed and 2 tests failed"),
    ],
    ids=["fails", "known bug", "skips", "usage", "hangs"],
)
def test_tmt_has_a_result_of_each_test(
    suite: Path, tmp_path: Path, module: str, arguments: str, total: str
) -> None:
    """And one of the run as a whole."""
    plant(suite, module)
    if module == HANGS:
        definition = suite / "ksm.fmf"
        definition.write_text(definition.read_text().replace("timeout 19m", "timeout 20"))
    options = ("--feeling-safe", "--root", suite, "run", "--id", tmp_path / "run", "--all")
    told = ("--environment", f'KSM_SH_ARGS="{arguments}"')
    done = run("tmt", *options, *told, "provision", "--how", "local")
    assert done.stdout.rstrip().endswith(total), done.stdout


@pytest.mark.qa
@pytest.mark.network
@on_this_kernel
@command("autopkgtest")
@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("module", "result", "status"),
    [
        (PASSES, "PASS", 0),
        (FAILS, "FAIL non-zero exit status 1", 4),
        (SKIPS, "SKIP exit status 77 and marked as skippable", 8),
    ],
    ids=["passes", "fails", "skips"],
)
def test_autopkgtest_has_the_result(suite: Path, module: str, result: str, status: int) -> None:
    """Of the run as a whole; it has none of tests."""
    plant(suite, module)
    done = run("autopkgtest", "--no-built-binaries", suite, "--", "null")
    assert done.stdout.splitlines()[-1].split(maxsplit=1) == ["ksm", result], done.stdout
    assert done.returncode == status


@pytest.fixture(scope="module")
def steps() -> Sequence[str]:
    """What LAVA's definition runs; LAVA's schema takes it."""
    if not has(DISTRIBUTION, "lava_common", "yaml"):
        pytest.skip("lava-common is not installed")
    done = run(DISTRIBUTION, "-c", LAVA, ROOT / "lava/ksm.yaml")
    assert done.returncode == 0, done.stdout
    found: list[str] = json.loads(done.stdout)["run"]["steps"]
    return found


@pytest.mark.qa
@on_this_kernel
@pytest.mark.parametrize(
    ("module", "arguments", "cases"),
    [
        (FAILS, "", ["ksm fail", "test_fails fail", "test_passes pass"]),
        (KNOWN, "", ["ksm pass", "test_known pass", "test_passes pass"]),
        (SKIPS, "", ["ksm skip", "test_skipped skip"]),
        (PASSES, "--nonsense", ["ksm fail"]),
        (PASSES, "nowhere.py", ["ksm fail"]),
        (HANGS, "-n 0", ["ksm fail", "test_hangs fail", "test_passes pass"]),
        (DIES, "-n 0", ["ksm fail", "test_passes pass"]),
    ],
    ids=["fails", "known bug", "skips", "usage", "no file", "hangs", "killed"],
)
def test_lava_has_a_result_of_each_test(
    suite: Path, tmp_path: Path, steps: Sequence[str], module: str, arguments: str, cases: list[str]
) -> None:
    """Run as LAVA does, one shell that ends at the first failure."""
    plant(suite, module)
    told = tmp_path / "bin/lava-test-case"
    told.parent.mkdir()
    told.write_text(LAVA_TEST_CASE)
    told.chmod(0o755)
    limit = 20 if module == HANGS else 300  # s
    parameters = (f"KSM_SH_ARGS='{arguments}'", f"KSM_TIMEOUT={limit}")
    script = "\n".join(["set -e", f'cd "{suite}"', *parameters, *steps])
    done = run("sh", "-c", script, PATH=f"{told.parent}:{PATH}", CALLS=str(tmp_path / "calls"))
    assert done.returncode == 0, done.stdout
    found = (tmp_path / "calls").read_text().replace(" --result", "").splitlines()
    assert sorted(line.removeprefix("ksmtests.test_planted.") for line in found) == sorted(cases)


# docs/qa.md

# What its commands select, and its known issue.
SELECTED = """
import pytest
pytestmark = [pytest.mark.settings, pytest.mark.zero_pages]
def test_profit_counts_merged_pages(): pass
"""


BLOCK = re.compile(r"^```sh\n((?:.*\n)*?)```$|((?:^ {4}.*\n)+)", re.MULTILINE)


def examples() -> dict[str, list[str]]:
    """The blocks of each section, by its title; all end in one of commands."""
    _, *sections = re.split("^## ", (ROOT / "docs/qa.md").read_text(), flags=re.MULTILINE)
    found = {}
    for section in sections:
        title = section.partition("\n")[0]
        assert section.rstrip().endswith("```"), f"{title} ends in a command"
        found[title] = [
            textwrap.dedent(fenced or indented) for fenced, indented in BLOCK.findall(section)
        ]
    return found


@pytest.mark.qa
@pytest.mark.network
@on_this_kernel
@pytest.mark.usefixtures("packages")
def test_the_manual_s_commands_run(suite: Path, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Those that sections end in, one after the other, as some take what others made."""
    tree = shutil.copytree(kernel_tree(), tmp_path / "linux", symlinks=True)
    for checkout in (suite, copied(tree)):
        plant(checkout, PASSES)
        (checkout / "ksmtests/test_profit.py").write_text(SELECTED)
    installed = install(tree)
    (suite / "linux").symlink_to(tree)
    (suite / "known.toml").write_text(examples()["Known issues"][0])
    for title, blocks in examples().items():
        if "pytest -m qa" in blocks[-1]:
            continue  # runs other tests of this kind
        where = installed if "run_kselftest.sh" in blocks[-1] else suite
        with subtests.test(title):
            done = run("bash", "-ec", f"set -o pipefail; cd {where}; {blocks[-1]}")
            assert done.returncode == 0, done.stdout
            assert not re.search("not ok|# SKIP", done.stdout), done.stdout
