# SPDX-License-Identifier: GPL-2.0
"""How pytest-xdist deals out tests of several kernels."""

from functools import cached_property
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from plugins.kernels import Kernels


class KernelScheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """A kernel's tests go to one worker, so that it is booted once.

    With more workers than kernels it is a module's tests of a kernel, or most workers were idle.
    Tests of this kernel are dealt out one by one.
    """

    def __init__(self, config: pytest.Config, log: Any, kernels: Kernels) -> None:
        super().__init__(config, log)
        self._find = kernels.of

    def _split_scope(self, nodeid: str) -> str:
        place = self._find(nodeid)
        if place is None or place.start is None:
            return nodeid
        if self._whole_kernels:
            return place.name
        return f"{nodeid.partition('::')[0]} {place.name}"

    @cached_property
    def _whole_kernels(self) -> bool:
        places = map(self._find, self.collection or ())
        names = {place.name for place in places if place and place.start}
        return len(names) >= int(self.numnodes)
