# SPDX-License-Identifier: GPL-2.0
"""Which commit of a kernel's tree made a test fail: what `git bisect` has to be told.

A step builds what is checked out, boots it and runs one test by its node id. git-bisect(1) takes
the exit status: 0 for a good commit, 1 for a bad one, 125 for one that cannot be judged, and ends
for what is above 127.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guests.catalogue import CatalogueError
from guests.local import find

GOOD, BAD, UNKNOWN, ABORT = 0, 1, 125, 255
# pytest's exit statuses (pytest.ExitCode).
PASSED, FAILED, USAGE_ERROR, NOTHING_COLLECTED = 0, 1, 4, 5
LOG = "bisect.log"  # of make, in the directory of the build
CONFIG = "bisect.config"  # there, too
TAIL = 20  # lines

Verdict = tuple[int, str]
Say = Callable[[str], object]


class BisectError(Exception):
    """There is nothing to bisect with; the message says what is missing."""


class BuildError(Exception):
    """A commit does not build; the message has the end of what make said."""


@dataclass(frozen=True)
class Step:
    """What is done with each commit."""

    test: str  # a node id without a kernel
    tree: Path  # git's work tree
    build: Path  # what make builds in, O=; it may be the tree
    config: Path  # of the kernel
    checkout: Path  # of this suite
    arguments: Sequence[str] = ()  # more for pytest

    def run(self, say: Say) -> Verdict:
        """Build, boot and test what is checked out."""
        try:
            self._make()
            kernel = find(self.build)
        except (BuildError, CatalogueError) as error:
            return UNKNOWN, str(error)
        with tempfile.TemporaryDirectory() as directory:
            record = Path(directory, "run.jsonl")
            command = [
                *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--record={record}"),
                *(f"--kernel={self.build}", *self.arguments, on_kernel(self.test, kernel.name)),
            ]
            say(shlex.join(command))
            status = subprocess.run(command, cwd=self.checkout, check=False).returncode
            return verdict(status, outcomes(record))

    def _make(self) -> None:
        """Build it. Raises BuildError.

        Each commit begins with the same configuration: an older one would drop symbols for good.
        """
        shutil.copyfile(self.config, self.build / ".config")
        make = ["make", "-C", str(self.tree)]
        if self.build != self.tree:
            make.append(f"O={self.build}")
        log = self.build / LOG
        for goals in (["olddefconfig"], [f"-j{os.cpu_count() or 1}"]):
            with log.open("wb") as out:
                done = subprocess.run(
                    [*make, *goals], stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False
                )
            if done.returncode:
                tail = log.read_text("utf-8", errors="replace").splitlines()[-TAIL:]
                raise BuildError("\n".join([f"`{shlex.join([*make, *goals])}` failed:", *tail]))


def on_kernel(test: str, name: str) -> str:
    """A node id as it is with a dimension of kernels; parameters have it last."""
    return f"{test[:-1]}-{name}]" if test.endswith("]") else test


def outcomes(record: Path) -> list[Mapping[str, Any]]:
    """The results in a record, none where pytest did not come to write one."""
    if not record.exists():
        return []
    lines = map(json.loads, record.read_text("utf-8").splitlines())
    return [line for line in lines if "test" in line]


def verdict(status: int, results: Sequence[Mapping[str, Any]]) -> Verdict:
    """What a run of the test says of the commit, and why.

    A failure that was expected is one: the question is when the test began to fail. An error
    without a kernel's release comes of a guest that never was ready, one in setup may be the bug.
    """
    if status in {USAGE_ERROR, NOTHING_COLLECTED}:
        return UNKNOWN, f"there is no such test: pytest's exit status is {status}"
    if status not in {PASSED, FAILED}:
        return ABORT, f"pytest's exit status is {status}"
    judged = [one for one in results if one["result"] != "skip"]
    if not judged:
        return UNKNOWN, f"skipped: {results[0]['reason']}" if results else "no test was run"
    not_ready = [one for one in judged if one["result"] == "error" and not one["kernel_release"]]
    failed = [one for one in judged if one["result"] in {"fail", "error", "xfail"}]
    if len(failed) > len(not_ready):
        return BAD, "the test fails"
    if not_ready:
        return UNKNOWN, f"not booted: {not_ready[0]['reason']}"
    return GOOD, "the test passes"


def prepared(build: Path) -> Path:
    """The configuration that all commits are built with. Raises BisectError."""
    config = build / ".config"
    if not config.is_file():
        raise BisectError(f"{build} has no .config: configure the kernel there first")
    shutil.copyfile(config, build / CONFIG)
    return build / CONFIG


def recipe(step: Step, good: str, bad: str) -> list[list[str]]:
    """The commands of git that find the commit."""
    git = ["git", "-C", str(step.tree), "bisect"]
    again = [
        *("env", f"PYTHONPATH={Path(__file__).resolve().parent.parent}"),
        *(sys.executable, "-P", "-m", "guests", "--checkout", str(step.checkout), "bisect-step"),
        *("--tree", str(step.tree), "--build", str(step.build), "--config", str(step.config)),
        *("--test", step.test, "--", *step.arguments),
    ]
    return [[*git, "start", bad, good, "--"], [*git, "run", *again]]


def search(commands: Sequence[Sequence[str]]) -> int:
    """Run the recipe; returns the exit status of the command that failed, or 0."""
    for command in commands:
        status = subprocess.run(command, check=False).returncode
        if status:
            return status
    return 0
