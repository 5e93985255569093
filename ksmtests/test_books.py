# SPDX-License-Identifier: GPL-2.0
"""Every counter of KSM, exact, for memory of which each page's fate is known.

ksmd is stopped, and makes one pass at a time. Other programs' pages come on top of the system's
counts: as many as their ksm_rmap_items at most, which is none where no other program uses KSM.
Documentation/admin-guide/mm/ksm.rst names the counters.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import pytest

from mm.process import Process
from mm.region import Region, unique_tokens
from plugins.evidence import Evidence
from plugins.ksm import EnterFirst, KsmAlone
from plugins.processes import RegionFactory
from uapi import ksm
from uapi.ksm import Ksm
from uapi.libc import PAGE_SIZE, lib

pytestmark = [pytest.mark.scanning, pytest.mark.needs("ksm_stat", "page_frames")]

StartProcess: TypeAlias = Callable[[], Process]

EQUAL, DIFFERENT, CHANGING = 9, 5, 3  # pages
BOOKS = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")
CHAINS = ("stable_node_chains", "stable_node_dups")


def assert_books(settings: Ksm, evidence: Evidence, **expected: int) -> None:
    """The system's counters are the expected ones, and other programs' pages at most."""
    foreign = ksm.share_of_others(evidence.pids()).rmap_items
    counts = {name: getattr(settings, name) for name in expected}
    wrong = {
        name: count
        for name, count in counts.items()
        if not expected[name] <= count <= expected[name] + foreign
    }
    assert not wrong, f"{counts}, expected {expected} and {foreign} of others at most"


@dataclass(frozen=True)
class Memory:
    """Three kinds of pages in one process."""

    equal: Region
    different: Region
    changing: Region

    def change(self) -> None:
        """Give the changing pages content that nobody has seen."""
        self.changing.write_each(unique_tokens(self.changing.pages))


@pytest.fixture
def company(region: RegionFactory, start_process: StartProcess) -> Region:
    """A page of another process that finds no equal: without any, ksmd makes no pass."""
    page = region(1, process=start_process())
    page.advise(lib.MADV_MERGEABLE)
    return page


@pytest.fixture
def memory(
    ksm_alone: KsmAlone, process: Process, region: RegionFactory, enter_first: EnterFirst
) -> Memory:
    """Mergeable memory that ksmd has passed over often enough to know it; it is stopped."""
    ksm_alone.unmerge_all()
    enter_first(process)
    found = Memory(region(EQUAL), region(DIFFERENT), region(CHANGING))
    found.different.fill(unique_tokens(DIFFERENT))
    for each in (found.equal, found.different, found.changing):
        each.advise(lib.MADV_MERGEABLE)
    for _ in range(4):
        found.change()
        ksm_alone.pass_once()
    return found


def test_each_page_is_in_one_book(memory: Memory, ksm_alone: KsmAlone, evidence: Evidence) -> None:
    """One page is shared and the others share it; the rest is unshared, or changes too fast."""
    assert_books(
        ksm_alone.settings,
        evidence,
        pages_shared=1,
        pages_sharing=EQUAL - 1,
        pages_unshared=DIFFERENT,
        pages_volatile=CHANGING,
    )
    process = memory.equal.process
    assert process.ksm_stat().rmap_items == EQUAL + DIFFERENT + CHANGING
    assert process.merging_pages == EQUAL


def test_pages_move_from_book_to_book(
    memory: Memory, ksm_alone: KsmAlone, evidence: Evidence
) -> None:
    """A page that ceases to change is unshared; one that is written leaves the shared ones."""
    ksm_alone.pass_once()
    memory.equal.part(0, 2).write_each(unique_tokens(2))
    ksm_alone.pass_once()
    assert_books(
        ksm_alone.settings,
        evidence,
        pages_shared=1,
        pages_sharing=EQUAL - 3,
        pages_unshared=DIFFERENT + CHANGING,
        pages_volatile=2,
    )
    assert memory.equal.process.merging_pages == EQUAL - 2
    ksm_alone.pass_once()
    assert_books(
        ksm_alone.settings,
        evidence,
        pages_shared=1,
        pages_sharing=EQUAL - 3,
        pages_unshared=DIFFERENT + CHANGING + 2,
        pages_volatile=0,
    )


def test_last_sharer_is_the_shared_page(
    memory: Memory, ksm_alone: KsmAlone, evidence: Evidence
) -> None:
    """As sharers write, sharing falls to nothing, and with the last one shared does, too."""
    for left in range(EQUAL - 1, -1, -1):
        memory.equal.write(left, unique_tokens(1)[0])
        memory.change()
        ksm_alone.pass_once()
        assert_books(
            ksm_alone.settings,
            evidence,
            pages_shared=min(left, 1),
            pages_sharing=max(left - 1, 0),
        )
        assert memory.equal.process.merging_pages == left


def test_unmapped_pages_leave_the_books(
    memory: Memory, ksm_alone: KsmAlone, evidence: Evidence
) -> None:
    """In the next pass, with their items."""
    memory.equal.unmap()
    memory.different.unmap()
    memory.change()
    ksm_alone.pass_once()
    assert_books(
        ksm_alone.settings,
        evidence,
        pages_shared=0,
        pages_sharing=0,
        pages_unshared=0,
        pages_volatile=CHANGING,
    )
    process = memory.changing.process
    assert (process.ksm_stat().rmap_items, process.merging_pages) == (CHANGING, 0)


@pytest.mark.parametrize(
    "end", [Process.kill, Process.execute, Process.exit], ids=["kill", "exec", "exit"]
)
def test_books_close_with_the_mm(
    end: Callable[[Process], object],
    company: Region,
    memory: Memory,
    ksm_alone: KsmAlone,
    evidence: Evidence,
) -> None:
    """What an mm had is gone from the system's books after the next pass."""
    end(memory.equal.process)
    ksm_alone.pass_once()
    books = dict.fromkeys((*BOOKS, *CHAINS), 0) | {"pages_unshared": company.pages}
    assert_books(ksm_alone.settings, evidence, **books)


