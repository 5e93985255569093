# SPDX-License-Identifier: GPL-2.0
"""Memory that the kernel leaks, as kmemleak reports it, fails the tests it was leaked in."""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from tests.test_kernel_log import log_alone
from uapi import kmemleak

pytest_plugins = "pytester"
__all__ = ["log_alone"]

# 6.1 tells the age, and its lines have addresses; the others have checksums.
FORMER = """\
unreferenced object 0xffff88800a1b2c30 (size 64):
  comm "python3", pid 501, jiffies 4294890000 (age 31.148s)
  hex dump (first 32 bytes):
    00 00 00 00 00 00 00 00 0d 01 2d 00 00 00 00 00  ..........-.....
  backtrace:
    [<00000000a1b2c3d4>] kmem_cache_alloc+0x19a/0x2b0
    [<00000000a1b2c3d5>] __ksm_enter+0x3b/0x1c0
    [<00000000a1b2c3d6>] ksm_madvise+0x5a/0xd0
"""
LATEST = """\
unreferenced object (percpu) 0x607e4fc0a1c8 (size 8):
  comm "ksmd", pid 31, jiffies 4294895000
  hex dump (first 8 bytes on cpu 0):
    00 00 00 00 00 00 00 00                          ........
  backtrace (crc 3b0a1f7d):
    pcpu_alloc_noprof+0x9f5/0xe30
    ksm_scan_thread+0x1/0x2
"""
SUITE = """
def test_first(kernel_log): pass
def test_second(kernel_log): pass
"""

Leaking: TypeAlias = Callable[..., pytest.RunResult]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (FORMER, [("ffff88800a1b2c30", 4294890000)]),
        (FORMER + LATEST, [("ffff88800a1b2c30", 4294890000), ("607e4fc0a1c8", 4294895000)]),
        ("unreferenced object 0x1 (size 2):", []),
        ("nonsense\n\n", []),
    ],
)
def test_reports_are_read(text: str, found: list[tuple[str, int]]) -> None:
    """As 6.1 and 7.2 write them; what is cut off is left out."""
    assert [(leak.address, leak.jiffies) for leak in kmemleak.parse(text)] == found


def test_kernel_tells_its_clock() -> None:
    """It runs."""
    before = kmemleak.jiffies()
    assert 0 < before <= kmemleak.jiffies()


@pytest.fixture
def leaking(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Leaking:
    """Run two tests on a kernel that leaks: what it reports after a number of scans."""

    def run(*reports: str | OSError, clock: tuple[int, ...]) -> pytest.RunResult:
        file = pytester.path / "kmemleak"
        file.write_text(str(reports[0]))
        scans = iter(reports[1:])
        ticks = iter(clock)

        def scan() -> None:
            seen = next(scans)
            if isinstance(seen, OSError):
                raise seen
            file.write_text(seen)

        monkeypatch.setattr(kmemleak, "FILE", file)
        monkeypatch.setattr(kmemleak, "LEAST_AGE_S", 0.0)
        monkeypatch.setattr(kmemleak, "jiffies", lambda: next(ticks))
        monkeypatch.setattr(kmemleak, "scan", scan)
        pytester.makeconftest("pytest_plugins = ('plugins.kernel_log', 'plugins.kernel_leaks')")
        pytester.makepyfile(SUITE)
        return pytester.runpytest_inprocess()

    return run


@pytest.mark.usefixtures("log_alone")
def test_a_leak_fails_the_module(leaking: Leaking) -> None:
    """Its last test, with the one it was leaked in, once two scans have seen it."""
    done = leaking("", "", FORMER, clock=(4294880000, 4294889000))
    done.assert_outcomes(passed=2, errors=1)
    done.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_second*",
            "the kernel reports 1 leaks: memory leak in __ksm_enter, ksm_madvise",
            "allocated during *::test_second:",
            "unreferenced object 0xffff88800a1b2c30 (size 64):",
        ]
    )


@pytest.mark.usefixtures("log_alone")
def test_a_leak_is_of_the_test_that_ran(leaking: Leaking) -> None:
    """By the time of the allocation."""
    done = leaking("", "", FORMER, clock=(4294880000, 4294890001))
    done.stdout.fnmatch_lines(["allocated during *::test_first:"])


@pytest.mark.usefixtures("log_alone")
@pytest.mark.parametrize(
    ("before", "clock"),
    [(FORMER, (4294880000, 4294889000)), ("", (4294890001, 4294890002))],
    ids=["reported before", "allocated before"],
)
def test_a_leak_of_before_is_none(before: str, clock: tuple[int, ...], leaking: Leaking) -> None:
    """It may have been found late."""
    leaking(before, FORMER, FORMER, clock=clock).assert_outcomes(passed=2)


@pytest.mark.usefixtures("log_alone")
def test_kmemleak_may_give_up(leaking: Leaking) -> None:
    """It is out of memory for its own: that nobody looks for leaks any more has to be known."""
    done = leaking("", PermissionError(1, "Operation not permitted"), clock=(1, 2))
    done.assert_outcomes(passed=2, errors=1)
    done.stdout.fnmatch_lines(["kmemleak gave up during these tests: *Operation not permitted"])
