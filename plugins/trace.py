# SPDX-License-Identifier: GPL-2.0
"""Events of KSM while a test runs."""

from collections.abc import Iterator

import pytest

from uapi import tracefs


@pytest.fixture
def trace(lease: None) -> Iterator[tracefs.Instance]:  # one test after the other
    """The tracepoints of KSM, from the start of the test on."""
    with tracefs.Instance("ksm") as instance:
        yield instance
