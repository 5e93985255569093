# SPDX-License-Identifier: GPL-2.0
"""The same defect has the same fingerprint, on every boot and architecture."""

import pytest

from plugins.fingerprint import fingerprint

X86 = """
[  123.456789] BUG: unable to handle page fault for address: ffffea0004a12345
[  123.456790] #PF: supervisor read access in kernel mode
[  123.456791] CPU: 1 PID: 4321 Comm: ksmd Not tainted 7.2.0
[  123.456792] RIP: 0010:try_to_merge_one_page+0x1a2/0x5d0
[  123.456793] Call Trace:
[  123.456794]  <TASK>
[  123.456795]  ? __die+0x23/0x70
[  123.456796]  ? page_fault_oops+0x14d/0x4c0
[  123.456797]  ? exc_page_fault+0x6a/0x150
[  123.456798]  cmp_and_merge_page.isra.0+0x33/0x700
[  123.456799]  ksm_scan_thread+0x111/0x2a0
[  123.456800]  kthread+0xd7/0x100
"""
ARM = """
[    9.000000][   T12] Kernel panic - not syncing: sysrq triggered crash
[    9.100000][   T12] CPU: 0 PID: 12 Comm: python3
[    9.200000][   T12]  panic from sysrq_handle_crash+0x10/0x14
[    9.300000][   T12]  sysrq_handle_crash from __handle_sysrq+0x88/0x178
"""


@pytest.mark.parametrize(
    ("log", "kind", "functions"),
    [
        (
            X86,
            "BUG: unable to handle page fault for address: X",
            "try_to_merge_one_page, cmp_and_merge_page, ksm_scan_thread",
        ),
        (
            ARM,
            "Kernel panic - not syncing: sysrq triggered crash",
            "sysrq_handle_crash, __handle_sysrq",
        ),
        (
            "[ 1.0] WARNING: CPU: 3 PID: 77 at mm/ksm.c:9\n",
            "WARNING: CPU: N PID: N at mm/ksm.c:N",
            "",
        ),
    ],
)
def test_fingerprint(log: str, kind: str, functions: str) -> None:
    """The kind, then the functions of the trace that are not those of reporting it."""
    assert fingerprint(log.splitlines()) == kind + (f" in {functions}" if functions else "")


@pytest.mark.parametrize("log", ["", "[ 1.0] ksmd: all is well"])
def test_no_defect_has_none(log: str) -> None:
    """Lines of no trouble."""
    assert fingerprint(log.splitlines()) is None


def test_another_boot_gives_the_same() -> None:
    """Times, addresses, processes differ."""
    again = X86.replace("123.45", "77.12").replace("ffffea0004a12345", "ffffea000bbbbbbb")
    assert fingerprint(again.replace("4321", "99").splitlines()) == fingerprint(X86.splitlines())
