# SPDX-License-Identifier: GPL-2.0
"""The files of /sys/kernel/mm/ksm: who may do what with them, and which values they take.

Documentation/admin-guide/mm/ksm.rst names the files and defaults; bounds and errors are those of
mm/ksm.c and lib/kstrtox.c, as the documentation gives none but for max_page_sharing.
"""

import errno
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from ksmtests import in_process, sysfs
from ksmtests.in_process import opening_errno
from lease import journal
from lease.membership import Membership
from mm.process import Process
from plugins.ksm import KsmAlone
from uapi.ksm import Ksm
from uapi.libc import LONG_BYTES

pytestmark = pytest.mark.settings

MOST = {"int": 2**31 - 1, "unsigned int": 2**32 - 1, "unsigned long": 2 ** (8 * LONG_BYTES) - 1}
NO_NUMBERS = ("x", "-", "+", "0x10", "1k", "1.0", "1 2", " 1", "1 ", "1\n\n", "\n", "٣")

SWITCH_ON, SWITCH_OFF = ("1", "y", "Y", "on", "oN", "On", "ON", "yes"), ("0", "n", "N", "off", "OF")
NO_SWITCHES = ("2", "-1", "x", "o", "ox", " 1", "\n", "maybe", "+1")


@dataclass(frozen=True)
class File:
    """A file that can be written."""

    name: str
    default: str  # after boot
    accepted: Mapping[str, str]  # what is written -> what is read then
    refused: dict[str, int]  # what is written -> errno


def number(
    name: str,
    default: int,
    kind: str,
    *,
    least: int = 0,
    most: int | None = None,
    out_of_range: int = errno.EINVAL,
) -> File:
    """A decimal number; `kind` is what the kernel keeps it in."""
    largest = MOST[kind] if most is None else most
    written = [str(least), str(largest), f"+{least + 1}", f"{least}\n", f"00{least + 1}"]
    accepted = {text: str(int(text)) for text in written}
    refused = dict.fromkeys(NO_NUMBERS, errno.EINVAL)
    # What its type cannot hold is out of range; an unsigned one takes no sign.
    refused[str(MOST[kind] + 1)] = refused[str(10 * MOST[kind])] = out_of_range
    refused[str(least - 1)] = errno.EINVAL
    refused[str(largest + 1)] = out_of_range if largest == MOST[kind] else errno.EINVAL
    return File(name, str(default), accepted, refused)


def switch(name: str, default: int) -> File:
    """On or off, in any words that begin as kstrtobool() wants them."""
    accepted = dict.fromkeys(SWITCH_OFF, "0") | dict.fromkeys(SWITCH_ON, "1")
    return File(name, str(default), accepted, dict.fromkeys(NO_SWITCHES, errno.EINVAL))


MODE = File(
    "advisor_mode",
    "none",
    {
        "scan-time": "none [scan-time]",
        "none": "[none] scan-time",
        "scan-time\n": "none [scan-time]",
        "none\n": "[none] scan-time",
    },
    dict.fromkeys(
        ("None", "scan", "scan-time ", " none", "scan_time", "[none]", "0", "1", "\n", "none none"),
        errno.EINVAL,
    ),
)
EVERYWHERE = [
    number("run", 0, "unsigned int", most=2),
    number("sleep_millisecs", 20, "unsigned int"),
    number("pages_to_scan", 100, "unsigned int"),
    number("stable_node_chains_prune_millisecs", 2000, "unsigned int"),
    number("max_page_sharing", 256, "int", least=2, out_of_range=errno.ERANGE),
    switch("use_zero_pages", 0),
]
ACROSS_NODES = number("merge_across_nodes", 1, "unsigned long", most=1, out_of_range=errno.ERANGE)
SMART_SCAN = switch("smart_scan", 1)
MAX_CPU = number("advisor_max_cpu", 70, "unsigned long", most=2**32 - 1)
# Parsed as a long, kept in an int: where they differ, see test_max_cpu_is_refused_or_kept.
MAX_CPU.refused.pop(str(2**32) if LONG_BYTES > 4 else "", None)
ADVISOR = [
    MODE,
    MAX_CPU,
    number("advisor_min_pages_to_scan", 500, "unsigned long"),
    number("advisor_max_pages_to_scan", 30000, "unsigned long"),
    number("advisor_target_scan_time", 200, "unsigned long", least=1),
]

SIDE_EFFECTS = {"advisor_mode": {"pages_to_scan"}}  # see test_advisor
COUNTERS = (
    *("full_scans", "pages_shared", "pages_sharing", "pages_unshared", "pages_volatile"),
    *("stable_node_chains", "stable_node_dups"),
)


def needing(feature: str, *what: object) -> list[object]:
    """Parameters for kernels with a feature, by the names of their files."""
    mark = pytest.mark.needs(feature)
    return [pytest.param(each, id=str(getattr(each, "name", each)), marks=mark) for each in what]


