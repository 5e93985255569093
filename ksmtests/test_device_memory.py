# SPDX-License-Identifier: GPL-2.0
"""Pages that a device holds, as GPUs do for atomic operations: KSM keeps its hands off them.

Such a page is in memory, and its PTE is not present; touching it takes it from the device.
"""

from typing import NamedTuple

import pytest

from ksmtests.expectations import assert_merged_into_one, assert_unmerged
from mm.process import Process
from mm.region import Region, unique_pattern
from plugins.ksm import KsmAlone
from plugins.processes import RegionFactory
from uapi import hmm
from uapi.libc import lib
from uapi.pagemap import PageKind

pytestmark = [pytest.mark.sharing, pytest.mark.needs("hmm_mirror", "page_frames")]


class Device(NamedTuple):
    """A device that mirrors the memory of a process."""

    process: Process
    mirror: int  # a descriptor in the process

    def hold(self, region: Region) -> bytes:
        """Have pages for itself; what it reads in them."""
        return self.process.call(hmm.hold, self.mirror, region.address, region.pages)

    def held(self, region: Region) -> int:
        """How many pages it has for itself."""
        return self.process.call(hmm.held, self.mirror, region.address, region.pages)

    def write(self, region: Region, content: bytes) -> None:
        """Write to every page, as any other device would."""
        self.process.call(hmm.write, self.mirror, region.address, content)


@pytest.fixture
def device(process: Process) -> Device:
    """A device that mirrors the memory of the process under test."""
    return Device(process, process.call(hmm.open_mirror))


def test_pages_that_a_device_holds_are_left_to_it(
    ksm_alone: KsmAlone, region: RegionFactory, device: Device
) -> None:
    """They do not merge before the process has taken them back."""
    pattern = unique_pattern()
    others, taken = region(8, pattern), region(8, pattern)
    content = taken.read()
    ksm_alone.stop()
    taken.advise(lib.MADV_MERGEABLE)
    assert device.hold(taken) == content
    ksm_alone.start()
    ksm_alone.merge(others)
    ksm_alone.wait_for_passes(3)
    assert device.held(taken) == taken.pages
    assert taken.read() == content
    assert device.held(taken) == 0
    ksm_alone.wait_until_merged(taken)
    assert taken.read() == content


def test_device_that_takes_merged_pages_gets_copies(
    ksm_alone: KsmAlone, region: RegionFactory, device: Device
) -> None:
    """What it holds is the process's own, and no other page with the same content."""
    merged = ksm_alone.merge(region(16))
    taken, others = merged.halves()
    content = taken.read()
    ksm_alone.stop()
    assert device.hold(taken) == content
    assert device.held(taken) == taken.pages
    assert_merged_into_one(others)
    assert taken.read() == others.read() == content
    assert_unmerged(taken, content)


def test_device_writes_to_no_merged_page(
    ksm_alone: KsmAlone, region: RegionFactory, device: Device
) -> None:
    """What it writes is in the pages it wrote to, and in no other."""
    merged = ksm_alone.merge(region(16))
    written, others = merged.halves()
    content = others.read()
    ksm_alone.stop()
    device.write(written, unique_pattern() * (written.length // 16))
    assert_merged_into_one(others)
    assert others.read() == content
    assert written.read() != content
    assert written.count(PageKind.ANON) == written.pages, written.describe()
