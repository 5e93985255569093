# SPDX-License-Identifier: GPL-2.0
"""The data in `arch/`: against the machine the tests run on, and what is written about it."""

from pathlib import Path

import pytest

import arch
from plugins.features import FEATURES
from tests.architecture_table import PAGE, page
from uapi import numa
from uapi.libc import PAGE_SIZE
from uapi.thp import Thp

KNOWN = arch.architectures()


def test_page_is_what_the_data_say() -> None:
    """`python -m tests.architecture_table` would change nothing."""
    assert page() == PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("architecture", KNOWN, ids=lambda each: each.name)
def test_features_of_an_architecture_exist(architecture: arch.Arch) -> None:
    """None is misspelt, and none is both impossible and dependent on the processor."""
    assert FEATURES.keys() >= architecture.never.keys() | architecture.processor.keys()
    assert not architecture.never.keys() & architecture.processor.keys()


def test_this_machine_has_the_sizes_of_its_architecture() -> None:
    """Pages, and huge pages where there are any."""
    sizes = arch.current().huge_pages[PAGE_SIZE // 1024]
    assert not Thp().has("hpage_pmd_size") or Thp().hpage_pmd_size // 1024 in sizes


@pytest.mark.parametrize(
    ("text", "nodes"),
    [("0\n", [0]), ("0-1\n", [0, 1]), ("0,2-4,8\n", [0, 2, 3, 4, 8]), ("\n", [])],
)
def test_nodes_with_memory(text: str, nodes: list[int], tmp_path: Path) -> None:
    """As the kernel lists them (lib/vsprintf.c, %*pbl)."""
    (tmp_path / "has_memory").write_text(text)
    assert numa.nodes_with_memory(tmp_path) == nodes


def test_no_nodes_without_numa(tmp_path: Path) -> None:
    """The kernel has no such file."""
    assert numa.nodes_with_memory(tmp_path) == []
