# SPDX-License-Identifier: GPL-2.0
"""Memory that the kernel leaks during a test, on kernels that have kmemleak.

A leak is not reported before it is five seconds old and has been seen by two scans of all memory,
so it is looked for when the tests of a module are over, and fails the last of them, with the name
of the one that ran when it was allocated. `--fresh-guest test` does it after every test.
"""

import time
from dataclasses import dataclass, field

import pytest

from plugins.fingerprint import PROPERTY, named
from uapi import kmemleak
from uapi.kmemleak import Leak

SCANS = 2
KIND = "memory leak"


@dataclass
class Watch:
    """What a module's tests may have leaked."""

    known: set[str]  # addresses of leaks that were there before
    began: int  # jiffies
    tests: list[tuple[str, int]] = field(default_factory=list)  # and when each began, jiffies

    def of(self, leak: Leak) -> str:
        """The test that ran when the memory was allocated."""
        return [test for test, began in self.tests if began <= leak.jiffies][-1]

    def found(self) -> list[Leak]:
        """What was leaked since the watch began."""
        time.sleep(kmemleak.LEAST_AGE_S)
        for _ in range(SCANS):
            kmemleak.scan()
        return [
            leak
            for leak in kmemleak.leaks()
            if leak.address not in self.known and leak.jiffies >= self.began
        ]


_WATCH = pytest.StashKey[Watch]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note when a test begins."""
    if "kernel_log" not in getattr(item, "fixturenames", ()) or not kmemleak.present():
        return
    now = kmemleak.jiffies()
    if _WATCH not in item.session.stash:
        known = {leak.address for leak in kmemleak.leaks()}
        item.session.stash[_WATCH] = Watch(known, now)
    item.session.stash[_WATCH].tests.append((item.nodeid, now))


@pytest.hookimpl(trylast=True)  # when all fixtures are gone
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Look for leaks behind the last test of a module."""
    if (nextitem and nextitem.path == item.path) or _WATCH not in item.session.stash:
        return
    watch = item.session.stash[_WATCH]
    del item.session.stash[_WATCH]
    try:
        found = watch.found()
    except OSError as error:
        pytest.fail(f"kmemleak gave up during these tests: {error}", pytrace=False)
    if found:
        defect = named(KIND, found[0].lines)
        item.user_properties.append((PROPERTY, defect))
        lines = [f"the kernel reports {len(found)} leaks: {defect}"]
        for leak in found:
            lines += [f"allocated during {watch.of(leak)}:", *leak.lines]
        pytest.fail("\n".join(lines), pytrace=False)
