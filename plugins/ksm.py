# SPDX-License-Identifier: GPL-2.0
"""Who uses the kernel's one KSM: the fixtures `ksm` (with others) and `ksm_alone`.

Under `ksm` a test may look at its own processes and wait for ksmd; all settings are those of
`lease.common`. Under `ksm_alone` it may change settings, stop ksmd and read system-wide counters.
"""

import errno
import fcntl
import signal
from collections.abc import Callable, Iterator
from subprocess import CalledProcessError
from typing import Protocol, TypeAlias

import pytest

from arch import Arch
from lease import common, journal
from lease.journal import CorruptJournal
from lease.locks import LockTimeout
from lease.membership import Membership, UnsafeDirectory
from mm import scanning
from mm.books import Books, read_books
from mm.ledger import Ledger
from mm.process import Process, Zygote
from mm.region import Region
from plugins.evidence import Evidence
from plugins.requirements import architecture
from uapi import libc
from uapi.ksm import Ksm, RunState, share_of_others
from uapi.libc import lib
from uapi.pagemap import PageKind

OpenLedger: TypeAlias = Callable[[Region], Ledger]
ReadBooks: TypeAlias = Callable[[], Books]


class EnterFirst(Protocol):
    """Has ksmd look at processes before all others."""

    def __call__(self, *processes: Process) -> None:
        """They are new to KSM. ksmd is stopped then, at the end of a pass. Raises KsmdStalled."""
        ...


class SharedKsm:
    """KSM while other tests use it too."""

    def __init__(self, evidence: Evidence, architecture: Arch) -> None:
        self.settings = Ksm()
        self._evidence = evidence
        self._architecture = architecture

    def merge(self, region: Region) -> Region:
        """MADV_MERGEABLE, then wait until every page is merged. Raises NotMerged."""
        region.advise(lib.MADV_MERGEABLE)
        self.wait_until_merged(region)
        return region

    def wait_until_merged(self, region: Region) -> None:
        """Wait until every page is merged. Raises NotMerged."""
        scanning.wait_until_merged(self.settings, region)
        if self._architecture.places_zeros_late and self.settings.use_zero_pages:
            self._place_again(region)
        self._evidence.note("when merged", region)

    def place(self, region: Region, pages: int) -> Region:
        """MADV_MERGEABLE, then wait until so many of its pages are zero pages. Raises NotMerged."""
        region.advise(lib.MADV_MERGEABLE)
        if self._architecture.places_zeros_late:
            scanning.wait_until_some_merged(self.settings, region, pages, scanning.MERGED_KINDS)
            region.advise(lib.MADV_UNMERGEABLE)
            region.advise(lib.MADV_MERGEABLE)
        scanning.wait_until_some_merged(self.settings, region, pages, (PageKind.ZERO,))
        self._evidence.note("when placed", region)
        return region

    def _place_again(self, region: Region) -> None:
        """Unmerge zeros that merged with each other; what a second merge finds is clean."""
        readable = all("rd" in vma.flags for vma in region.vmas())
        if readable and any(
            state.kind is PageKind.KSM and not any(region.read(page, 1))
            for page, state in enumerate(region.states())
        ):
            region.advise(lib.MADV_UNMERGEABLE)
            region.advise(lib.MADV_MERGEABLE)
            scanning.wait_until_merged(self.settings, region)

    def wait_until(self, done: Callable[[], bool], passes: int = 10) -> bool:
        """Wait until `done()`, for at most so many passes of ksmd; whether it came true."""
        return scanning.wait_until(self.settings, done, passes)

    def wait_for_passes(self, passes: int = 2) -> None:
        """Let ksmd pass over all memory; two passes merge whatever it may merge."""
        scanning.wait_for_passes(self.settings, passes)


class KsmAlone(SharedKsm):
    """KSM while no other test uses it: `settings` may be assigned."""

    def stop(self) -> None:
        """run=0: what is merged stays, nothing new is."""
        self.settings.run = RunState.STOP

    def start(self) -> None:
        """run=1."""
        self.settings.run = RunState.MERGE

    def pass_once(self) -> None:
        """With ksmd stopped, have it end its pass; again, and it looks at each page just once."""
        scanning.pass_once(self.settings)

    def come_to_first(self) -> None:
        """With ksmd stopped, have it end its pass and come to the first process: it must know one.

        A process that is new to KSM then is looked at before all others, from the next pass on.
        """
        scanning.come_to_first(self.settings)

    def scan_until(self, done: Callable[[], bool]) -> None:
        """With ksmd stopped, have it look at page after page until `done()`. Needs pages_scanned.

        Raises NotMerged.
        """
        scanning.scan_until(self.settings, done)

    def batch_once(self) -> None:
        """With ksmd stopped, have it scan one batch; one without a page left ends the pass."""
        scanning.batch_once(self.settings)

    def limit_sharing(self, limit: int) -> None:
        """Set max_page_sharing, with nothing shared, and go on.

        Raises OSError (EBUSY) where a process outside the tests keeps a KSM page that run=2 does
        not reach: a child that is not mergeable of a parent that is.
        """
        self._set_unshared("max_page_sharing", limit)

    def merge_within_nodes(self) -> None:
        """Set merge_across_nodes=0, with nothing shared, and go on. Raises as limit_sharing()."""
        self._set_unshared("merge_across_nodes", 0)

    def _set_unshared(self, name: str, value: int) -> None:
        problems = journal.apply({f"{journal.KSM}/{name}": str(value)})
        if problems:
            raise OSError(errno.EBUSY, problems[0])
        self.start()

    def skip_beside_others(self, figure: str) -> None:
        """Skip a test of a system-wide `figure` where another program has pages in KSM.

        To be asked once ksmd has passed: before, KSM may not know the other program's pages.
        """
        if items := share_of_others(self._evidence.pids()).rmap_items:
            pytest.skip(f"{figure} is the whole system's: other programs have {items} pages in KSM")

    def unmerge_all(self) -> None:
        """run=2: unmerge every process's pages, then stop."""
        self.settings.run = RunState.UNMERGE


