# SPDX-License-Identifier: GPL-2.0
"""A failed comparison of many things is explained in short, however much pytest was told to say.

With -v, and wherever the environment says CI, pytest shows all differences. difflib takes minutes
for the 512 page frames of a huge page, and comes to no end for the bytes in them.
"""

from collections.abc import Generator

import pytest

LONG = 2000  # characters of both sides
CI = ("CI", "BUILD_NUMBER")  # what pytest goes by


@pytest.hookimpl(hookwrapper=True)  # pytest 7.2 has no other
def pytest_assertrepr_compare(
    config: pytest.Config, left: object, right: object
) -> Generator[None, object, None]:
    """Keep pytest's own explanation to where the two first differ."""
    with pytest.MonkeyPatch.context() as patch:
        if len(repr(left)) + len(repr(right)) > LONG:
            patch.setattr(config.option, "verbose", min(config.option.verbose, 0))
            for name in CI:
                patch.delenv(name, raising=False)
        yield
