# SPDX-License-Identifier: GPL-2.0
"""Numbers of system calls that the C library does not wrap and that differ between architectures.

Sources: scripts/syscall.tbl, and arch/*/…/syscall.tbl of the architectures that have their own.
"""

import platform
import sys

GENERIC = "asm-generic"
MACHINES = {
    "x86_64": "x86",
    "i386": "i386",
    "i486": "i386",
    "i586": "i386",
    "i686": "i386",
    "armv6l": "arm",
    "armv7l": "arm",
    "armv8l": "arm",
    "s390x": "s390",
    "ppc64": "powerpc",
    "ppc64le": "powerpc",
}  # by uname -m; others use the generic table
COMPAT = {"x86_64": "i686", "aarch64": "armv8l"}  # what 32-bit programs run on such a kernel as
NUMBERS = {
    "migrate_pages": {
        GENERIC: 238,
        "x86": 256,
        "i386": 294,
        "arm": 400,
        "s390": 287,
        "powerpc": 258,
    },
    "move_pages": {GENERIC: 239, "x86": 279, "i386": 317, "arm": 344, "s390": 310, "powerpc": 301},
    "pkey_alloc": {GENERIC: 289, "x86": 330, "i386": 381, "arm": 395, "s390": 385, "powerpc": 384},
    "pkey_free": {GENERIC: 290, "x86": 331, "i386": 382, "arm": 396, "s390": 386, "powerpc": 385},
    "userfaultfd": {GENERIC: 282, "x86": 323, "i386": 374, "arm": 388, "s390": 355, "powerpc": 364},
}
POINTER_BITS = 64 if sys.maxsize > 1 << 32 else 32


def syscall_number(name: str, machine: str = "", bits: int = POINTER_BITS) -> int:
    """The number of a call on `machine` from a program of `bits`, by default as this one runs."""
    machine = machine or platform.machine()
    if bits == 32:
        machine = COMPAT.get(machine, machine)
    return NUMBERS[name][MACHINES.get(machine, GENERIC)]