def pytest_configure(config: pytest.Config) -> None:
    """End a pytest-xdist worker with its controller: by itself it lives on for 15 s."""
    if hasattr(config, "workerinput"):
        libc.prctl(lib.PR_SET_PDEATHSIG, signal.SIGKILL)


@pytest.fixture(scope="session")
def zygote() -> Zygote:
    """What all processes of the tests are forked from; the membership ends it."""
    return Zygote()


@pytest.fixture(scope="session")
def membership(zygote: Zygote) -> Iterator[Membership]:
    """Settings are saved from here on, and put back when the last member leaves.

    The zygote starts up meanwhile.
    """
    try:
        member = Membership()
    except (OSError, CalledProcessError, UnsafeDirectory, CorruptJournal, LockTimeout) as error:
        zygote.close()
        pytest.fail(f"KSM's settings cannot be saved: {error}", pytrace=False)
    yield member
    zygote.close()
    problems = member.leave()
    if problems:
        pytest.fail("KSM settings were not restored: " + "; ".join(problems), pytrace=False)


@pytest.fixture
def lease(request: pytest.FixtureRequest, membership: Membership) -> Iterator[None]:
    """The right to use KSM until the test's processes are gone: alone or shared."""
    if "ksm_alone" in request.fixturenames:
        with membership.lease.hold(fcntl.LOCK_EX):
            common.bring_into_force()
            yield
            common.bring_into_force()
        return
    while True:
        with membership.lease.hold(fcntl.LOCK_SH):
            if not common.differences():
                yield
                if changed := common.differences():
                    pytest.fail(
                        "another program changed settings during this test: " + "; ".join(changed),
                        pytrace=False,
                    )
                return
        # A test that had KSM alone was killed before it could tidy up, or nobody was first yet.
        with membership.lease.hold(fcntl.LOCK_EX):
            common.bring_into_force()


@pytest.fixture
def ksm(lease: None, evidence: Evidence, pytestconfig: pytest.Config) -> SharedKsm:
    """KSM under the common settings, shared with other tests."""
    return SharedKsm(evidence, architecture(pytestconfig))


@pytest.fixture
def ksm_alone(lease: None, evidence: Evidence, pytestconfig: pytest.Config) -> KsmAlone:
    """KSM for one test; the common settings are put back after it."""
    return KsmAlone(evidence, architecture(pytestconfig))


@pytest.fixture
def ledger(ksm_alone: KsmAlone, evidence: Evidence) -> OpenLedger:
    """Keep KSM's books over an event: `with ledger(region) as books: …`."""
    return lambda region: Ledger(ksm_alone.settings, region, evidence.pids)


@pytest.fixture
def enter_first(ksm_alone: KsmAlone, start_process: Callable[[], Process]) -> EnterFirst:
    """Have ksmd look at processes before all others, whatever those do to their memory.

    Each gets a mergeable page for it that nobody ever touches.
    """

    def make_known(process: Process) -> None:
        Region.map(process, 1, prot=lib.PROT_NONE).advise(lib.MADV_MERGEABLE)

    def enter(*processes: Process) -> None:
        ksm_alone.stop()
        make_known(start_process())  # else ksmd may know nobody, and makes no pass
        ksm_alone.come_to_first()
        for process in processes:
            make_known(process)
        ksm_alone.pass_once()

    return enter


@pytest.fixture
def books(
    ksm_alone: KsmAlone, evidence: Evidence, enter_first: EnterFirst, process: Process
) -> ReadBooks:
    """Read KSM's books of shared pages, with ksmd stopped; they begin empty.

    The process under test is the first that ksmd looks at.
    """
    # A process that is gone stays in them until ksmd next passes by, and is nobody's meanwhile.
    ksm_alone.unmerge_all()
    enter_first(process)
    ksm_alone.start()

    def read() -> Books:
        ksm_alone.stop()
        return read_books(ksm_alone.settings, evidence.pids())

    return read
