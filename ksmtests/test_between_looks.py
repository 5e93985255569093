# SPDX-License-Identifier: GPL-2.0
"""What happens to memory after ksmd has looked at it, and before it finds another page like it.

ksmd remembers pages in its unstable tree for one pass, by their address alone. A pass is made page
by page here. That ksmd has come past a page is seen by a marker behind it, which merges: with it,
a third page of a content that two others share already.

The tree is in the order of what pages held when ksmd came past. Where other programs change theirs
meanwhile, it may miss a page that is there.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from ksmtests.expectations import assert_unmerged
from mm import served
from mm.process import Process
from mm.region import Region, unique_pattern
from plugins.ksm import KsmAlone
from plugins.processes import RegionFactory
from uapi import libc
from uapi.libc import PAGE_SIZE, lib
from uapi.pagemap import PageKind

pytestmark = [
    pytest.mark.sharing,
    pytest.mark.scanning,
    pytest.mark.needs("ksm_stat", "page_frames", "pages_scanned"),
]


class Scene(NamedTuple):
    """A page that ksmd keeps in mind, and one of the same content that it has yet to come to."""

    kept: Region
    marker: Region
    coming: Region
    content: bytes


@pytest.fixture
def scene(ksm_alone: KsmAlone, region: RegionFactory) -> Scene:
    """Pages in the order of their addresses, which is ksmd's, each a VMA of its own."""
    known, pattern = unique_pattern(), unique_pattern()
    ksm_alone.merge(region(2, known))
    ksm_alone.stop()
    ksm_alone.pass_once()
    pages = region(7)
    kept, marker, coming = pages.part(1, 1), pages.part(3, 1), pages.part(5, 1)
    for page, content in ((kept, pattern), (marker, known), (coming, pattern)):
        page.fill(content)
        page.advise(lib.MADV_MERGEABLE)
    ksm_alone.pass_once()
    marker.fill(known)  # before 6.11 it has merged, and must do so once more
    ksm_alone.scan_until(lambda: marker.count(PageKind.KSM) == 1)
    assert kept.count(PageKind.ANON) == coming.count(PageKind.ANON) == 1, pages.describe()
    return Scene(kept, marker, coming, pattern * (PAGE_SIZE // len(pattern)))


def test_page_in_mind_merges_with_the_one_that_comes(ksm_alone: KsmAlone, scene: Scene) -> None:
    """The control: nothing happens, and the two merge before the pass ends."""
    ksm_alone.pass_once()
    ksm_alone.skip_beside_others("the order of the unstable tree")
    assert scene.kept.count(PageKind.KSM) == scene.coming.count(PageKind.KSM) == 1
    assert scene.kept.frames() == scene.coming.frames()
    assert scene.kept.read() == scene.coming.read() == scene.content


def test_page_that_is_not_mergeable_any_more_is_left_alone(
    ksm_alone: KsmAlone, scene: Scene
) -> None:
    """MADV_UNMERGEABLE holds for a page that ksmd has in mind."""
    scene.kept.advise(lib.MADV_UNMERGEABLE)
    frames = scene.kept.frames()
    ksm_alone.pass_once()
    assert scene.kept.frames() == frames
    for page in (scene.kept, scene.coming):
        assert_unmerged(page, scene.content)
    assert scene.kept.process.merging_pages == 3


@pytest.mark.parametrize("offset", [0, PAGE_SIZE - 1], ids=["first byte", "last byte"])
def test_page_that_has_changed_since_is_compared_as_it_is(
    offset: int, ksm_alone: KsmAlone, scene: Scene
) -> None:
    """That a page had the content once does not make it equal."""
    scene.kept.write(0, bytes([scene.content[offset] ^ 1]), offset)
    changed = scene.kept.read()
    ksm_alone.pass_once()
    assert_unmerged(scene.kept, changed)
    assert_unmerged(scene.coming, scene.content)


def unmapped(page: Region) -> None:
    """munmap(2)."""
    page.unmap()


def discarded(page: Region) -> None:
    """MADV_DONTNEED."""
    page.advise(lib.MADV_DONTNEED)


def mapped_shared(page: Region) -> None:
    """A shared mapping with the same content over it, which KSM must not touch."""
    content = page.read()
    flags = lib.MAP_SHARED | lib.MAP_ANONYMOUS | lib.MAP_FIXED
    prot = lib.PROT_READ | lib.PROT_WRITE
    page.process.call(libc.mmap, page.length, prot, flags, page.address)
    page.process.call(served.store, page.address, content)


def mapped_anew(page: Region) -> None:
    """A private mapping with the same content over it, which nobody has called mergeable."""
    content = page.read()
    page.process.call(served.map_over, page.address, page.length)
    page.process.call(served.store, page.address, content)


@pytest.mark.parametrize(
    "event", [unmapped, discarded, mapped_shared, mapped_anew], ids=lambda event: event.__name__
)
def test_page_that_is_gone_keeps_the_other_alone(
    event: Callable[[Region], None], ksm_alone: KsmAlone, scene: Scene
) -> None:
    """What lies at the address now is not what ksmd looked at, and is not merged."""
    event(scene.kept)
    frames = [state.pfn for state in scene.kept.states()]
    ksm_alone.pass_once()
    assert [state.pfn for state in scene.kept.states()] == frames
    assert_unmerged(scene.coming, scene.content)
    assert scene.kept.process.merging_pages == 3
    if event in (mapped_shared, mapped_anew):
        assert scene.kept.read() == scene.content


def test_end_of_the_process_that_has_the_page_in_mind(
    ksm_alone: KsmAlone, scene: Scene, region: RegionFactory, start_process: Callable[[], Process]
) -> None:
    """A page of a process that has ended is not found, and its like merges with others."""
    survivor = region(1, scene.content[:16], process=start_process())
    survivor.advise(lib.MADV_MERGEABLE)
    scene.kept.process.kill()
    for _ in range(3):
        ksm_alone.pass_once()
    assert_unmerged(survivor, scene.content)
    ksm_alone.start()
    partner = region(1, scene.content[:16], process=survivor.process)
    ksm_alone.merge(partner)
    ksm_alone.wait_until_merged(survivor)
    assert survivor.read() == partner.read() == scene.content
