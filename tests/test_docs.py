# SPDX-License-Identifier: GPL-2.0
"""The documentation: its commands work, its links lead somewhere, what it counts is right.

A fenced block `sh` is run here, and must succeed. One of pytest on other kernels (`--kernel`) is
run by `make check-guests`; here its tests are collected, for which options and ids must be right.
Other blocks are marked by a comment in the line before:

    <!-- not run: what it needs -->
    <!-- run by make check-qa -->
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import reference_table
from tests.sabotage import SABOTAGES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:^ *<!-- ([^\n]*) -->\n)?^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
NOT_RUN = "not run: "
BY_QA = "run by make check-qa"
QUICK_S, SLOW_S = 100, 1200


@dataclass(frozen=True)
class Block:
    """A block of commands, and its mark."""

    page: Path
    mark: str
    commands: str

    @property
    def kind(self) -> str:
        """Where it is run: "", quick, guest or qa."""
        if self.mark.startswith(NOT_RUN):
            return ""
        if self.mark:
            return "qa"
        return "guest" if "--kernel" in self.commands else "quick"

    def run(self, directory: Path, options: str, timeout_s: float) -> int:
        """Run it in a directory; its exit status."""
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTEST_ADDOPTS": f"-p no:cacheprovider {options}",
        }
        done = subprocess.run(
            ["sh", "-e", "-c", self.commands],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        print(done.stdout, done.stderr)  # noqa: T201 - shown where the test fails
        return done.returncode


BLOCKS = [
    Block(page, mark, commands)
    for page in PAGES
    for mark, commands in BLOCK.findall(page.read_text("utf-8"))
]


def blocks(kind: str) -> pytest.MarkDecorator:
    """Parametrize by the blocks of a kind."""
    chosen = [one for one in BLOCKS if one.kind == kind]
    ids = [f"{one.page.stem}:{one.commands.split('#')[0].strip()[-60:]}" for one in chosen]
    return pytest.mark.parametrize("block", chosen, ids=ids)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory that looks like the checkout; files that are written stay out of that."""
    for path in ROOT.iterdir():
        if not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


def test_marks_of_blocks_are_known() -> None:
    """A mark with a slip would leave its block out."""
    marks = {block.mark for block in BLOCKS}
    assert not {mark for mark in marks if mark and mark != BY_QA and not mark.startswith(NOT_RUN)}


def test_commands_are_in_blocks() -> None:
    """None is out of sight of these tests."""
    command = re.compile(r"^    (pytest|python|make) .*", re.MULTILINE)
    assert len(BLOCKS) == sum(page.read_text("utf-8").count("```sh\n") for page in PAGES)
    rest = [BLOCK.sub("", page.read_text("utf-8")) for page in PAGES]
    assert not [found[0] for text in rest for found in command.finditer(text)]


@blocks("quick")
def test_quick_commands(block: Block, checkout: Path) -> None:
    """They succeed."""
    assert block.run(checkout, "", QUICK_S) == 0


@blocks("guest")
def test_tests_on_other_kernels_are_there(block: Block, checkout: Path) -> None:
    """Options and ids are right."""
    assert block.run(checkout, "--collect-only -q", QUICK_S) == 0


@pytest.mark.guest
@pytest.mark.timeout(SLOW_S)
@blocks("guest")
def test_commands_on_other_kernels(block: Block, checkout: Path) -> None:
    """They run tests, some of which fail on purpose."""
    assert block.run(checkout, "", SLOW_S) in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}


@pytest.mark.qa
@pytest.mark.timeout(SLOW_S)
@pytest.mark.parametrize("page", sorted({one.page for one in BLOCKS if one.kind == "qa"}))
def test_slow_commands(page: Path, checkout: Path) -> None:
    """They succeed, in their order: some read what others wrote."""
    for block in BLOCKS:
        if block.page == page and block.kind == "qa":
            assert block.run(checkout, "", SLOW_S) == 0


def test_the_reference_is_of_this_code() -> None:
    """`python -m tests.reference_table` makes it."""
    assert reference_table.PAGE.read_text("utf-8") == reference_table.page()


def test_readme_counts_the_sabotages() -> None:
    """As many as there are."""
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"one of {len(SABOTAGES)} bugs" in readme


def test_readme_names_every_room() -> None:
    """Each package has a row."""
    readme = (ROOT / "README.md").read_text("utf-8")
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"ksmtests"}
    assert not {room for room in rooms if f"`{room}/`" not in readme}


def test_links_of_the_readme_lead_somewhere() -> None:
    """Those of docs/ are mkdocs's to check."""
    readme = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)|(?:src|srcset)=\"([^\":]+)\"", readme)
    assert links
    assert not [link for link in map("".join, links) if not (ROOT / link).exists()]


def test_the_pages_are_a_site(tmp_path: Path) -> None:
    """mkdocs finds no link that leads nowhere, and no page left out."""
    pytest.importorskip("material", reason="pip install --group docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
