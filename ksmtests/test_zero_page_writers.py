# SPDX-License-Identifier: GPL-2.0
"""Whoever writes to KSM-placed zero pages, by whatever way, unshares them and no others."""

from pathlib import Path

import pytest

from ksmtests import writers
from ksmtests.expectations import assert_unmerged, assert_zero_pages
from mm.region import Region, unique_tokens
from plugins.ksm import KsmAlone, OpenLedger
from plugins.processes import RegionFactory

pytestmark = [pytest.mark.zero_pages, pytest.mark.needs("ksm_zero_pages", "page_frames")]

WRITERS = (
    writers.proc_mem,
    writers.ptrace_poke,
    pytest.param(writers.process_vm, marks=pytest.mark.needs("cross_memory_attach")),
    writers.read_buffered,
    pytest.param(writers.read_direct, marks=pytest.mark.needs("direct_io")),
    pytest.param(writers.pinned_buffer, marks=pytest.mark.needs("page_pinning")),
    pytest.param(writers.populate_write, marks=pytest.mark.needs("populate_advice")),
    writers.mlock,
)
each_writer = pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)


@each_writer
def test_writer_unshares_zero_pages(
    writer: writers.Writer, zeros: Region, ledger: OpenLedger, tmp_path: Path
) -> None:
    """Each page written is counted out of the zero pages and holds what was written."""
    target = zeros.part(5, 3)
    with ledger(zeros) as books:
        content = writer(target, unique_tokens(target.pages), tmp_path / "data")
    books.assert_change(zero_pages=-target.pages, anonymous=target.pages)
    assert_unmerged(target, content)
    assert_zero_pages(zeros.part(0, 5))
    assert_zero_pages(zeros.part(8, zeros.pages - 8))


@each_writer
def test_writer_unshares_ksm_pages(
    writer: writers.Writer, ksm_alone: KsmAlone, region: RegionFactory, tmp_path: Path
) -> None:
    """The control: the same ways unshare ordinary KSM pages."""
    merged = ksm_alone.merge(region())
    ksm_alone.stop()
    content = writer(merged, unique_tokens(merged.pages), tmp_path / "data")
    assert_unmerged(merged, content)
