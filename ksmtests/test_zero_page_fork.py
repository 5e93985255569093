# SPDX-License-Identifier: GPL-2.0
"""KSM-placed zero pages over fork: the child has them too, and counts its own."""

import pytest

from ksmtests.expectations import assert_unmerged, assert_zero_pages, overwritten
from mm.region import Region, unique_tokens
from plugins.ksm import KsmAlone, OpenLedger
from plugins.processes import Fork
from uapi.libc import lib

pytestmark = [
    pytest.mark.zero_pages,
    pytest.mark.fork,
    pytest.mark.needs("ksm_zero_pages", "page_frames"),
]


@pytest.fixture
def quiet_zeros(ksm_alone: KsmAlone, zeros: Region) -> Region:
    """Placed zero pages, with ksmd stopped."""
    ksm_alone.stop()
    return zeros


def test_child_counts_its_copies(quiet_zeros: Region, fork: Fork, ledger: OpenLedger) -> None:
    """A child maps its parent's zero pages, and the system's count knows of both."""
    with ledger(quiet_zeros) as books:
        child = fork(quiet_zeros.process)
    books.assert_change(zero_pages=0, anonymous=0, system_zero_pages=quiet_zeros.pages)
    assert child.zero_pages == quiet_zeros.pages
    assert_zero_pages(quiet_zeros.seen_from(child))


def test_write_in_child_unshares_there_alone(
    quiet_zeros: Region, fork: Fork, ledger: OpenLedger
) -> None:
    """The child's write is the child's: its parent's pages stay placed."""
    copied = quiet_zeros.seen_from(fork(quiet_zeros.process))
    tokens = unique_tokens(3)
    with ledger(copied) as books:
        copied.part(4, 3).write_each(tokens)
    books.assert_change(zero_pages=-3, anonymous=3)
    written = copied.part(4, 3)
    assert_unmerged(written, overwritten(bytes(written.length), tokens))
    assert quiet_zeros.process.zero_pages == quiet_zeros.pages
    assert_zero_pages(quiet_zeros)


def test_write_in_parent_unshares_there_alone(
    quiet_zeros: Region, fork: Fork, ledger: OpenLedger
) -> None:
    """The parent's write is the parent's: the child's pages stay placed."""
    copied = quiet_zeros.seen_from(fork(quiet_zeros.process))
    tokens = unique_tokens(3)
    with ledger(quiet_zeros) as books:
        quiet_zeros.part(4, 3).write_each(tokens)
    books.assert_change(zero_pages=-3, anonymous=3)
    written = quiet_zeros.part(4, 3)
    assert_unmerged(written, overwritten(bytes(written.length), tokens))
    assert copied.process.zero_pages == copied.pages
    assert_zero_pages(copied)


def test_exit_of_child_uncounts_its_copies(
    quiet_zeros: Region, fork: Fork, ledger: OpenLedger
) -> None:
    """A child's end takes its copies out of the system's count, and leaves its parent's."""
    copied = quiet_zeros.seen_from(fork(quiet_zeros.process))
    with ledger(copied) as books:
        assert copied.process.exit() == 0
    books.assert_change(zero_pages=-copied.pages, anonymous=0)
    assert quiet_zeros.process.zero_pages == quiet_zeros.pages
    assert_zero_pages(quiet_zeros)


def test_grandchild_outlives_both(quiet_zeros: Region, fork: Fork, ledger: OpenLedger) -> None:
    """Three generations count for themselves, and the last still when the others have unshared."""
    child = fork(quiet_zeros.process)
    with ledger(quiet_zeros) as books:
        grandchild = fork(child)
    books.assert_change(zero_pages=0, anonymous=0, system_zero_pages=quiet_zeros.pages)
    with ledger(quiet_zeros) as books:
        quiet_zeros.advise(lib.MADV_UNMERGEABLE)
        quiet_zeros.seen_from(child).write(0)
    books.assert_change(
        zero_pages=-quiet_zeros.pages,
        anonymous=quiet_zeros.pages,
        system_zero_pages=-quiet_zeros.pages - 1,
    )
    assert child.zero_pages == quiet_zeros.pages - 1
    assert grandchild.zero_pages == quiet_zeros.pages
    assert_zero_pages(quiet_zeros.seen_from(grandchild))


def test_child_unshares_by_advice(quiet_zeros: Region, fork: Fork, ledger: OpenLedger) -> None:
    """MADV_UNMERGEABLE in a child works on zero pages its parent had placed."""
    copied = quiet_zeros.seen_from(fork(quiet_zeros.process))
    with ledger(copied) as books:
        copied.advise(lib.MADV_UNMERGEABLE)
    books.assert_change(zero_pages=-copied.pages, anonymous=copied.pages)
    assert_unmerged(copied, bytes(copied.length))
    assert_zero_pages(quiet_zeros)
