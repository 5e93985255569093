# SPDX-License-Identifier: GPL-2.0
"""Make this kernel look as if it had one named bug: `pytest -p tests.sabotage --sabotage NAME`.

The bug is there while a test runs, and neither before, while its fixtures are set up, nor after,
while everything is put back. So it is the test that must notice.
"""

import builtins
import contextlib
import difflib
import importlib
import json
import mmap
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sabotages import (
    counters,
    interface,
    mapping,
    merging,
    page_tables,
    processes,
    repairs,
    unsharing,
    witnesses,
)
from tests.sabotages.scene import Sabotage, Scene
from uapi.settings import Setting

STALL_DEADLINE = 5.0  # s; a sabotaged kernel may keep ksmd from advancing
STALLS = ("mm.scanning", "plugins.khugepaged")

SABOTAGES = {
    sabotage.name: sabotage
    for module in (
        unsharing,
        mapping,
        merging,
        processes,
        counters,
        interface,
        page_tables,
        witnesses,
        repairs,
    )
    for sabotage in module.SABOTAGES
}

_SABOTAGE = pytest.StashKey[Sabotage]()
_OUTCOMES = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("sabotage")
    group.addoption("--sabotage", metavar="NAME", help="the bug this kernel is to seem to have")
    group.addoption("--list-sabotages", action="store_true", help="name all bugs, and run nothing")
    group.addoption(
        "--sabotage-outcomes",
        metavar="FILE",
        type=Path,
        help="write what became of each test, as JSON: passed, or failed and for what",
    )


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Name all sabotages."""
    if not config.getoption("list_sabotages"):
        return None
    for sabotage in SABOTAGES.values():
        sys.stdout.write(
            f"{sabotage.name} ({sabotage.kind}): {sabotage.bug}\n"
            f"    wraps {', '.join(sabotage.wraps)}\n"
        )
    return 0


def pytest_configure(config: pytest.Config) -> None:
    """Choose the bug."""
    config.stash[_OUTCOMES] = {}
    name = config.getoption("sabotage")
    if name is None:
        return
    if name not in SABOTAGES:
        alike = ", ".join(difflib.get_close_matches(name, SABOTAGES)) or "see --list-sabotages"
        raise pytest.UsageError(f"--sabotage NAME: no sabotage is called {name!r}: {alike}")
    config.stash[_SABOTAGE] = SABOTAGES[name]


def pytest_report_header(config: pytest.Config) -> str | None:
    """A reader of the failures must know."""
    sabotage = config.stash.get(_SABOTAGE, None)
    return f"sabotage {sabotage.name}: {sabotage.bug}" if sabotage else None


def resolve(name: str) -> tuple[Any, str]:
    """The module or class that a dotted name lies in, and its last part."""
    owner, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(owner), attribute
    except ModuleNotFoundError:
        module, _, cls = owner.rpartition(".")
        return getattr(importlib.import_module(module), cls), attribute


def _read_by(descriptor: Setting[Any]) -> Callable[..., Any]:
    """A setting is read by its owner: what takes its place is a property."""
    return lambda directory: descriptor.__get__(directory, type(directory))


def install(sabotage: Sabotage, scene: Scene, patch: pytest.MonkeyPatch) -> None:
    """Put the sabotage in force."""
    for target, wrap in sabotage.wraps.items():
        owner, name = resolve(target)
        # What is no attribute of a module may be a built-in function it calls.
        original = getattr(owner, name, None) or getattr(builtins, name)
        if isinstance(original, Setting):
            patch.setattr(owner, name, property(wrap(scene, _read_by(original))))
        else:
            patch.setattr(owner, name, wrap(scene, original), raising=False)


@contextlib.contextmanager
def _ksmd_awake() -> Iterator[None]:
    """Something for ksmd to look at: without, it sleeps, no pass ever ends, and waits stall."""
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        page.write(os.urandom(mmap.PAGESIZE))
        page.madvise(mmap.MADV_MERGEABLE)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """The bug is there while the test runs."""
    sabotage = item.config.stash.get(_SABOTAGE, None)
    if sabotage is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch, _ksmd_awake():
        for module in STALLS:
            patch.setattr(f"{module}.STALL_DEADLINE", STALL_DEADLINE)
        # The page that keeps ksmd awake is in nobody's way.
        patch.setattr("plugins.ksm.KsmAlone.skip_beside_others", lambda *_: None)
        install(sabotage, Scene(item), patch)
        yield


def _reason(call: pytest.CallInfo[None]) -> str:
    """The exception's name; a timeout is told from a failure that a test declares."""
    if call.excinfo is None:
        return ""
    timeout = isinstance(call.excinfo.value, pytest.fail.Exception) and "Timeout" in str(
        call.excinfo.value
    )
    return "Timeout" if timeout else call.excinfo.type.__name__


def _outcome(report: pytest.TestReport, call: pytest.CallInfo[None]) -> str | None:
    """What is new with this phase of a test, in words."""
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    if report.failed:
        what = "failed" if report.when == "call" else f"error in {report.when}"
        return f"{what}: {_reason(call)}"
    return report.outcome if report.when == "call" or report.skipped else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note the outcome: the first phase that fails decides, or the test itself."""
    report = yield
    outcomes = item.config.stash[_OUTCOMES]
    outcome = _outcome(report, call)
    if outcome and outcomes.get(item.nodeid, "passed") == "passed":
        outcomes[item.nodeid] = outcome
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the outcomes."""
    path = session.config.getoption("sabotage_outcomes")
    if path:
        path.write_text(json.dumps(session.config.stash[_OUTCOMES], indent=1))
