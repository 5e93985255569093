# SPDX-License-Identifier: GPL-2.0
"""How tests of several kernels are dealt out to pytest-xdist's workers."""

import pytest

from plugins.kernel_scheduling import KernelScheduling
from plugins.kernels import Place

pytest_plugins = "pytester"


class Finder:
    """In the place of Kernels: what an id names."""

    def of(self, nodeid: str) -> Place | None:
        """By the end of the id."""
        name = nodeid.partition("[")[2].removesuffix("]")
        return Place(name, None if name == "host" else lambda: pytest.fail("started"))


@pytest.mark.parametrize(
    ("workers", "scopes"),
    [
        ("2", {"one", "two", "a.py::x[host]", "a.py::y[host]"}),
        ("3", {"a.py one", "b.py one", "a.py two", "a.py::x[host]", "a.py::y[host]"}),
    ],
)
def test_kernels_are_dealt_out_whole_where_they_are_enough(
    workers: str, scopes: set[str], pytester: pytest.Pytester
) -> None:
    """Else by modules, or workers would be idle; tests of this kernel one by one."""
    config = pytester.parseconfigure("--tx", f"{workers}*popen")
    scheduling = KernelScheduling(config, None, Finder())  # type: ignore[arg-type]
    scheduling.collection = [
        *("a.py::x[one]", "b.py::x[one]", "a.py::x[two]", "a.py::x[host]", "a.py::y[host]")
    ]
    assert {scheduling._split_scope(each) for each in scheduling.collection} == scopes  # noqa: SLF001
