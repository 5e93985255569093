# SPDX-License-Identifier: GPL-2.0
"""Hooks that other pytest plugins may implement."""

from arch import Arch


def pytest_ksmtests_architectures() -> list[Arch]:
    """Architectures that `arch/` does not know, or knows wrongly: they are looked at first.

    A plugin is loaded with `-p`, or by an installed package's entry point `pytest11`.
    """
    return []


def pytest_ksmtests_stage(kernel: str, stage: str) -> None:
    """A guest of a kernel, or a board, has come to a stage: a few words for people.

    Called in the process that has the terminal, in any of its threads, and in pytest-xdist's
    worker. An implementation must not raise.
    """
