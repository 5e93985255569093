# SPDX-License-Identifier: GPL-2.0
"""The kernel log through /dev/kmsg (Documentation/ABI/testing/dev-kmsg)."""

import errno
import os
import re
from typing import Self

RECORD_BYTES = 8192  # the kernel refuses to split a record: EINVAL where the buffer is too small

# Behind the time, and the task or CPU that CONFIG_PRINTK_CALLER adds on a console.
_BEGINNING = r"^(?:\[ *\d+\.\d+\])?(?:\[ *[TC]\d+\])? *"
CUT_HERE = re.compile(r"-+\[ cut here \]-+")  # a warning without a text of its own (kernel/panic.c)
_TROUBLE = re.compile(
    # In the middle of a line the word is other code's: mitigations of the CPU "WARNING: …" there.
    _BEGINNING + r"WARNING: |"
    rf"{CUT_HERE.pattern}|"
    r"\bBUG: |\b[Kk]ernel BUG\b|\bUBSAN: |"  # KASAN, KFENCE, KCSAN and KMSAN report as "BUG: "
    r"\bBUG \S+ \(|"  # mm/slub.c: "BUG kmalloc-64 (Not tainted): "
    r"\bOops\b|Internal error: |Unable to handle kernel |Kernel panic - |"
    r"general protection fault[,:]|"  # "… fault ip:" is a user program's
    # Up to 6.7 x86 names the exception and nothing else; s390 adds the instruction's length.
    r": [0-9a-f]{4,}(?: ilc:\d)? \[#\d+\]|"
    # kernel/hung_task.c of 7.2 says "blocked in I/O wait for more than", too.
    r"INFO: task .* blocked .*for more than|INFO: trying to register non-static key|"
    r"INFO: .* detected (?:expedited )?stalls?\b|INFO: .* self-detected stall|"
    r"kthread starved for |detected hard LOCKUP|"
    r": bad p(?:gd|4d|ud|md) |Bad swap (?:file|offset) entry"  # page tables that make no sense
)


def is_trouble(message: str) -> bool:
    """Whether a log line reports a defect of the kernel itself."""
    return _TROUBLE.search(message) is not None


class KernelLog:
    """Messages logged from now on; a context manager."""

    def __init__(self) -> None:
        """Raises OSError where the log may not be read."""
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._fd, 0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def new_lines(self) -> list[str]:
        """What was logged since the last call, `[seconds] message` each."""
        lines: list[str] = []
        while True:
            try:
                record = os.read(self._fd, RECORD_BYTES).decode(errors="backslashreplace")
            except BlockingIOError:
                return lines
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                lines.append("(messages lost: the log was overwritten before it was read)")
                continue
            lines.append(_line(record))


def _line(record: str) -> str:
    head, _, text = record.partition(";")
    microseconds = int(head.split(",")[2])
    return f"[{microseconds / 1e6:.6f}] {text.splitlines()[0] if text else ''}"


# Documentation/admin-guide/tainted-kernels.rst; a letter for each bit, from the lowest.
_TAINTS = "PFSRMBUDAWCIOELKXTNJ"


def taint() -> int:
    """/proc/sys/kernel/tainted: a bit for each kind of trouble since boot."""
    with open("/proc/sys/kernel/tainted") as file:
        return int(file.read())


def taint_letters(bits: int) -> str:
    """The letters the kernel has for these bits in its reports; a number for one without."""
    numbers = [number for number in range(bits.bit_length()) if bits >> number & 1]
    return "".join(_TAINTS[n] if n < len(_TAINTS) else f"({n})" for n in numbers)
