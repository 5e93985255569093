# SPDX-License-Identifier: GPL-2.0
"""The suite in a kernel tree: kselftest's own makefiles and scripts install and run it.

What is run is planted, but for one run of everything on this kernel.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree as ET

import pytest

from plugins.requirements import why_not_here
from tests.kernel_tree import SELFTESTS, kernel_tree
from tests.ktap_reader import Level, read
from tests.userspace import PLACE, userspace

ROOT = Path(__file__).parent.parent
NOT_PLACED = shutil.ignore_patterns(".*", "__pycache__", "tests", "bench", "docs")
PROGRAM = "selftests: ksm: ksm.sh"
DEADLINE = 600  # s; the whole suite takes ten, beside other runs many times that

Test = TypeVar("Test", bound=Callable[..., Any])

DISTRIBUTION = "/usr/bin/python3"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # its python3 is the one of this run

on_this_kernel = pytest.mark.skipif(why_not_here() is not None, reason=str(why_not_here()))


def in_a_tree(test: Test) -> Test:
    """Mark a test that runs kselftest's own scripts: they take a while, and are fetched."""
    marked: Test = pytest.mark.qa(pytest.mark.network(test))
    return marked


PASSES = "def test_passes(): pass\n"
FAILS = PASSES + "def test_fails(): assert False\n"
SKIPS = "import pytest\n@pytest.mark.skip(reason='too cold')\ndef test_skipped(): pass\n"
KNOWN = PASSES + (
    "import pytest\n@pytest.mark.upstream_bug('it forgets')\ndef test_known(): assert False\n"
)
HANGS = PASSES + "import time\ndef test_hangs(): time.sleep(100)\n"


def run(*command: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command; its python3 is the one that runs this, unless another PATH is given."""
    foreign = ("PYTEST_", "MAKE", "MFLAGS", "KSELFTEST")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return subprocess.run(
        command,
        env={**kept, "PATH": PATH, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def place(target: Path) -> Path:
    """Copy the suite."""
    return shutil.copytree(ROOT, target, symlinks=True, ignore=NOT_PLACED)


def plant(suite: Path, module: str) -> None:
    """Have the suite consist of one module."""
    for old in (suite / "ksmtests").glob("test_*.py"):
        old.unlink()
    (suite / "ksmtests/test_planted.py").write_text(module)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A kernel tree without the suite."""
    return shutil.copytree(kernel_tree(), tmp_path / "linux", symlinks=True)


def copied(tree: Path) -> Path:
    """The suite in the tree."""
    return place(tree / SELFTESTS / "ksm")


def linked(tree: Path) -> Path:
    """The suite elsewhere, and a link to it in the tree."""
    suite = place(tree.parent / "checkout")
    (tree / SELFTESTS / "ksm").symlink_to(suite)
    return suite


PLACED = pytest.mark.parametrize("placed", [copied, linked])


def make(tree: Path, *arguments: str, **environment: str) -> str:
    """`make -C tools/testing/selftests TARGETS=ksm`; returns what it prints."""
    done = run("make", "-C", tree / SELFTESTS, "TARGETS=ksm", *arguments, **environment)
    assert done.returncode == 0, done.stdout
    return done.stdout


def install(tree: Path) -> Path:
    """Install the suite; returns where."""
    make(tree, "install", "FORCE_TARGETS=1")
    return tree / SELFTESTS / "kselftest_install"


def run_installed(
    place: Path, *options: str, arguments: str = "", **environment: str
) -> "subprocess.CompletedProcess[str]":
    """`run_kselftest.sh -c ksm`, with arguments for pytest."""
    runner = place / "run_kselftest.sh"
    return run(runner, "-c", "ksm", *options, KSELFTEST_KSM_SH_ARGS=arguments, **environment)


def inner(text: str) -> Level:
    """The KTAP the suite printed, as the runner shows it."""
    lines = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    begin = lines.index("KTAP version 1")
    # What was written to stderr stands among it.
    return read("\n".join(line for line in lines[begin:] if _is_ktap(line)))


def _is_ktap(line: str) -> bool:
    return bool(re.match(r" *(#|KTAP version|1\.\.|ok |not ok )", line))


# Running


@in_a_tree
@on_this_kernel
@PLACED
@pytest.mark.parametrize(
    ("module", "result", "totals", "tests"),
    [
        (PASSES, f"ok 1 {PROGRAM}", "pass:1 fail:0 xfail:0 xpass:0 skip:0", {"ok test_passes"}),
        (
            FAILS,
            f"not ok 1 {PROGRAM} # exit=1",
            "pass:0 fail:1 xfail:0 xpass:0 skip:0",
            {"ok test_passes", "not ok test_fails"},
        ),
        (
            SKIPS,
            f"ok 1 {PROGRAM} # SKIP",
            "pass:0 fail:0 xfail:0 xpass:0 skip:1",
            {"ok test_skipped # SKIP too cold"},
        ),
        (
            KNOWN,
            f"ok 1 {PROGRAM}",
            "pass:1 fail:0 xfail:0 xpass:0 skip:0",
            {"ok test_passes", "ok test_known # XFAIL known upstream bug: it forgets"},
        ),
    ],
    ids=["passes", "fails", "skips", "known bug"],
)
def test_runner_reads_the_end_of_a_run(
    tree: Path,
    placed: Callable[[Path], Path],
    module: str,
    result: str,
    totals: str,
    tests: set[str],
) -> None:
    """Run where it lies and installed, the runner's line, its sums and the tests below agree."""
    plant(placed(tree), module)
    text = make(tree, "run_tests")
    assert f"\n{result}\n" in text
    assert "# timeout set to 900\n" in text, "the settings are found"
    assert set(inner(text).tests()) == tests
    done = run_installed(install(tree))
    assert f"\n{result}\n" in done.stdout
    assert f"\n# Totals: {totals} error:0\n" in done.stdout
    assert set(inner(done.stdout).tests()) == tests
    assert done.returncode == ("fail:1" in totals)


@in_a_tree
@on_this_kernel
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--nonsense", "not ok 1 pytest # ERROR exit status 4"),
        ("-k nothing_is_called_so", "1..0"),
        ("nowhere.py", "1..0"),
        ("-n 0 nowhere.py", "1..0"),
    ],
)
def test_an_error_of_usage_fails(tree: Path, arguments: str, line: str) -> None:
    """pytest's 4 would be a skip to the runner, and its 5 is no pass."""
    plant(copied(tree), PASSES)
    done = run_installed(install(tree), arguments=arguments)
    assert f"\n# {line}\n" in done.stdout
    assert f"\nnot ok 1 {PROGRAM} # exit=1\n" in done.stdout
    assert done.returncode == 1


