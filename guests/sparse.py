# SPDX-License-Identifier: GPL-2.0
"""Files that are holes for the most part: the memory of guests."""

import os


def copy_sparse(source: int, target: int) -> None:
    """Copy what is not a hole. Raises OSError."""
    end = os.fstat(source).st_size
    os.ftruncate(target, end)
    at = 0
    while at < end:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:  # ENXIO: there is nothing but a hole
            return
        hole = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < hole:
            at += os.sendfile(target, source, at, hole - at)
