# SPDX-License-Identifier: GPL-2.0
"""The suite on a machine whose KSM is in an unusual state, or out of reach."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from lease import journal
from lease.journal import KSM
from mm import scanning
from mm.process import Zygote
from mm.region import ZEROS, Region, unique_pattern
from tests.suite_run import (
    QUIET_DEADLINE,
    RESTORE_BOUND,
    SuiteRun,
    machine_to_ourselves,
    nobody_running,
    read_settings,
)
from uapi.ksm import Ksm
from uapi.libc import lib

pytestmark = [
    pytest.mark.timeout(2 * QUIET_DEADLINE),
    pytest.mark.needs("ksm"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can bring KSM into these states"),
]
QUICK = ("ksmtests", "-k", "test_unmerge or test_write_fault or placed_and_counted")
# A user may be kept from the interpreter and the checkout by the modes of directories above them.
AS_NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"),
)
IN_USER_NAMESPACE = ("unshare", "--user", "--map-root-user")


def with_mounts(command: str) -> tuple[str, ...]:
    """A wrapper that mounts in a namespace of its own, then runs what it wraps."""
    return ("unshare", "--mount", "sh", "-c", f'{command} && exec "$@"', "sh")


class Machine:
    """KSM's settings, and runs of the suite under them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runs: list[SuiteRun] = []

    def change(self, **values: str) -> dict[str, str]:
        """Change settings while no test uses KSM; returns all as they are then."""
        with nobody_running():
            problems = journal.apply({f"{KSM}/{name}": value for name, value in values.items()})
            assert problems == []
            return read_settings()

    def run_suite(self, *arguments: str, wrapper: Sequence[str] = ()) -> SuiteRun:
        """Run it to its end."""
        output = self.directory / f"output{len(self.runs)}"
        run = SuiteRun(output, *arguments, wrapper=wrapper)
        self.runs.append(run)
        run.wait()
        return run


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """This machine, which is as before after the test."""
    machine = Machine(tmp_path)
    with machine_to_ourselves():
        with nobody_running():
            own = journal.take()
        yield machine
        for run in machine.runs:
            run.end()
        with nobody_running():
            assert journal.restore(own) == []
            assert journal.take().values == own.values


@pytest.mark.parametrize(
    "state",
    [
        pytest.param({"run": "2"}, id="unmerged"),
        pytest.param({"max_page_sharing": "2", "run": "1"}, id="least sharing"),
        pytest.param({"pages_to_scan": "0", "run": "1"}, id="scanning nothing"),
        pytest.param({"sleep_millisecs": "4000000", "run": "1"}, id="asleep for an hour"),
        pytest.param({"merge_across_nodes": "0", "smart_scan": "0"}, id="per node"),
    ],
)
def test_state_is_left_as_it_was(machine: Machine, state: dict[str, str]) -> None:
    """The suite passes, and every setting is what it was."""
    found = machine.change(**state)
    run = machine.run_suite(*QUICK)
    assert run.wait() == 0, run.text()
    assert run.seconds_to_restore(found) <= RESTORE_BOUND


def test_advisor_is_left_on_and_as_it_was(machine: Machine) -> None:
    """Its own settings too; pages_to_scan starts from its minimum again."""
    machine.change(
        advisor_max_cpu="33",
        advisor_min_pages_to_scan="700",
        advisor_max_pages_to_scan="7000",
        advisor_target_scan_time="77",
    )
    found = machine.change(advisor_mode="scan-time")
    assert found[f"/{KSM}/pages_to_scan"] == "700"
    run = machine.run_suite(*QUICK)
    assert run.wait() == 0, run.text()
    assert run.seconds_to_restore(found) <= RESTORE_BOUND


@pytest.fixture
def neighbour() -> Iterator[Callable[[bytes], Region]]:
    """Another program's memory, mergeable."""
    zygote = Zygote()

    def mergeable(pattern: bytes) -> Region:
        region = Region.map(zygote.process.fork(), 64)
        region.fill(pattern)
        region.advise(lib.MADV_MERGEABLE)
        return region

    yield mergeable
    zygote.close()


@pytest.mark.needs("page_frames")
def test_other_programs_pages_merge_again(
    machine: Machine, neighbour: Callable[[bytes], Region]
) -> None:
    """Tests unmerge everybody's pages; ksmd is left to merge the others' again, as it did."""
    found = machine.change(pages_to_scan="1000", use_zero_pages="1", run="1")
    regions = [neighbour(pattern) for pattern in (unique_pattern(), ZEROS)]
    contents = [region.read() for region in regions]
    for region in regions:
        scanning.wait_until_merged(Ksm(), region)

    run = machine.run_suite(*QUICK)
    assert run.wait() == 0, run.text()
    assert run.seconds_to_restore(found) <= RESTORE_BOUND
    for region, content in zip(regions, contents, strict=True):
        scanning.wait_until_merged(Ksm(), region)
        assert region.read() == content


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(
    ("wrapper", "advice"),
    [
        pytest.param(AS_NOBODY, "this is user 65534: run as root", id="user"),
        pytest.param(
            IN_USER_NAMESPACE, "run as root outside of the container", id="user namespace"
        ),
        pytest.param(
            with_mounts("mount -t tmpfs none /sys/kernel/mm"),
            "boot one that is built with CONFIG_KSM=y",
            id="no KSM",
        ),
        pytest.param(
            with_mounts("mount -o remount,bind,ro /sys"),
            "/sys is mounted read-only: `mount -o remount,rw /sys`",
            id="read-only sysfs",
        ),
    ],
)
def test_suite_that_cannot_run_says_what_to_do(
    machine: Machine, wrapper: tuple[str, ...], advice: str, workers: str
) -> None:
    """One clear message, no traceback, no success, and nothing changed."""
    found = machine.change()
    run = machine.run_suite("-n", workers, "ksmtests", wrapper=wrapper)
    assert run.wait() == pytest.ExitCode.USAGE_ERROR, run.text()
    assert advice in run.text()
    assert "Traceback" not in run.text()
    assert len(run.text().splitlines()) < 10
    assert run.seconds_to_restore(found) <= RESTORE_BOUND


def test_unsafe_directory_is_refused_in_words(machine: Machine) -> None:
    """Where settings cannot be saved none is changed, and each test says why."""
    found = machine.change()
    planted = with_mounts("mount -t tmpfs none /run && mkdir -m 755 /run/ksmtests")
    run = machine.run_suite(*QUICK, wrapper=planted)
    assert run.wait() == pytest.ExitCode.TESTS_FAILED, run.text()
    assert "settings cannot be saved: /run/ksmtests is not a directory of user 0" in run.text()
    assert "membership.py" not in run.text()
    assert run.seconds_to_restore(found) <= RESTORE_BOUND