FILES = [
    *(pytest.param(file, id=file.name) for file in EVERYWHERE),
    *needing("merge_across_nodes", ACROSS_NODES),
    *needing("smart_scan", SMART_SCAN),
    *needing("ksm_advisor", *ADVISOR),
]
READ_ONLY = [
    *COUNTERS,
    *needing("pages_scanned", "pages_scanned"),
    *needing("ksm_profit", "general_profit"),
    *needing("ksm_zero_pages", "ksm_zero_pages"),
    *needing("smart_scan", "pages_skipped"),
]


@pytest.fixture
def nothing_shared(ksm_alone: KsmAlone) -> Ksm:
    """KSM with nothing shared, so that every setting may change, and ksmd stopped."""
    ksm_alone.unmerge_all()
    ksm_alone.stop()
    return ksm_alone.settings


@pytest.fixture
def nobody(process: Process) -> Process:
    """A process without privileges."""
    process.call(in_process.become_nobody)
    return process


def writable_values() -> dict[str, str]:
    """Every setting's value."""
    return {
        path.name: path.read_text()
        for path in Ksm.default_root.iterdir()
        if path.stat().st_mode & stat.S_IWUSR
    }


@pytest.mark.parametrize("file", FILES)
@pytest.mark.usefixtures("nothing_shared")
def test_setting_takes_what_is_valid(file: File) -> None:
    """Each valid text is accepted and read back, with one newline; no other setting changes."""
    others = writable_values()
    for text, value in file.accepted.items():
        assert sysfs.written_errno(file.name, text) == 0, f"{file.name} refused {text!r}"
        assert sysfs.raw(file.name) == f"{value}\n", f"{file.name} after {text!r}"
    changed = {name for name, value in writable_values().items() if value != others[name]}
    assert changed <= {file.name} | SIDE_EFFECTS.get(file.name, set())


@pytest.mark.parametrize("file", FILES)
@pytest.mark.usefixtures("nothing_shared")
def test_setting_refuses_what_is_not(file: File) -> None:
    """With the error for it, and a refused text changes nothing."""
    before = writable_values()
    for text, error in file.refused.items():
        assert sysfs.written_errno(file.name, text) == error, f"{file.name}: {text!r}"
        assert sysfs.raw(file.name) == before[file.name], f"{file.name} after {text!r}"
    assert writable_values() == before


@pytest.mark.parametrize("file", FILES)
@pytest.mark.usefixtures("nothing_shared")
def test_writing_nothing_changes_nothing(file: File) -> None:
    """write(2) of no bytes succeeds and never gets to the setting (fs/sysfs/file.c)."""
    before = writable_values()
    assert sysfs.written_errno(file.name, "") == 0
    assert writable_values() == before


@pytest.mark.parametrize("file", FILES)
def test_setting_is_for_root_to_write_and_for_all_to_read(file: File, nobody: Process) -> None:
    """ksm.rst: readable by all but writable only by root."""
    path = Ksm.default_root / file.name
    status = path.stat()
    assert (stat.filemode(status.st_mode), status.st_uid) == ("-rw-r--r--", 0)
    assert nobody.call(in_process.opening_errno, str(path), os.O_RDONLY) == 0
    assert nobody.call(in_process.opening_errno, str(path), os.O_WRONLY) == errno.EACCES


@pytest.mark.parametrize("name", READ_ONLY)
def test_counter_is_a_number_nobody_can_write(name: str, nobody: Process) -> None:
    """One decimal number; opening it for writing is EACCES for root, too (fs/kernfs/file.c)."""
    path = Ksm.default_root / name
    assert stat.filemode(path.stat().st_mode) == "-r--r--r--"
    assert re.fullmatch(r"-?(0|[1-9][0-9]*)\n", path.read_text())
    assert nobody.call(in_process.opening_errno, str(path), os.O_RDONLY) == 0
    assert opening_errno(str(path), os.O_WRONLY) == errno.EACCES


@pytest.mark.parametrize("file", FILES)
@pytest.mark.needs("boot_settings")
@pytest.mark.usefixtures("lease")
def test_default(file: File, membership: Membership) -> None:
    """What the kernel begins with: ksm.rst, and for what it leaves out mm/ksm.c.

    The journal has the settings as they were before the suite's first change.
    """
    saved = journal.load(membership.directory / "journal.json")
    assert saved is not None
    assert saved.values[f"{journal.KSM}/{file.name}"] == file.default


@pytest.mark.needs("ksm_advisor", "long_64")
@pytest.mark.upstream_bug("advisor_max_cpu takes numbers it cannot keep")
@pytest.mark.usefixtures("nothing_shared")
def test_max_cpu_is_refused_or_kept() -> None:
    """A number that is accepted is read back.

    advisor_max_cpu_store() parses an unsigned long and keeps its lower 32 bits.
    """
    too_large = str(2**32 + 5)
    assert (
        sysfs.written_errno("advisor_max_cpu", too_large)
        or sysfs.raw("advisor_max_cpu") == f"{too_large}\n"
    )
