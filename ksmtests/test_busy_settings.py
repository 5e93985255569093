# SPDX-License-Identifier: GPL-2.0
"""Settings that cannot change while a page is shared: max_page_sharing, merge_across_nodes.

Documentation/admin-guide/mm/ksm.rst says so of merge_across_nodes; mm/ksm.c treats both alike.
"""

import errno

import pytest

from ksmtests import sysfs
from mm.region import Region, unique_tokens
from plugins.ksm import KsmAlone
from plugins.processes import Fork, RegionFactory
from uapi.ksm import Ksm
from uapi.libc import lib
from uapi.settings import read_value

pytestmark = [pytest.mark.settings, pytest.mark.needs("ksm_stat", "page_frames")]

SETTINGS = pytest.mark.parametrize(
    "name",
    [
        "max_page_sharing",
        pytest.param("merge_across_nodes", marks=pytest.mark.needs("merge_across_nodes")),
    ],
)
VALUES = {"max_page_sharing": ("256", "255"), "merge_across_nodes": ("1", "0")}  # now, and another


def values_after(name: str, *texts: str) -> list[tuple[int, str]]:
    """What becomes of writing each text: errno, and the value then."""
    return [
        (sysfs.written_errno(name, text), read_value(Ksm.default_root / name)) for text in texts
    ]


@SETTINGS
def test_setting_is_busy_while_pages_are_shared(
    name: str, ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """EBUSY for another value, whether ksmd runs or not; the value it has is welcome always."""
    now, other = VALUES[name]
    merged = ksm_alone.merge(region())
    busy = [(errno.EBUSY, now), (0, now), (errno.EBUSY, now)]
    assert values_after(name, other, now, other) == busy
    ksm_alone.stop()
    assert values_after(name, other, now, other) == busy
    assert merged.process.merging_pages == merged.pages


@SETTINGS
def test_setting_changes_once_all_is_unmerged(
    name: str, ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """After run=2, and then pages merge under the new value, which is busy in its turn."""
    now, other = VALUES[name]
    merged = ksm_alone.merge(region())
    ksm_alone.unmerge_all()
    assert values_after(name, other) == [(0, other)]
    ksm_alone.start()
    ksm_alone.wait_until_merged(merged)
    assert values_after(name, now) == [(errno.EBUSY, other)]
    ksm_alone.unmerge_all()
    assert values_after(name, now) == [(0, now)]


@SETTINGS
def test_setting_is_busy_while_a_page_is_left_over(
    name: str, ksm_alone: KsmAlone, region: RegionFactory, fork: Fork
) -> None:
    """A KSM page that run=2 did not reach keeps its node, though pages_shared is 0.

    It is mapped by a child that is not mergeable, as it was forked before its parent was.
    """
    now, other = VALUES[name]
    parents: Region = region(4)
    child = fork(parents.process)
    ksm_alone.merge(parents)
    ksm_alone.unmerge_all()
    assert ksm_alone.settings.pages_shared == 0
    assert values_after(name, other) == [(errno.EBUSY, now)]
    child.kill()
    assert values_after(name, other) == [(0, other)]


def test_setting_is_free_while_nothing_is_shared(
    ksm_alone: KsmAlone, region: RegionFactory
) -> None:
    """Memory that is mergeable and finds no equal is in nobody's way, while ksmd runs, too."""
    different = region()
    different.fill(unique_tokens(different.pages))
    different.advise(lib.MADV_MERGEABLE)
    ksm_alone.unmerge_all()
    ksm_alone.start()
    ksm_alone.wait_for_passes(3)
    ksm_alone.skip_beside_others("whether a page is shared")
    assert values_after("max_page_sharing", "2", "256") == [(0, "2"), (0, "256")]
