# SPDX-License-Identifier: GPL-2.0
"""The ten tests of tools/testing/selftests/mm/ksm_functional_tests.c as of Linux 7.2."""

import pytest

from ksmtests import writers
from ksmtests.expectations import (
    assert_merged_into_one,
    assert_not_mergeable,
    assert_unmerged,
    assert_zero_pages,
    overwritten,
)
from mm.process import Process
from mm.region import ZEROS, unique_tokens
from plugins.ksm import KsmAlone, SharedKsm
from plugins.processes import Fork, RegionFactory
from uapi import libc, userfaultfd
from uapi.libc import LONG_BYTES, PAGE_SIZE, lib
from uapi.pagemap import PageKind

pytestmark = [pytest.mark.port, pytest.mark.needs("ksm_stat", "page_frames")]

PAGES = 2 * 1024 * 1024 // PAGE_SIZE  # as many bytes as the C program uses
COUNT_BEYOND_AN_EXIT_STATUS = 512  # pages; its low byte is 0, so it passes for 0 there


def fork_merging(ksm_alone: KsmAlone, process: Process, fork: Fork) -> Process:
    """Set PR_SET_MEMORY_MERGE and fork, with ksmd stopped: it would race for the count of zeros."""
    ksm_alone.stop()
    process.call(libc.set_memory_merge, 1)
    child = fork(process)
    ksm_alone.start()
    return child


def test_unmerge(ksm: SharedKsm, region: RegionFactory) -> None:
    """MADV_UNMERGEABLE gives every page back."""
    merged = ksm.merge(region(PAGES))
    assert_merged_into_one(merged)
    assert merged.process.merging_pages == PAGES
    content = merged.read()

    merged.advise(lib.MADV_UNMERGEABLE)

    assert_unmerged(merged, content)
    assert_not_mergeable(merged)
    assert ksm.wait_until(lambda: merged.process.merging_pages == 0)


@pytest.mark.needs("ksm_zero_pages")
def test_unmerge_zero_pages(ksm: SharedKsm, region: RegionFactory) -> None:
    """MADV_UNMERGEABLE and a write each take KSM-placed zero pages out of the count."""
    zeros = ksm.merge(region(PAGES, ZEROS))
    assert_zero_pages(zeros)
    assert zeros.process.zero_pages == PAGES
    unmerged, written = zeros.halves()

    unmerged.advise(lib.MADV_UNMERGEABLE)
    assert zeros.process.zero_pages == written.pages
    assert_unmerged(unmerged, bytes(unmerged.length))
    assert_zero_pages(written)

    tokens = unique_tokens(written.pages)
    written.write_each(tokens)
    assert zeros.process.zero_pages == 0
    assert_unmerged(written, overwritten(bytes(written.length), tokens))
    assert zeros.process.merging_pages == 0


def test_unmerge_discarded(ksm: SharedKsm, region: RegionFactory) -> None:
    """Pages discarded while merged do not come back, the others are unmerged."""
    merged = ksm.merge(region(PAGES))
    discarded, kept = merged.halves()
    content = kept.read()

    discarded.advise(lib.MADV_DONTNEED)
    merged.advise(lib.MADV_UNMERGEABLE)

    assert discarded.count(PageKind.NONE) == discarded.pages, discarded.describe()
    assert_unmerged(kept, content)
    assert_not_mergeable(merged)
    assert not any(discarded.read())
    assert ksm.wait_until(lambda: merged.process.merging_pages == 0)


@pytest.mark.needs("userfaultfd_wp")
@pytest.mark.fixed_by(
    "mm/ksm: fix KSM COW breaking with userfaultfd-wp via FAULT_FLAG_UNSHARE", "6.2"
)
def test_unmerge_uffd_wp(ksm: SharedKsm, region: RegionFactory) -> None:
    """Unmerging keeps userfaultfd's write protection, and tells the monitor nothing."""
    merged = ksm.merge(region(PAGES))
    process, content = merged.process, merged.read()
    fd = process.call(userfaultfd.open_userfaultfd, lib.UFFD_FEATURE_PAGEFAULT_FLAG_WP)
    process.call(
        userfaultfd.register, fd, merged.address, merged.length, lib.UFFDIO_REGISTER_MODE_WP
    )
    process.call(userfaultfd.write_protect, fd, merged.address, merged.length)

    merged.advise(lib.MADV_UNMERGEABLE)

    assert_unmerged(merged, content)
    unprotected = [page for page, state in enumerate(merged.states()) if not state.uffd_wp]
    assert not unprotected, f"uffd-wp was lost: {merged.describe()}"
    assert process.call(userfaultfd.pending_events, fd) == 0


