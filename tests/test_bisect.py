# SPDX-License-Identifier: GPL-2.0
"""`python -m guests bisect`: git finds the commit, by steps that say 0, 1 or 125.

The tree's kernels are texts that a made-up make copies and a made-up pytest reads.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from guests import needs
from guests.__main__ import main
from guests.bisect import ABORT, BAD, GOOD, UNKNOWN, on_kernel, outcomes, verdict
from tests.made_up_records import outcome, run, written
from tests.test_kernels import ROOT

TEST = "ksmtests/test_a.py::test_it"
IMAGE = "arch/x86/boot/bzImage"
MAKE = """#!/bin/sh -e
tree=$2
output=${3#O=}
for goal; do :; done
test "$goal" != olddefconfig || exit 0
if grep -q broken "$tree/kernel"; then echo "ksm.c:1: error: no such symbol"; exit 2; fi
mkdir -p "$output/arch/x86/boot"
cp "$tree/kernel" "$output/arch/x86/boot/bzImage"
grep -q CONFIG_WANTED=y "$output/.config"
echo "# an older commit has no such symbol" >"$output/.config.new"
grep -v WANTED "$output/.config" >>"$output/.config.new"
mv "$output/.config.new" "$output/.config"
"""
PYTEST = """
import json, sys
from pathlib import Path

options = dict(word.split("=", 1) for word in sys.argv if word.startswith("--"))
assert sys.argv[-1] == "ksmtests/test_a.py::test_it[a-build]", sys.argv
kernel = Path(options["--kernel"], "arch/x86/boot/bzImage").read_text().strip()
result, release = {
    "good": ("pass", "6.12"),
    "bad": ("fail", "6.12"),
    "unbootable": ("error", ""),
    "without": ("skip", "6.12"),
}[kernel]
test = {"test": "a", "result": result, "kernel_release": release, "reason": ""}
Path(options["--record"]).write_text(json.dumps({"record": 1}) + "\\n" + json.dumps(test) + "\\n")
sys.exit(result in ("fail", "error"))
"""


def result(result: str, **fields: Any) -> dict[str, Any]:
    """What a record says of a test."""
    return {"result": result, "kernel_release": "6.12", "reason": "", **fields}


@pytest.mark.parametrize(
    ("status", "results", "expected"),
    [
        (0, [result("pass")], GOOD),
        (0, [result("xpass")], GOOD),
        (0, [result("pass"), result("skip")], GOOD),
        (1, [result("fail")], BAD),
        (1, [result("error")], BAD),
        (0, [result("xfail")], BAD),
        (1, [result("fail", kernel_release="")], BAD),
        (1, [result("pass"), result("fail")], BAD),
        (1, [result("error", kernel_release="")], UNKNOWN),
        (1, [result("error", kernel_release=""), result("fail")], BAD),
        (0, [result("skip", reason="too cold")], UNKNOWN),
        (0, [], UNKNOWN),
        (4, [], UNKNOWN),
        (5, [], UNKNOWN),
        (2, [result("fail")], ABORT),
        (3, [], ABORT),
        (-9, [], ABORT),
    ],
)
def test_what_a_run_says_of_a_commit(
    status: int, results: Sequence[dict[str, Any]], expected: int
) -> None:
    """A setup that fails may be the bug; a guest that never was ready says nothing of it."""
    assert verdict(status, results)[0] == expected


def test_results_are_those_of_a_record(tmp_path: Path) -> None:
    """As `--record` writes them; none where there is no file."""
    tests = [outcome("test_it", "fail"), outcome("test_more", kernel_release="")]
    record = written(run(*tests), tmp_path / "run.jsonl")
    assert [(one["result"], one["kernel_release"]) for one in outcomes(record)] == [
        *(("fail", "6.12.5"), ("pass", ""))
    ]
    assert outcomes(tmp_path / "gone") == []


@pytest.mark.parametrize(
    ("test", "expected"),
    [("a.py", "a.py"), ("a.py::test_b", "a.py::test_b"), ("a.py::test_b[1]", "a.py::test_b[1-x]")],
)
def test_the_id_with_a_kernel(test: str, expected: str) -> None:
    """Where there are parameters, the kernel is the last of them."""
    assert on_kernel(test, "x") == expected


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, a configured build and a checkout beside it, and what stands for make."""
    made = tmp_path / "bin/make"
    made.parent.mkdir()
    made.write_text(MAKE)
    made.chmod(0o755)
    monkeypatch.setenv("PATH", f"{made.parent}:{os.environ['PATH']}")
    symbols = ("X86_64", "WANTED", *needs.BUILT_IN, *needs.MODULAR, *needs.OF_MACHINE["amd64"])
    build = tmp_path / "build"
    build.mkdir()
    (build / ".config").write_text("".join(f"CONFIG_{symbol}=y\n" for symbol in symbols))
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "pytest.py").write_text(PYTEST)
    git(tmp_path, "init", "--quiet", "tree")
    return tmp_path / "tree"


