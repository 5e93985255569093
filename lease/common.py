# SPDX-License-Identifier: GPL-2.0
"""The settings under which all tests that hold a shared lease run."""

from pathlib import Path

from lease.journal import KSM, apply
from uapi.settings import read_value

COMMON = {
    "advisor_mode": "none",
    "advisor_max_cpu": "70",
    "advisor_min_pages_to_scan": "500",
    "advisor_max_pages_to_scan": "30000",
    "advisor_target_scan_time": "200",
    "sleep_millisecs": "0",  # a merge takes two scans, however long ksmd sleeps between batches
    "pages_to_scan": "2048",  # large: few sleeps; small: writing `run` waits for a whole batch
    "use_zero_pages": "1",
    "smart_scan": "0",  # nothing is skipped: two scans suffice
    "max_page_sharing": "256",
    "merge_across_nodes": "1",
    "stable_node_chains_prune_millisecs": "2000",
    "run": "1",
}
TASK_DELAYACCT = "proc/sys/kernel/task_delayacct"  # only tasks born under it are counted


class SettingRefused(Exception):
    """The kernel refused a setting all tests need."""


def _wanted(root: Path) -> dict[str, str]:
    values = {f"{KSM}/{name}": value for name, value in COMMON.items()}
    values[TASK_DELAYACCT] = "1"
    return {name: value for name, value in values.items() if (root / name).exists()}


def differences(root: Path = Path("/")) -> list[str]:
    """Settings that are not as the tests need them, `name: value, not value` each."""
    return [
        f"{name}: {found}, not {value}"
        for name, value in _wanted(root).items()
        if (found := read_value(root / name)) != value
    ]


def bring_into_force(root: Path = Path("/")) -> None:
    """Set them. Raises SettingRefused."""
    problems = apply(_wanted(root), root)
    if problems:
        raise SettingRefused("; ".join(problems))