@on_this_kernel
@pytest.mark.parametrize(
    ("option", "line"),
    [("--help", "usage: .*"), ("--version", "pytest .*"), ("--features", "thp .*")],
)
def test_a_question_is_answered(option: str, line: str) -> None:
    """It is no run, and no error."""
    done = run(ROOT / "ksm.sh", option)
    assert re.search(f"^{line}", done.stdout, re.MULTILINE), done.stdout
    assert not re.search("^(KTAP|not ok)", done.stdout, re.MULTILINE)
    assert done.returncode == 0


@in_a_tree
@on_this_kernel
def test_a_run_that_takes_too_long_says_what_was_running(tree: Path) -> None:
    """The runner's limit ends it, and every planned test has its line nevertheless."""
    plant(copied(tree), HANGS)
    done = run_installed(install(tree), "-o", "15", arguments="-n 1")
    assert f"\nnot ok 1 {PROGRAM} # TIMEOUT 15 seconds\n" in done.stdout
    tests = sorted(inner(done.stdout).tests())
    assert tests[0].startswith("not ok test_hangs # ")
    assert tests[1] == "ok test_passes"


@in_a_tree
@on_this_kernel
def test_the_whole_suite_as_kselftest_runs_it(tree: Path, tmp_path: Path) -> None:
    """The runner's result, the suite's lines and pytest's own counts agree."""
    copied(tree)
    junit = tmp_path / "junit.xml"
    done = run_installed(install(tree), arguments=f"--junitxml={junit}")
    assert_counts_agree(done.stdout, junit)


@in_a_tree
@on_this_kernel
@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed")
@pytest.mark.parametrize("suite", ["bookworm", "sid"])
def test_the_whole_suite_in_the_userspace_of_debian(tree: Path, tmp_path: Path, suite: str) -> None:
    """With the oldest Python and pytest that will do, and the newest; the root is read-only.

    Its record is converted there, too.
    """
    copied(tree)
    install(tree).rename(tmp_path / "kselftest")
    options = f"--junitxml={PLACE}/junit.xml --record={PLACE}/run.jsonl"
    convert = f"cd {PLACE}/kselftest/ksm && python3 -m reports $0 {PLACE}/run.jsonl"
    with userspace(suite, tmp_path) as inside:
        runner = (f"{PLACE}/kselftest/run_kselftest.sh", "-c", "ksm")
        done = run(*inside, *runner, KSELFTEST_KSM_SH_ARGS=options)
        converted = [run(*inside, "sh", "-c", convert, to) for to in ("lava", "tmt", "kcidb")]
    assert_counts_agree(done.stdout, tmp_path / "junit.xml")
    assert not re.findall(r"^.*\bnot ok .*", done.stdout, re.MULTILINE), done.stdout
    assert [one.returncode for one in converted] == [0, 0, 0], converted


