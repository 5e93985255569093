# SPDX-License-Identifier: GPL-2.0
"""What a failure shows: the regions of the test, their counters, KSM's settings."""

from collections.abc import Generator
from typing import Any

import pytest

from mm.process import Process
from mm.region import Region
from uapi.ksm import Ksm

SECTION = "KSM evidence"


class Evidence:
    """What a test works on; asked only if it fails."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.regions: list[Region] = []
        self.notes: list[str] = []

    def watch(self, region: Region) -> Region:
        """Show this region when the test fails."""
        self.regions.append(region)
        return region

    def watch_process(self, process: Process) -> Process:
        """Show this process's counters when the test fails."""
        self.processes.append(process)
        return process

    def note(self, when: str, region: Region) -> None:
        """Keep the region's state now, to be shown beside its state at the failure."""
        self.notes.append(f"{when}: {_process_line(region.process)}; {_region_line(region)}")

    def pids(self) -> frozenset[int]:
        """The processes of the test, dead or alive."""
        return frozenset(process.pid for process in self.processes)

    def text(self) -> str:
        """The state of everything watched, now."""
        lines = list(self.notes)
        lines += [f"at the failure: {_process_line(process)}" for process in self.processes]
        lines += [f"at the failure: {_region_line(region)}" for region in self.regions]
        settings = Ksm().values()
        lines.append(
            "settings: " + ", ".join(f"{name} {value}" for name, value in settings.items())
        )
        return "\n".join(lines)


def _process_line(process: Process) -> str:
    try:
        stat = process.ksm_stat()
    except OSError:
        return f"process {process.pid}: ended"
    return (
        f"process {process.pid}: ksm_zero_pages {stat.zero_pages}, "
        f"ksm_merging_pages {stat.merging_pages}, ksm_rmap_items {stat.rmap_items}, "
        f"profit {stat.process_profit} bytes"
    )


def _region_line(region: Region) -> str:
    where = f"{region.pages} pages at {region.address:#x} of {region.process.pid}"
    try:
        return f"{where}: {region.describe()}"
    except OSError as error:
        return f"{where}: {error}"


_KEY = pytest.StashKey[Evidence]()


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Evidence:
    """The evidence of this test."""
    node: pytest.Item = request.node
    return node.stash.setdefault(_KEY, Evidence())


def _text(evidence: Evidence) -> str:
    """The evidence, or why there is none: an exception in a hook would end the whole run."""
    try:
        return evidence.text()
    except Exception as error:  # noqa: BLE001
        return f"not to be had: {error!r}"


@pytest.hookimpl(hookwrapper=True)  # pytest 7.2 has no other
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Add the evidence while the test's processes still live."""
    report: pytest.TestReport = (yield).get_result()
    if call.excinfo and not report.skipped and _KEY in item.stash and call.when != "teardown":
        report.sections.append((SECTION, _text(item.stash[_KEY])))
