# SPDX-License-Identifier: GPL-2.0
"""The journal: what is saved, what is taken for true, and the order of the way back."""

import errno
import itertools
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lease import journal
from lease.journal import KSM, OTHERS, THP, CorruptJournal, Journal
from uapi.fault_injection import FAILSLAB
from uapi.settings import read_value, write_value

BEFORE = {
    f"{KSM}/run": "0",
    f"{KSM}/advisor_mode": "none",
    f"{KSM}/max_page_sharing": "256",
    f"{KSM}/pages_to_scan": "100",
    f"{KSM}/use_zero_pages": "0",
    f"{THP}/enabled": "madvise",
    f"{THP}/khugepaged/max_ptes_none": "511",
    OTHERS[0]: "0",
}
DURING = {
    f"{KSM}/run": "1",
    f"{KSM}/advisor_mode": "scan-time",
    f"{KSM}/max_page_sharing": "2",
    f"{KSM}/pages_to_scan": "2048",
    f"{KSM}/use_zero_pages": "1",
    f"{THP}/enabled": "always",
    f"{THP}/khugepaged/max_ptes_none": "0",
    OTHERS[0]: "1",
}
COUNTERS = {f"{KSM}/pages_shared": "0", f"{KSM}/ksm_zero_pages": "0", f"{THP}/hpage_pmd_size": "1"}


def of_this_boot(values: dict[str, str], *, nothing_merged: bool = False) -> Journal:
    """A journal of settings."""
    return Journal(read_value(journal.BOOT_ID), values, nothing_merged)


def set_all(root: Path, values: dict[str, str]) -> None:
    """Write what the kernel would show."""
    for name, value in values.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree like that of sysfs and procfs, as it was before; no process has zero pages."""
    root = tmp_path / "root"
    set_all(root, BEFORE | COUNTERS)
    for name in COUNTERS:
        (root / name).chmod(0o444)
    monkeypatch.setattr(journal, "zero_pages_of_others", lambda _: 0)
    return root


class Kernel:
    """Takes the place of write_value: records what is written, and refuses what it is told to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.writes: list[tuple[str, str]] = []
        self.refusals: dict[str, list[int]] = {}  # errno values for the next writes to a file

    def write(self, path: Path, value: str) -> None:
        """Write, unless it is to be refused."""
        name = str(path.relative_to(self.root))
        self.writes.append((name, value))
        if errors := self.refusals.get(name):
            number = errors.pop(0)
            raise OSError(number, f"{os.strerror(number)}: writing {value!r}", str(path))
        path.write_text(value)

    def runs(self) -> list[str]:
        """What was written to `run`."""
        return [value for name, value in self.writes if name == f"{KSM}/run"]


