# SPDX-License-Identifier: GPL-2.0
"""Numbers of system calls that the C library does not wrap and that differ between architectures.

Sources: scripts/syscall.tbl, and arch/*/…/syscall.tbl of the architectures that have their own.
"""

import platform

GENERIC = "asm-generic"
MACHINES = {
    "x86_64": "x86",
    "armv6l": "arm",
    "armv7l": "arm",
    "armv8l": "arm",
    "s390x": "s390",
    "ppc64": "powerpc",
    "ppc64le": "powerpc",
}  # by uname -m; others use the generic table
NUMBERS = {
    "move_pages": {GENERIC: 239, "x86": 279, "arm": 344, "s390": 310, "powerpc": 301},
    "userfaultfd": {GENERIC: 282, "x86": 323, "arm": 388, "s390": 355, "powerpc": 364},
}


def syscall_number(name: str, machine: str = "") -> int:
    """The number of a call on `machine`, this one by default."""
    return NUMBERS[name][MACHINES.get(machine or platform.machine(), GENERIC)]
