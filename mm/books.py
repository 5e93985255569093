# SPDX-License-Identifier: GPL-2.0
"""KSM's system-wide books of shared pages, for the processes of one test.

What other programs have in them is known by their sum alone: the books cannot tell whose page is
the first of its kind. Where no other program uses KSM, each figure is exact by itself.
"""

from dataclasses import dataclass

from uapi import ksm
from uapi.ksm import Ksm


@dataclass(frozen=True)
class Books:
    """The books at one moment, with ksmd stopped; counts are in pages."""

    shared: int  # KSM pages
    sharing: int  # further PTEs that map them
    unshared: int  # looked at, and alone
    volatile: int  # changed since they were last looked at
    chains: int  # KSM pages with duplicates, for max_page_sharing
    duplicates: int  # the duplicates, the first one included
    others: ksm.Share  # what is other programs' of these

    def assert_has(
        self, *, shared: int, sharing: int, unshared: int = 0, volatile: int = 0
    ) -> None:
        """The test's processes have exactly these, besides what is other programs'."""
        __tracebackhide__ = True
        expected = {
            "pages_shared": (shared, self.shared),
            "pages_sharing": (sharing, self.sharing),
            "pages_unshared": (unshared, self.unshared),
            "pages_volatile": (volatile, self.volatile),
        }
        if self.others.rmap_items:
            of_others = self.others
            expected = {
                "pages_shared + pages_sharing less other programs'": (
                    shared + sharing,
                    self.shared + self.sharing - of_others.merging_pages,
                ),
                "pages_unshared + pages_volatile less other programs'": (
                    unshared + volatile,
                    self.unshared
                    + self.volatile
                    - (of_others.rmap_items - of_others.merging_pages),
                ),
            }
        wrong = [
            f"{name}: expected {wanted}, got {got}"
            for name, (wanted, got) in expected.items()
            if wanted != got
        ]
        if wrong:
            raise AssertionError("\n".join([*wrong, f"  {self}"]))


def read_books(settings: Ksm, own: frozenset[int]) -> Books:
    """The books as they are; `own` are the test's processes."""
    return Books(
        settings.pages_shared,
        settings.pages_sharing,
        settings.pages_unshared,
        settings.pages_volatile,
        settings.stable_node_chains,
        settings.stable_node_dups,
        ksm.share_of_others(own),
    )
