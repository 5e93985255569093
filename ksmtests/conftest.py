# SPDX-License-Identifier: GPL-2.0
"""What all tests of the kernel share."""

import pytest

from plugins.requirements import why_not_here


def pytest_configure() -> None:
    """Refuse to begin where not one test could say anything."""
    if reason := why_not_here():
        raise pytest.UsageError(reason)


@pytest.fixture(autouse=True)
def watched_kernel(kernel_log: None) -> None:
    """A defect in the kernel log fails the test during which it was logged."""
