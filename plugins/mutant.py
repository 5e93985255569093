# SPDX-License-Identifier: GPL-2.0
"""`--mutant N`: test a kernel with injected bugs while one of them is selected.

Such a kernel (`python -m mutants build`) has /sys/kernel/mm/ksm_mutant, which selects a bug, and
/sys/kernel/mm/ksm_mutant_hits, which says how often its code was reached. Each report has the
latter as the property `mutant_hits`.
"""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from plugins.kernels import kernels

SELECTED = Path("/sys/kernel/mm/ksm_mutant")
HITS = Path("/sys/kernel/mm/ksm_mutant_hits")
NONE = "0"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    parser.getgroup("kernels").addoption(
        "--mutant",
        type=int,
        metavar="N",
        help="select bug N of a kernel with injected bugs; 0 is none",
    )


def _selects(config: pytest.Config) -> bool:
    """Whether it is this process that has to select a bug of this kernel."""
    return (
        config.option.mutant is not None
        and not hasattr(config, "workerinput")
        and kernels(config).here
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Select the bug. Raises UsageError where the kernel has none."""
    if _selects(session.config):
        if not SELECTED.exists():
            raise pytest.UsageError(
                f"--mutant: this kernel has no {SELECTED}: build one with `python -m mutants build`"
            )
        SELECTED.write_text(str(session.config.option.mutant))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Say how often the bug's code was reached so far."""
    report = (yield).get_result()
    if item.config.option.mutant is not None and report.when == "teardown" and HITS.exists():
        report.user_properties.append(("mutant_hits", int(HITS.read_text())))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the kernel without a bug."""
    if _selects(config) and SELECTED.exists():
        SELECTED.write_text(NONE)