def assert_counts_agree(text: str, junit: Path) -> None:
    """What the runner printed of the whole suite is what pytest counted."""
    (counts,) = ET.fromstring(junit.read_text())  # noqa: S314
    tests = list(inner(text).tests())
    assert len(tests) == len(counts.findall("testcase"))
    failed = int(counts.attrib["failures"]) + int(counts.attrib["errors"])
    assert sum(line.startswith("not ok") for line in tests) == failed
    left_out = [line for line in tests if "# SKIP" in line or "# XFAIL" in line]
    assert len(left_out) == int(counts.attrib["skipped"])
    assert f"\n{'not ok' if failed else 'ok'} 1 {PROGRAM}" in text


# Building


@in_a_tree
@PLACED
def test_installation_has_what_a_run_needs(tree: Path, placed: Callable[[Path], Path]) -> None:
    """Also from a build directory of its own, and in an archive; the source stays as it was.

    `clean` has it so again after it was run.
    """
    suite = placed(tree)
    before = sorted(suite.rglob("*"))
    build = tree.parent / "build"
    make(tree, f"O={build}", "gen_tar")
    installed = build / "kselftest/kselftest_install/ksm"
    assert os.access(installed / "ksm.sh", os.X_OK)
    assert (installed / "settings").read_text() == (ROOT / "settings").read_text()
    assert (installed / "config").read_text() == (ROOT / "kconfig/config").read_text()
    for room in ("conftest.py", "pyproject.toml", "ksmtests/conftest.py", "guests/kernels.toml"):
        assert (installed / room).read_text() == (ROOT / room).read_text()
    with tarfile.open(installed.parent / "kselftest-packages/kselftest.tar.gz") as tar:
        names = tar.getnames()
    assert {"./ksm/ksm.sh", "./ksm/uapi/_libc.py", "./run_kselftest.sh"} <= set(names)
    assert (installed.parent / "kselftest-list.txt").read_text() == "ksm:ksm.sh\n"
    assert sorted(suite.rglob("*")) == before
    for room in (".", "uapi", "ksmtests/perf"):
        (suite / room / "__pycache__").mkdir()
    make(tree, f"O={build}", "clean")
    assert sorted(suite.rglob("*")) == before


@in_a_tree
@on_this_kernel
def test_installation_can_be_read_only(tree: Path) -> None:
    """Nothing is compiled or written where the suite lies."""
    plant(copied(tree), PASSES)
    place = install(tree)
    before = {path for path in place.rglob("*") if "__pycache__" not in path.parts}
    mounted = tree.parent / "installed"
    mounted.mkdir()
    done = run(
        *("unshare", "--mount", "sh", "-c"),
        f"mount --bind {place} {mounted} && mount -o remount,bind,ro {mounted} && "
        f"exec {mounted}/run_kselftest.sh -c ksm",
    )
    assert f"\nok 1 {PROGRAM}\n" in done.stdout
    assert {path for path in place.rglob("*") if "__pycache__" not in path.parts} == before


@in_a_tree
def test_kselftest_merge_finds_the_fragments(tree: Path) -> None:
    """`make kselftest-merge` looks for files by these names, and takes no other of ours for one."""
    copied(tree)
    found = run("find", tree / SELFTESTS / "ksm", "-name", "config", "-o", "-name", "config.x86_64")
    assert {Path(path).resolve().parent.name for path in found.stdout.split()} == {"kconfig"}
    base = tree.parent / ".config"
    base.write_text("# CONFIG_KSM is not set\n")
    script = tree / "scripts/kconfig/merge_config.sh"
    done = run(
        "sh",
        "-c",
        f"cd {tree.parent} && {script} -y -m .config {found.stdout.replace(chr(10), ' ')}",
    )
    assert done.returncode == 0, done.stdout
    merged = base.read_text().splitlines()
    for fragment in ("config", "config.x86_64"):
        for line in (ROOT / "kconfig" / fragment).read_text().splitlines():
            assert not line.startswith("CONFIG_") or line in merged


def test_the_fragment_is_the_one_of_kconfig() -> None:
    """kselftest installs a file `config`, and people look for it there."""
    assert (ROOT / "config").readlink() == Path("kconfig/config")


def test_makefile_names_every_room() -> None:
    """A package forgotten is found missing on the machine under test."""
    files = re.search(r"TEST_FILES := ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text())
    assert files
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {
        "tests",
        "bench",
        "mutants",
    }
    assert set(files[1].replace("\\\n", " ").split()) == {"conftest.py", "pyproject.toml", *rooms}