@pytest.mark.fixed_by("mm/gup: reintroduce FOLL_NUMA as FOLL_HONOR_NUMA_FAULT", "6.6")
def test_prot_none(ksm: SharedKsm, region: RegionFactory) -> None:
    """Inaccessible pages merge; a forced write and MADV_UNMERGEABLE both unmerge them."""
    inaccessible = region(PAGES)
    content = inaccessible.read()
    inaccessible.protect(lib.PROT_NONE)
    ksm.merge(inaccessible)
    assert_merged_into_one(inaccessible)
    written, unmerged = inaccessible.halves()

    words = [token[:LONG_BYTES] for token in unique_tokens(written.pages)]
    # Not through /proc/PID/mem: proc_mem.force_override may forbid it to ignore the protection.
    writers.poke_words(written, words)
    unmerged.advise(lib.MADV_UNMERGEABLE)

    inaccessible.protect(lib.PROT_READ)
    assert_unmerged(inaccessible, overwritten(content, words))


@pytest.mark.prctl
@pytest.mark.needs("memory_merge_prctl")
@pytest.mark.usefixtures("whole_process")
def test_prctl(process: Process) -> None:
    """PR_GET_MEMORY_MERGE says what PR_SET_MEMORY_MERGE set."""
    assert process.call(libc.get_memory_merge) == 0
    process.call(libc.set_memory_merge, 1)
    assert process.call(libc.get_memory_merge) == 1
    process.call(libc.set_memory_merge, 0)
    assert process.call(libc.get_memory_merge) == 0


@pytest.mark.prctl
@pytest.mark.needs("memory_merge_prctl")
@pytest.mark.usefixtures("whole_process")
def test_prctl_fork(
    ksm_alone: KsmAlone, process: Process, region: RegionFactory, fork: Fork
) -> None:
    """A child merges by its parent's PR_SET_MEMORY_MERGE, without any advice."""
    child = fork_merging(ksm_alone, process, fork)

    assert child.call(libc.get_memory_merge) == 1
    inherited = region(PAGES, process=child)
    ksm_alone.wait_until_merged(inherited)
    assert_merged_into_one(inherited)


@pytest.mark.prctl
@pytest.mark.needs("memory_merge_prctl")
@pytest.mark.fixed_by("mm/ksm: support fork/exec for prctl", "6.7")
@pytest.mark.fixed_by("mm/ksm: fix ksm exec support for prctl", "6.10")
@pytest.mark.usefixtures("whole_process")
def test_prctl_fork_exec(
    ksm_alone: KsmAlone, process: Process, region: RegionFactory, fork: Fork
) -> None:
    """PR_SET_MEMORY_MERGE outlives fork and exec."""
    child = fork_merging(ksm_alone, process, fork)
    child.execute()

    assert child.call(libc.get_memory_merge) == 1
    inherited = region(PAGES, process=child)
    ksm_alone.wait_until_merged(inherited)
    assert_merged_into_one(inherited)


@pytest.mark.prctl
@pytest.mark.needs("memory_merge_prctl")
@pytest.mark.fixed_by(
    "mm/ksm: unmerge and clear VM_MERGEABLE when setting PR_SET_MEMORY_MERGE=0", "6.4"
)
@pytest.mark.usefixtures("whole_process")
def test_prctl_unmerge(ksm: SharedKsm, process: Process, region: RegionFactory) -> None:
    """PR_SET_MEMORY_MERGE=0 unmerges the whole process."""
    process.call(libc.set_memory_merge, 1)
    merged = region(PAGES)
    ksm.wait_until_merged(merged)
    assert_merged_into_one(merged)
    content = merged.read()

    process.call(libc.set_memory_merge, 0)

    assert_unmerged(merged, content)
    assert_not_mergeable(merged)
    assert ksm.wait_until(lambda: process.merging_pages == 0)


@pytest.mark.fork
@pytest.mark.fixed_by("mm/ksm: fix incorrect KSM counter handling in mm_struct during fork", "6.18")
def test_fork_ksm_merging_page_count(
    ksm_alone: KsmAlone, region: RegionFactory, fork: Fork
) -> None:
    """A child maps its parent's KSM pages, but its counters begin at zero."""
    merged = ksm_alone.merge(region(COUNT_BEYOND_AN_EXIT_STATUS))
    assert merged.process.merging_pages == COUNT_BEYOND_AN_EXIT_STATUS
    ksm_alone.stop()

    copied = merged.seen_from(fork(merged.process))

    assert_merged_into_one(copied)
    assert copied.process.merging_pages == 0
    assert copied.process.ksm_stat().rmap_items == 0
    assert merged.process.merging_pages == COUNT_BEYOND_AN_EXIT_STATUS