def test_chains_hold_the_duplicates(
    company: Region,
    ksm_alone: KsmAlone,
    process: Process,
    region: RegionFactory,
    enter_first: EnterFirst,
    evidence: Evidence,
) -> None:
    """Nine pages, three to a KSM page: one chain of three, which shrinks as they are written."""
    settings = ksm_alone.settings
    ksm_alone.limit_sharing(3)
    enter_first(process)
    merged = region(9)
    merged.advise(lib.MADV_MERGEABLE)
    for _ in range(4):
        ksm_alone.pass_once()
    assert_books(
        settings,
        evidence,
        pages_shared=3,
        pages_sharing=6,
        pages_unshared=company.pages,
        pages_volatile=0,
        stable_node_chains=1,
        stable_node_dups=3,
    )
    sharers = Counter(state.pfn for state in merged.states())
    assert set(sharers.values()) == {3}

    first = merged.states()[0].pfn
    for page, state in enumerate(merged.states()):
        if state.pfn == first:
            merged.write(page, unique_tokens(1)[0])
    ksm_alone.pass_once()
    assert_books(settings, evidence, pages_shared=2, stable_node_chains=1, stable_node_dups=2)

    merged.advise(lib.MADV_UNMERGEABLE)
    ksm_alone.pass_once()
    assert_books(settings, evidence, pages_shared=0, pages_sharing=0, stable_node_dups=0)


@pytest.mark.usefixtures("memory")
def test_page_below_the_limit_has_no_chain(ksm_alone: KsmAlone, evidence: Evidence) -> None:
    """Chains are for pages that hit max_page_sharing alone."""
    assert_books(ksm_alone.settings, evidence, stable_node_chains=0, stable_node_dups=0)


@pytest.mark.sharing
@pytest.mark.usefixtures("memory")
def test_processes_add_up_to_the_system(
    ksm_alone: KsmAlone,
    region: RegionFactory,
    start_process: StartProcess,
    enter_first: EnterFirst,
) -> None:
    """The system's counts are the sums of all processes': shared and sharing pages, and items."""
    settings = ksm_alone.settings
    across = [region(4, b"\1" * 16, process=start_process()) for _ in range(2)]
    enter_first(*(each.process for each in across))
    for each in across:
        each.advise(lib.MADV_MERGEABLE)
    for _ in range(3):
        ksm_alone.pass_once()
    all_processes = ksm.share_of_others(frozenset())
    assert all_processes.merging_pages == settings.pages_shared + settings.pages_sharing
    assert all_processes.rmap_items == settings.rmap_items()
    assert all_processes.merging_pages >= EQUAL + 8


@pytest.mark.profit
@pytest.mark.needs("ksm_profit")
def test_profits_count_items_of_one_size(memory: Memory, ksm_alone: KsmAlone) -> None:
    """general_profit and ksm_process_profit are of the same sizes of page and item."""
    settings = ksm_alone.settings
    stat = memory.equal.process.ksm_stat()
    size, rest = divmod(EQUAL * PAGE_SIZE - (stat.process_profit or 0), stat.rmap_items or 0)
    assert rest == 0
    ksm_alone.skip_beside_others("general_profit")
    zero_pages = settings.ksm_zero_pages if settings.has("ksm_zero_pages") else 0
    saved = settings.pages_sharing + zero_pages
    assert settings.general_profit == saved * PAGE_SIZE - settings.rmap_items() * size
