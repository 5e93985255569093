# SPDX-License-Identifier: GPL-2.0
"""What all tests of the kernel share."""

import pytest

from plugins.kernels import kernels
from plugins.requirements import why_not_here


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to begin where not one test could say anything."""
    if kernels(config).here and (reason := why_not_here()):
        from plugins.elsewhere import newest_here  # noqa: PLC0415 - of no use where tests run

        raise pytest.UsageError(
            f"{reason}. Or test an emulated kernel: `pytest -n auto --kernel {newest_here()}`"
        )


@pytest.fixture(autouse=True)
def watched_kernel(kernel_log: None) -> None:
    """A defect in the kernel log fails the test during which it was logged."""
