# SPDX-License-Identifier: GPL-2.0
"""The kernel log: what of it is trouble, and what trouble does to the test it falls into.

The lines these tests write to the kernel log say "ksmtests self-test". One of them looks like a
kernel's warning, so a run of the suite that goes on at that moment reports it.
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reports.records import read
from tests.test_plugins import run
from uapi.kmsg import KernelLog, is_trouble, taint_letters

pytest_plugins = "pytester"


@pytest.fixture
def log_alone() -> Iterator[None]:
    """The kernel log while no other test of this module writes to it."""
    if os.geteuid() != 0:
        pytest.skip("the kernel log is root's alone")
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


LOGGING = """
    def log(text):
        with open("/dev/kmsg", "w") as file:
            file.write(text + chr(10))  # without, it may be continued and is not shown yet

    def test_it(kernel_log):
        log("{}")
        {}
"""


@pytest.mark.usefixtures("log_alone")
def test_trouble_in_the_kernel_log_is_an_error_of_the_test(pytester: pytest.Pytester) -> None:
    """Though the test itself passed; the log is shown, also what is not trouble in it."""
    source = LOGGING.format("ksmtests self-test: a context", 'log("WARNING: ksmtests self-test")')
    result = run(pytester, "kernel_log", source)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "the kernel reported during this test: WARNING: ksmtests self-test",
            "[[]*] ksmtests self-test: a context",
            "[[]*] WARNING: ksmtests self-test",
        ]
    )


@pytest.mark.usefixtures("log_alone")
def test_ordinary_lines_in_the_kernel_log_are_no_error(pytester: pytest.Pytester) -> None:
    """Drivers and programs log all the time."""
    result = run(pytester, "kernel_log", LOGGING.format("ksmtests self-test: all is well", "pass"))
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*all is well*")


@pytest.mark.usefixtures("log_alone")
def test_failure_shows_the_kernel_log(pytester: pytest.Pytester) -> None:
    """Trouble or not, from the test's beginning on."""
    source = LOGGING.format("ksmtests self-test: all is well", "assert False")
    result = run(pytester, "kernel_log", source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*- kernel log since the test began -*", "[[]*] ksmtests self-test: all is well"]
    )


@pytest.mark.usefixtures("log_alone")
def test_taint_is_an_error_of_the_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some trouble sets a bit and says nothing."""
    values = iter([0, 512])
    monkeypatch.setattr("plugins.kernel_log.taint", lambda: next(values))
    result = run(pytester, "kernel_log", "def test_it(kernel_log): pass")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["the kernel became tainted during this test: 0 -> 512, *W*"])


@pytest.mark.usefixtures("log_alone")
@pytest.mark.parametrize(
    ("taints", "logged", "fingerprint"),
    [
        ((0, 0), "WARNING: ksmtests self-test", "WARNING: ksmtests self-test"),
        ((1, 513), "", "taint W"),
    ],
)
def test_record_has_the_fingerprint(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    taints: tuple[int, int],
    logged: str,
    fingerprint: str,
) -> None:
    """Of what was logged, or of new taint bits; not of those that were there before."""
    values = iter(taints)
    monkeypatch.setattr("plugins.kernel_log.taint", lambda: next(values))
    source = LOGGING.format("ksmtests self-test: a context", f"log({logged!r})")
    plugins = ("requirements", "kernels", "upstream_bug", "kernel_log", "kernel_facts", "record")
    pytester.makeconftest(f"pytest_plugins = {[f'plugins.{name}' for name in plugins]}")
    pytester.makepyfile(source)
    pytester.inline_run("--record=run.jsonl")
    (outcome,) = read(pytester.path / "run.jsonl").tests
    assert (outcome.result, outcome.fingerprint) == ("error", fingerprint)


@pytest.mark.parametrize(
    ("bits", "letters"), [(0, ""), (1 << 9, "W"), (1 << 5 | 1 << 14, "BL"), (1 << 40, "(40)")]
)
def test_taints_have_letters(bits: int, letters: str) -> None:
    """As in the kernel's own reports; a bit that came later is a number."""
    assert taint_letters(bits) == letters


