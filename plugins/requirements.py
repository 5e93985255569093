# SPDX-License-Identifier: GPL-2.0
"""`needs(...)`: a test runs, is skipped for a reason that is data, or fails for want of a feature.

The order is: never on this architecture, left out of the configuration, found by its probe, the
kernel is older than the feature; what is left should be there and is not.
"""

import os
from functools import cache

import pytest

import arch
import kconfig.configuration
from plugins.features import FEATURES, Feature, Verdict, release_numbers, running_release
from uapi.ksm import Ksm


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers", "needs(*features): skip where the kernel cannot have them, fail where it should"
    )


def resolve(
    feature: Feature,
    architecture: arch.Arch,
    configuration: kconfig.configuration.Configuration | None,
    release: str,
) -> Verdict:
    """The five steps for one feature."""
    if reason := architecture.never.get(feature.name):
        return Verdict(run=False, reason=f"{architecture.name}: {reason}")
    if configuration:
        for symbol in feature.kconfig:
            if lacking := configuration.lacks(symbol):
                return Verdict(run=False, reason=f"{feature.name}: {lacking}")
    if feature.probe():
        return Verdict(run=True)
    if feature.otherwise:
        return Verdict(run=False, reason=f"{feature.name}: {feature.otherwise}")
    if release_numbers(release) < release_numbers(feature.since):
        return Verdict(
            run=False, reason=f"{feature.name} came with {feature.since}; this is {release}"
        )
    return Verdict(
        run=False,
        fail=True,
        reason=f"{feature.name} came with {feature.since} and nothing in the configuration "
        f"leaves it out, but {release} does not have it",
    )


@cache
def verdict(name: str) -> Verdict:
    """The verdict for the running kernel. Raises KeyError for a name that is no feature."""
    return resolve(FEATURES[name], arch.current(), kconfig.configuration.find(), running_release())


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail before any fixture is set up."""
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            found = verdict(name)
            if found.fail:
                pytest.fail(found.reason, pytrace=False)
            if not found.run:
                pytest.skip(found.reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A misspelt feature is an error of the test, found before anything runs."""
    for item in items:
        for mark in item.iter_markers("needs"):
            unknown = [name for name in mark.args if name not in FEATURES]
            if unknown:
                raise pytest.UsageError(
                    f"{item.nodeid} needs {', '.join(unknown)}: "
                    f"no such feature; there are {', '.join(sorted(FEATURES))}"
                )


def why_not_here() -> str | None:
    """Why the suite cannot run on this kernel at all, and what to do; None where it can."""
    if not Ksm.default_root.is_dir():
        reason = verdict("ksm").reason
        return f"this kernel has no KSM ({reason}): boot one that is built with CONFIG_KSM=y"
    if os.geteuid() != 0:
        return (
            "KSM's settings and page frame numbers are root's alone, and this is user "
            f"{os.geteuid()}: run as root, for example `sudo make run_tests`"
        )
    if os.statvfs(Ksm.default_root).f_flag & os.ST_RDONLY:
        return "/sys is mounted read-only: `mount -o remount,rw /sys`, or leave the container"
    return None
