# SPDX-License-Identifier: GPL-2.0
"""KSM's books before and after an event: per mm, system-wide, and what the page tables say.

ksmd is stopped meanwhile, and other programs' shares of the system-wide count are subtracted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from mm.region import Region
from uapi import ksm
from uapi.ksm import Ksm, RunState
from uapi.pagemap import PageKind, run_lengths

ANONYMOUS_KINDS = (PageKind.ANON, PageKind.THP, PageKind.KSM)
QUIET_DEADLINE = 60.0  # s for other programs to stop losing zero pages; with ksmd stopped, none
#                          gets a new one


class NeverQuiet(Exception):
    """Other programs' KSM-placed zero pages kept changing."""


@dataclass(frozen=True)
class Account:
    """The books at one moment, in pages."""

    zero_pages: int  # per mm
    system_zero_pages: int  # the kernel's total less that of mms foreign to the test
    anonymous: int  # pages of the region that memory stands behind, KSM pages included
    pages: str  # page states, run-length coded

    def __str__(self) -> str:
        return (
            f"ksm_zero_pages {self.zero_pages}, of the system {self.system_zero_pages}, "
            f"anonymous {self.anonymous} | {self.pages}"
        )


def system_zero_pages(settings: Ksm, own: frozenset[int]) -> int:
    """The global ksm_zero_pages less what mms other than those of `own` account for.

    Raises NeverQuiet.
    """
    end = time.monotonic() + QUIET_DEADLINE
    while time.monotonic() < end:
        before = ksm.zero_pages_of_others(own)
        total = settings.ksm_zero_pages
        if ksm.zero_pages_of_others(own) == before:
            return total - before
    raise NeverQuiet(
        f"other programs' ksm_zero_pages still change {QUIET_DEADLINE:.0f} s after ksmd was stopped"
    )


class Ledger:
    """Context manager around an event: `with ledger: …`, then `assert_change`."""

    def __init__(self, settings: Ksm, region: Region, own: Callable[[], frozenset[int]]) -> None:
        self.settings = settings
        self.region = region
        self.own = own

    def account(self) -> Account:
        """Read the books now; an mm that is gone holds nothing."""
        try:
            zero_pages = self.region.process.zero_pages
            states = self.region.states()
        except (FileNotFoundError, ProcessLookupError):
            zero_pages, states = 0, []
        return Account(
            zero_pages,
            system_zero_pages(self.settings, self.own()),
            sum(state.kind in ANONYMOUS_KINDS for state in states),
            run_lengths(states) or "(the process is gone)",
        )

    def __enter__(self) -> Self:
        self.settings.run = RunState.STOP
        self.before = self.account()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is None:
            self.after = self.account()

    def assert_change(
        self, *, zero_pages: int, anonymous: int | None, system_zero_pages: int | None = None
    ) -> None:
        """Compare the changes, in pages; the system's is the mm's unless given.

        `anonymous` is None where the region's addresses mean something else afterwards.
        """
        __tracebackhide__ = True
        expected = {
            "ksm_zero_pages of the mm": (zero_pages, self._change("zero_pages")),
            "ksm_zero_pages of the system": (
                zero_pages if system_zero_pages is None else system_zero_pages,
                self._change("system_zero_pages"),
            ),
            "anonymous pages": (anonymous, self._change("anonymous")),
        }
        wrong = [
            f"{name} changed by {got:+d}, expected {wanted:+d}"
            for name, (wanted, got) in expected.items()
            if wanted is not None and wanted != got
        ]
        if wrong:
            raise AssertionError(
                "\n".join([*wrong, f"  before: {self.before}", f"  after:  {self.after}"])
            )

    def _change(self, name: str) -> int:
        change: int = getattr(self.after, name) - getattr(self.before, name)
        return change
