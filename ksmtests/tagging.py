# SPDX-License-Identifier: GPL-2.0
"""Regions of memory whose granules have tags, on 64-bit ARM."""

from ksmtests import writers
from mm.region import Region
from uapi import mte
from uapi.libc import PAGE_SIZE, lib

TAGGED = lib.PROT_READ | lib.PROT_WRITE | mte.PROT_MTE
GRANULES = PAGE_SIZE // mte.GRANULE  # of a page


def tag(region: Region) -> bytes:
    """Tag every page, no two neighbours alike; the tag of each granule."""
    pages = [bytes([1 + page % 15]) * GRANULES for page in range(region.pages)]
    with writers.stopped(region.process) as pid:
        for address, tags in zip(region.addresses(), pages, strict=True):
            mte.set_tags(pid, address, tags)
    return b"".join(pages)


def tags_of(region: Region) -> bytes:
    """The tags of every granule."""
    with writers.stopped(region.process) as pid:
        pages = [mte.get_tags(pid, address, GRANULES) for address in region.addresses()]
    return b"".join(pages)
