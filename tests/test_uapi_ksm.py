# SPDX-License-Identifier: GPL-2.0
"""KSM's files: what each release prints, and settings as typed attributes of a directory."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from uapi import ksm, settings
from uapi.ksm import Ksm, ProcessStat, RunState, parse_process_stat
from uapi.thp import Thp

LINUX_6_1 = "ksm_rmap_items 35\n"
LINUX_6_6 = """\
ksm_rmap_items 35
ksm_zero_pages 512
ksm_merging_pages 7
ksm_process_profit -2240
"""
LINUX_6_18 = LINUX_6_6 + "ksm_merge_any: yes\nksm_mergeable: no\n"
FILES = {
    "run": "1\n",
    "sleep_millisecs": "20\n",
    "pages_to_scan": "100\n",
    "use_zero_pages": "0\n",
    "smart_scan": "1\n",
    "advisor_mode": "[none] scan-time\n",
    "full_scans": "7\n",
    "pages_shared": "1\n",
    "pages_sharing": "20\n",
    "pages_unshared": "300\n",
    "pages_volatile": "4000\n",
    "general_profit": "-4096\n",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with files as in /sys/kernel/mm/ksm."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def fake(directory: Path) -> Ksm:
    """KSM's settings and counters in that directory."""
    return Ksm(directory)


@pytest.mark.parametrize(
    ("text", "stat"),
    [
        (LINUX_6_1, ProcessStat(35, None, None, None)),
        (LINUX_6_6, ProcessStat(35, 512, 7, -2240)),
        (LINUX_6_18, ProcessStat(35, 512, 7, -2240)),
        ("", ProcessStat(None, None, None, None)),  # the process has no memory any more
    ],
    ids=["6.1", "6.6", "6.18", "zombie"],
)
def test_process_stat_of_each_release(text: str, stat: ProcessStat) -> None:
    """What a release does not print is None, not zero."""
    assert parse_process_stat(text) == stat


@pytest.mark.parametrize(
    "text", ["ksm_zero_pages many\n", "ksm_zero_pages\n", "ksm zero pages 1\n"]
)
def test_unknown_form_of_process_stat_is_refused(text: str) -> None:
    """A line that cannot be understood is not a count of zero."""
    with pytest.raises(ValueError):
        parse_process_stat(text)


def test_own_process_stat_is_read_from_proc(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the process's number."""
    (tmp_path / "42").mkdir()
    (tmp_path / "42/ksm_stat").write_text(LINUX_6_6)
    monkeypatch.setattr(ksm, "PROC", tmp_path)
    assert ksm.process_stat(42).zero_pages == 512
    with pytest.raises(FileNotFoundError):
        ksm.process_stat(43)


def test_values_have_types(fake: Ksm) -> None:
    """Numbers, switches, states of `run`, and the one choice that is in brackets."""
    assert fake.pages_to_scan == 100
    assert fake.use_zero_pages is False
    assert fake.smart_scan is True
    assert fake.run is RunState.MERGE
    assert fake.advisor_mode == "none"
    assert fake.general_profit == -4096


def test_the_choice_in_brackets_may_be_any(fake: Ksm, directory: Path, tmp_path: Path) -> None:
    """Also one with a hyphen, or in the middle."""
    (directory / "advisor_mode").write_text("none [scan-time]\n")
    assert fake.advisor_mode == "scan-time"
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    assert Thp(tmp_path).enabled == "madvise"


def test_state_of_run_that_does_not_exist_is_refused(fake: Ksm, directory: Path) -> None:
    """The kernel knows 0, 1 and 2."""
    (directory / "run").write_text("3\n")
    with pytest.raises(ValueError, match="3"):
        _ = fake.run


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("run", RunState.UNMERGE, "2"),
        ("pages_to_scan", 2048, "2048"),
        ("use_zero_pages", True, "1"),
        ("smart_scan", False, "0"),
        ("advisor_mode", "scan-time", "scan-time"),
    ],
)
def test_assignment_writes_once(
    fake: Ksm, monkeypatch: pytest.MonkeyPatch, name: str, value: object, text: str
) -> None:
    """The kernel's parsers take each write(2) for a whole value."""
    written: list[bytes] = []
    watched = SimpleNamespace(
        open=os.open,
        close=os.close,
        O_WRONLY=os.O_WRONLY,
        write=lambda _, data: written.append(data),
    )
    monkeypatch.setattr(settings, "os", watched)
    setattr(fake, name, value)
    assert written == [text.encode()]


def test_assignment_reaches_the_file_of_that_name(fake: Ksm, directory: Path) -> None:
    """And no other."""
    fake.sleep_millisecs = 50
    assert (directory / "sleep_millisecs").read_bytes() == b"50\n"  # sysfs ignores what stays
    assert (directory / "pages_to_scan").read_text() == FILES["pages_to_scan"]


def test_refused_value_is_named_with_its_file(fake: Ksm, directory: Path) -> None:
    """An error of write(2)."""
    (directory / "pages_to_scan").unlink()
    (directory / "pages_to_scan").symlink_to("/dev/full")
    with pytest.raises(OSError, match="writing '4096'") as caught:
        fake.pages_to_scan = 4096
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(directory / "pages_to_scan")


def test_missing_setting_is_named_with_the_value(fake: Ksm, directory: Path) -> None:
    """An error of open(2), of its own kind."""
    with pytest.raises(FileNotFoundError, match="writing '256'") as caught:
        fake.max_page_sharing = 256
    assert caught.value.filename == str(directory / "max_page_sharing")


def test_missing_setting_cannot_be_read_either(fake: Ksm, directory: Path) -> None:
    """An older kernel's directory lacks files; the error says which."""
    with pytest.raises(FileNotFoundError) as caught:
        _ = fake.ksm_zero_pages
    assert caught.value.filename == str(directory / "ksm_zero_pages")
    assert (fake.has("run"), fake.has("ksm_zero_pages")) == (True, False)


def test_failed_write_leaves_no_descriptor_open(fake: Ksm, directory: Path) -> None:
    """A setting may be refused any number of times."""
    (directory / "run").unlink()
    (directory / "run").symlink_to("/dev/full")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        with pytest.raises(OSError, match="writing '1'"):
            fake.run = RunState.MERGE
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_counter_refuses_assignment(fake: Ksm, directory: Path) -> None:
    """Only the kernel counts."""
    with pytest.raises(AttributeError, match=f"{directory}/full_scans is read-only"):
        fake.full_scans = 8
    assert fake.full_scans == 7


def test_items_are_what_the_four_counters_hold(fake: Ksm) -> None:
    """Shared, sharing, unshared and volatile."""
    assert fake.rmap_items() == 4321


def test_values_are_every_readable_file_s_text(fake: Ksm, directory: Path) -> None:
    """Without newlines, with the chosen one of several choices; a directory is no value."""
    (directory / "khugepaged").mkdir()
    values = fake.values()
    assert values["advisor_mode"] == "none"
    assert values["pages_to_scan"] == "100"
    assert set(values) == set(FILES)


@pytest.mark.skipif(not Ksm.default_root.is_dir(), reason="this kernel has no KSM")
def test_the_running_kernel_s_files_are_understood() -> None:
    """Every attribute whose file is there can be read."""
    real = Ksm()
    names = [name for name in vars(Ksm) if isinstance(getattr(Ksm, name), settings.Setting)]
    assert len([getattr(real, name) for name in names if real.has(name)]) >= 12
