# SPDX-License-Identifier: GPL-2.0
"""The files of /sys/kernel/mm/ksm as text, and the errors of writing them."""

from uapi.ksm import Ksm
from uapi.settings import write_value


def raw(name: str) -> str:
    """A file's text as it is."""
    return (Ksm.default_root / name).read_text()


def written_errno(name: str, value: str) -> int:
    """errno of writing; 0 where it succeeds."""
    try:
        write_value(Ksm.default_root / name, value)
    except OSError as error:
        return error.errno or 0
    return 0