def git(directory: Path, *words: str) -> str:
    """What git says."""
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(directory), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(tree: Path, *kernels: str) -> list[str]:
    """Commits with these kernels; their names."""
    names = []
    for number, kernel in enumerate(kernels):
        (tree / "kernel").write_text(f"{kernel}\n")
        (tree / "number").write_text(f"{number}\n")
        git(tree, "add", ".")
        git(tree, "commit", "--quiet", "--message", f"{number}: {kernel}")
        names.append(git(tree, "rev-parse", "HEAD"))
    return names


def bisect(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    build, checkout = tree.with_name("build"), tree.with_name("checkout")
    command = [sys.executable, "-m", "guests", "--checkout", str(checkout), "bisect"]
    command += [f"--tree={tree}", f"--build={build}", f"--test={TEST}[a]", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_commit_is_found(tree: Path) -> None:
    """Past those that do not build, boot or have the test."""
    names = commit(tree, *("good", "broken", "good", "bad", "unbootable", "bad", "without", "bad"))
    done = bisect(tree, f"--good={names[0]}", "--run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{names[3]} is the first bad commit" in done.stdout


def test_commits_that_cannot_be_judged_are_named(tree: Path) -> None:
    """Any of them may be the first."""
    names = commit(tree, "good", "broken", "unbootable", "without", "bad")
    done = bisect(tree, f"--good={names[0]}", "--run")
    assert "The first bad commit could be any of:" in done.stdout
    assert set(names[1:]) <= set(done.stdout.split())
    for why in ("ksm.c:1: error: no such symbol", "not booted: ", "skipped: "):
        assert f"bisect: {UNKNOWN}: " in done.stdout
        assert why in done.stdout


def test_what_is_printed_can_be_run(tree: Path) -> None:
    """In a shell, from anywhere."""
    names = commit(tree, "good", "good", "bad", "bad")
    recipe = bisect(tree, f"--good={names[0]}").stdout
    assert git(tree, "rev-parse", "HEAD") == names[3]
    command = ["sh", "-ec", recipe]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert f"{names[2]} is the first bad commit" in done.stdout, done.stdout + done.stderr


def test_each_commit_has_the_whole_configuration(tree: Path) -> None:
    """What an older one drops is there again: the made-up make wants it, and drops it."""
    names = commit(tree, "good", "good", "good", "good", "bad")
    done = bisect(tree, f"--good={names[0]}", "--run")
    assert f"{names[4]} is the first bad commit" in done.stdout
    assert "failed:" not in done.stdout


def test_without_a_configuration_there_is_nothing_to_build(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The directory is named."""
    words = ["bisect", "--tree", str(tree), "--good=HEAD", f"--test={TEST}"]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"{tree} has no .config")


def test_a_good_commit_that_is_none_is_git_s_to_tell(tree: Path) -> None:
    """Nothing is built."""
    commit(tree, "good", "bad")
    done = bisect(tree, "--good=nowhere", "--run")
    assert done.returncode != 0
    assert "nowhere" in done.stderr
    assert not (tree.with_name("build") / IMAGE).exists()