@pytest.fixture
def kernel(root: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """The kernel below `root`."""
    kernel = Kernel(root)
    monkeypatch.setattr(journal, "write_value", kernel.write)
    return kernel


def now(root: Path) -> dict[str, str]:
    """The settings as they are."""
    return {name: read_value(root / name) for name in BEFORE}


def test_every_writable_file_is_taken(root: Path) -> None:
    """Settings are, counters are not, and of a list of choices only the chosen one is."""
    set_all(root, {f"{KSM}/advisor_mode": "[none] scan-time"})
    assert journal.take(root) == of_this_boot(BEFORE, nothing_merged=True)


@pytest.mark.parametrize("missing", [THP, f"{THP}/khugepaged", "proc"])
def test_kernel_without_a_part_has_a_journal(root: Path, missing: str) -> None:
    """A kernel may have no huge pages and no delay accounting."""
    (root / missing).rename(root / "elsewhere")
    assert journal.take(root).values == {
        name: value for name, value in BEFORE.items() if not name.startswith(missing)
    }


@pytest.mark.parametrize(
    ("name", "value"), [(f"{KSM}/run", "1"), (f"{KSM}/pages_shared", "3")], ids=["run", "shared"]
)
def test_merging_in_progress_is_noticed(root: Path, name: str, value: str) -> None:
    """Only where nothing is merged, nor can be, may a restore unmerge everything."""
    (root / name).chmod(0o644)
    set_all(root, {name: value})
    assert not journal.take(root).nothing_merged


FAULTS_BEFORE = {
    f"{FAILSLAB}/ignore-gfp-wait": "Y",
    f"{FAILSLAB}/probability": "0",
    f"{FAILSLAB}/task-filter": "N",
    "proc/7/fail-nth": "0",
    "proc/7/make-it-fail": "0",
}
FAULTS_DURING = {
    f"{FAILSLAB}/ignore-gfp-wait": "N",
    f"{FAILSLAB}/probability": "100",
    f"{FAILSLAB}/task-filter": "Y",
    "proc/7/fail-nth": "3",
    "proc/7/make-it-fail": "1",
}


@pytest.fixture
def failing_allocations(root: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """A journal of a kernel whose allocations were not made to fail; now they are, ksmd's alone."""
    monkeypatch.setattr(journal, "ksmd_pid", lambda: 7)
    set_all(root, FAULTS_BEFORE)
    taken = journal.take(root)
    assert journal.of_faults(taken.values) == FAULTS_BEFORE
    set_all(root, FAULTS_DURING)
    return taken


def test_allocations_fail_no_longer(
    failing_allocations: Journal, root: Path, kernel: Kernel
) -> None:
    """None fails before those of every task would: the filter goes last."""
    assert journal.restore(failing_allocations, root) == []
    assert {name: read_value(root / name) for name in FAULTS_BEFORE} == FAULTS_BEFORE
    written = [name for name, _ in kernel.writes]
    assert written.index(f"{FAILSLAB}/probability") < written.index(f"{FAILSLAB}/task-filter")


@pytest.mark.usefixtures("failing_allocations")
def test_ksmd_may_be_out_of_sight(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a PID namespace; nothing can make its allocations fail then."""

    def not_to_be_seen() -> int:
        raise LookupError

    monkeypatch.setattr(journal, "ksmd_pid", not_to_be_seen)
    assert not [name for name in journal.take(root).values if name.startswith("proc/7")]


@pytest.mark.usefixtures("failing_allocations")
def test_locked_debugfs_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under lockdown its files are there, and cannot be opened."""

    def read(path: Path) -> str:
        if path.is_relative_to(root / FAILSLAB):
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        return read_value(path)

    monkeypatch.setattr(journal, "read_value", read)
    assert not [name for name in journal.take(root).values if name.startswith(FAILSLAB)]


def test_zero_pages_are_merged_pages(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Placed zero pages alone are something merged."""
    monkeypatch.setattr(journal, "zero_pages_of_others", lambda _: 1)
    assert not journal.take(root).nothing_merged


@given(
    values=st.dictionaries(st.text(), st.text()),
    nothing_merged=st.booleans(),
)
def test_saved_journal_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, str], nothing_merged: bool
) -> None:
    """What was saved comes back."""
    path = tmp_path_factory.mktemp("journal") / "journal.json"
    saved = of_this_boot(values, nothing_merged=nothing_merged)
    journal.save(saved, path)
    assert journal.load(path) == saved
    assert [left.name for left in path.parent.iterdir()] == ["journal.json"]


def test_journal_of_another_boot_is_none(tmp_path: Path) -> None:
    """A boot sets everything anew: its journal must not be put into force."""
    path = tmp_path / "journal.json"
    journal.save(Journal("not this boot", DURING, nothing_merged=True), path)
    assert journal.load(path) is None


def test_absent_journal_is_none(tmp_path: Path) -> None:
    """Nothing has been changed yet."""
    assert journal.load(tmp_path / "journal.json") is None


@pytest.mark.parametrize("earlier", [None, of_this_boot(BEFORE)], ids=["first", "again"])
def test_draft_is_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: Journal | None
) -> None:
    """A save that dies before its end leaves what was there: nothing, or the earlier journal."""
    path = tmp_path / "journal.json"
    if earlier:
        journal.save(earlier, path)

    def die(descriptor: int) -> None:
        os.ftruncate(descriptor, 20)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        journal.save(of_this_boot(DURING), path)
    assert journal.load(path) == earlier

    monkeypatch.undo()
    journal.save(of_this_boot(DURING), path)
    assert journal.load(path) == of_this_boot(DURING)


def test_journal_cut_short_is_refused(tmp_path: Path) -> None:
    """However short it is cut: an error that names the file and what to do."""
    path = tmp_path / "journal.json"
    journal.save(of_this_boot({f"{KSM}/run": "0"}), path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(
            CorruptJournal, match=rf"{path}, .* cannot be read .*then remove {path}"
        ):
            journal.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"boot_id": "1"}',
        b'{"boot_id": 1, "values": {}, "nothing_merged": true}',
        b'{"boot_id": "1", "values": [], "nothing_merged": true}',
        b'{"boot_id": "1", "values": {"name": 1}, "nothing_merged": true}',
        b'{"boot_id": "1", "values": {}, "nothing_merged": "yes"}',
    ],
)
def test_journal_of_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    """Valid JSON is not enough."""
    path = tmp_path / "journal.json"
    path.write_bytes(content)
    with pytest.raises(CorruptJournal):
        journal.load(path)


def test_journal_may_say_more(tmp_path: Path) -> None:
    """A journal that a later version of the suite wrote is still of use."""
    path = tmp_path / "journal.json"
    saved = of_this_boot(BEFORE)
    path.write_text(json.dumps({**vars(saved), "more": 1}))
    assert journal.load(path) == saved


def test_restore_order(root: Path, kernel: Kernel) -> None:
    """The advisor comes first, for it owns pages_to_scan; run comes last, for it starts ksmd."""
    set_all(root, DURING)
    assert journal.restore(of_this_boot(BEFORE), root) == []
    assert now(root) == BEFORE
    written = [name for name, _ in kernel.writes]
    assert written[0] == f"{KSM}/advisor_mode"
    assert written[-1] == f"{KSM}/run"
    assert sorted(written) == sorted(BEFORE)


def test_values_in_force_are_not_written(root: Path, kernel: Kernel) -> None:
    """A write has effects of its own, so there is none without need."""
    assert journal.restore(of_this_boot(BEFORE), root) == []
    assert kernel.writes == []


def test_what_was_not_merged_is_unmerged_first(root: Path, kernel: Kernel) -> None:
    """Where nothing was merged before, nothing is afterwards."""
    set_all(root, DURING)
    assert journal.restore(of_this_boot(BEFORE, nothing_merged=True), root) == []
    assert kernel.runs() == ["2", "0"]
    assert kernel.writes[0] == (f"{KSM}/run", "2")
    assert now(root) == BEFORE


def test_placed_zero_pages_are_unmerged_where_none_were_asked_for(
    root: Path, kernel: Kernel
) -> None:
    """With use_zero_pages=0 there are to be none; what else is merged will merge again."""
    before = BEFORE | {f"{KSM}/run": "1"}
    set_all(root, DURING | {f"{KSM}/ksm_zero_pages": "32"})
    assert journal.restore(of_this_boot(before), root) == []
    assert kernel.runs() == ["2", "1"]


def test_refused_unmerging_stops_nothing(root: Path, kernel: Kernel) -> None:
    """run=2 may want more memory than there is: all else is still put back, and it is told."""
    set_all(root, DURING)
    kernel.refusals[f"{KSM}/run"] = [errno.ENOMEM]
    problems = journal.restore(of_this_boot(BEFORE, nothing_merged=True), root)
    assert problems == [f"[Errno 12] Cannot allocate memory: writing '2': '{root / KSM / 'run'}'"]
    assert now(root) == BEFORE


def test_advisor_may_keep_pages_to_scan(root: Path, kernel: Kernel) -> None:
    """While it is on, the kernel refuses pages_to_scan: that is as it was."""
    before = BEFORE | {f"{KSM}/advisor_mode": "scan-time", f"{KSM}/pages_to_scan": "700"}
    set_all(root, BEFORE)
    kernel.refusals[f"{KSM}/pages_to_scan"] = [errno.EINVAL]
    assert journal.restore(of_this_boot(before), root) == []
    assert kernel.writes[0] == (f"{KSM}/advisor_mode", "scan-time")


def test_refused_setting_is_told(root: Path, kernel: Kernel) -> None:
    """The message has file, value and reason; the other settings are put back."""
    set_all(root, DURING)
    kernel.refusals[f"{KSM}/pages_to_scan"] = [errno.EINVAL]
    assert journal.restore(of_this_boot(BEFORE), root) == [
        f"[Errno 22] Invalid argument: writing '100': '{root / KSM / 'pages_to_scan'}'"
    ]
    assert now(root) == BEFORE | {f"{KSM}/pages_to_scan": "2048"}


def test_setting_gone_is_told(root: Path) -> None:
    """A file that is no longer there does not keep the others from being put back."""
    set_all(root, DURING)
    (root / OTHERS[0]).unlink()
    (problem,) = journal.restore(of_this_boot(BEFORE), root)
    assert OTHERS[0] in problem
    assert read_value(root / KSM / "run") == "0"


def test_busy_setting_is_retried_with_everything_unmerged(root: Path, kernel: Kernel) -> None:
    """max_page_sharing is EBUSY while pages are shared: stop, unmerge, again; run comes last."""
    set_all(root, DURING)
    kernel.refusals[f"{KSM}/max_page_sharing"] = [errno.EBUSY] * 2
    assert journal.restore(of_this_boot(BEFORE | {f"{KSM}/run": "1"}), root) == []
    sharing = [entry for entry in kernel.writes if entry[0].endswith(("max_page_sharing", "run"))]
    retry = [(f"{KSM}/run", "0"), (f"{KSM}/run", "2"), (f"{KSM}/max_page_sharing", "256")]
    assert sharing == [(f"{KSM}/max_page_sharing", "256"), *retry * 2, (f"{KSM}/run", "1")]


def test_time_until_all_is_unmerged_does_not_count(
    root: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first write waits for ksmd, which may be long in coming on a busy machine."""
    ticks = itertools.count(step=journal.BUSY_DEADLINE + 1)
    monkeypatch.setattr("lease.journal.time.monotonic", lambda: next(ticks))
    set_all(root, DURING)
    kernel.refusals[f"{KSM}/max_page_sharing"] = [errno.EBUSY]
    assert journal.restore(of_this_boot(BEFORE), root) == []
    assert now(root) == BEFORE


def test_busy_setting_is_given_up_at_the_deadline(
    root: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that stays busy is told; the others are put back."""
    monkeypatch.setattr(journal, "BUSY_DEADLINE", 0.01)
    set_all(root, DURING)
    kernel.refusals[f"{KSM}/max_page_sharing"] = [errno.EBUSY] * 1_000_000
    (problem,) = journal.restore(of_this_boot(BEFORE), root)
    assert "Device or resource busy: writing '256'" in problem
    assert now(root) == BEFORE | {f"{KSM}/max_page_sharing": "2"}


def test_write_error_names_file_and_value(tmp_path: Path) -> None:
    """The kernel's own error has neither."""
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"writing '1': '{tmp_path}/full'"):
        write_value(tmp_path / "full", "1")