@pytest.mark.usefixtures("log_alone")
def test_log_gives_each_line_once() -> None:
    """And nothing that was logged before."""
    kmsg = Path("/dev/kmsg")
    kmsg.write_text("ksmtests self-test: too early\n")
    with KernelLog() as log:
        kmsg.write_text("ksmtests self-test: in time\n")
        found, again = (
            [line.partition("] ")[2] for line in log.new_lines() if "ksmtests self-test" in line]
            for _ in range(2)
        )
    assert (found, again) == (["ksmtests self-test: in time"], [])


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CPU: 1 PID: 123 at mm/ksm.c:2345 ksm_might_unmap+0x1/0x2",
        "[   12.345678] WARNING: mm/ksm.c:2345 at ksm_scan_thread+0x1/0x2, CPU#1: ksmd/42",
        "[   12.345678][   T42] WARNING: mm/ksm.c:2345 at ksm_scan_thread+0x1/0x2, CPU#1: ksmd/42",
        "------------[ cut here ]------------",
        "WARNING: possible circular locking dependency detected",
        "WARNING: suspicious RCU usage",
        "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "BUG: unable to handle page fault for address: ffffc90000000000",
        "BUG: KASAN: slab-use-after-free in ksm_exit+0x1/0x2",
        "BUG: KFENCE: out-of-bounds read in ksm_scan_thread+0x1/0x2",
        "BUG: Bad page state in process python3  pfn:12345",
        "BUG: Bad rss-counter state mm:0000000012345678 type:MM_ANONPAGES val:1",
        "BUG kmalloc-64 (Not tainted): Poison overwritten",
        "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [ksmd:42]",
        "watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 1",
        "kernel BUG at mm/ksm.c:1234!",
        "Oops: 0000 [#1] PREEMPT SMP NOPTI",
        "Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
        "general protection fault: 0000 [#1] SMP",
        "Internal error: Oops: 0000000096000004 [#1] SMP",
        "Internal error: Oops: 5 [#1] SMP ARM",
        "invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
        "double fault: 0000 [#1] PREEMPT SMP",
        "illegal operation: 0001 ilc:1 [#1] SMP",
        "[ BUG: Invalid wait context ]",
        "INFO: rcu_tasks_trace detected stalls on tasks:",
        "Unable to handle kernel NULL pointer dereference at virtual address 00000008",
        "Kernel panic - not syncing: Fatal exception",
        "INFO: task ksmd:42 blocked for more than 120 seconds.",
        "INFO: task ksmd:42 blocked in I/O wait for more than 120 seconds.",
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-... } 21 jiffies",
        "INFO: rcu_tasks detected stalls on tasks:",
        "INFO: trying to register non-static key.",
        "UBSAN: array-index-out-of-bounds in mm/ksm.c:1234:5",
        "mm/pgtable-generic.c:56: bad pmd ffff888012345678(8000000012345067)",
        "swap_info_get: Bad swap file entry 3ffffffffffff",
    ],
)
def test_reports_of_defects_are_trouble(line: str) -> None:
    """As each release and architecture words them."""
    assert is_trouble(line)


@pytest.mark.parametrize(
    "line",
    [
        "ksmtests: zeros placed",
        "Warning: unrelated user text",
        "systemd[1]: warning: unit has no description",
        "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on!",
        "DEBUG: scanned 100 pages",
        "kfence: initialized - using 2097152 bytes for 255 objects",
        "kasan: KernelAddressSanitizer initialized (generic)",
        "traps: python3[123] general protection fault ip:7f sp:7ffd error:0 in libc.so.6[7f+1]",
        "python3[123]: segfault at 0 ip 000055 sp 00007f error 4 in python3.11[55+2]",
        "ramoops: using module parameters",
        "INFO: task scheduling is as usual",
        "python3: page allocation failure: order:9, mode:0x40d20(GFP_TRANSHUGE_LIGHT)",
        "Out of memory: Killed process 123 (python3) total-vm:1kB",
        "bugzilla: BUG 12345 is fixed",
        "",
    ],
)
def test_ordinary_lines_are_no_trouble(line: str) -> None:
    """Other programs log too, and a word alone says nothing."""
    assert not is_trouble(line)
    assert not is_trouble(f"[   12.345678] {line}")
