# SPDX-License-Identifier: GPL-2.0
"""`needs(...)`: a test runs, is skipped for a reason that is data, or fails for want of a feature.

The order is: never on this architecture, left out of the configuration, found by its probe, the
kernel is older than the feature; what is left should be there and is not.
"""

import os
import sys
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

import arch
import kconfig
import kconfig.configuration
from plugins import hookspecs
from plugins.features import FEATURES, Feature, Verdict, release_numbers, running_release
from uapi.ksm import Ksm


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options on features."""
    group = parser.getgroup("kernel features")
    group.addoption(
        "--require",
        action="append",
        default=[],
        metavar="FEATURE",
        help="fail, not skip, where the kernel lacks FEATURE (repeatable; `all`)",
    )
    group.addoption(
        "--features",
        action="store_true",
        help="print which features the kernel has, and why it lacks the others",
    )


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks of `plugins.hookspecs`."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, and refuse features that do not exist."""
    config.addinivalue_line(
        "markers", "needs(*features): skip where the kernel cannot have them, fail where it should"
    )
    _refuse_unknown("--require", [name for name in config.option.require if name != "all"])
    if not config.getoption("kernel", None):  # else it may be that nothing runs here
        requirements(config)


def _refuse_unknown(who: str, names: list[str]) -> None:
    unknown = [name for name in names if name not in FEATURES]
    if unknown:
        raise pytest.UsageError(
            f"{who} needs {', '.join(unknown)}: "
            f"no such feature; there are {', '.join(sorted(FEATURES))}"
        )


def _circumstance(feature: Feature, architecture: arch.Arch) -> str:
    """Why kernels with the feature built in may lack it on some machines; "" if they may not."""
    if feature.otherwise:
        return f"{feature.name}: {feature.otherwise}"
    if ability := architecture.processor.get(feature.name):
        return f"{architecture.name}: {feature.name} needs a processor with {ability}"
    return ""


def resolve(
    feature: Feature,
    architecture: arch.Arch,
    configuration: kconfig.configuration.Configuration | None,
    release: str,
) -> Verdict:
    """The verdict on one feature, for a kernel of that release."""
    if reason := architecture.never.get(feature.name):
        return Verdict(run=False, reason=f"{architecture.name}: {reason}")
    if configuration:
        for symbol in feature.kconfig + feature.selected:
            if lacking := configuration.lacks(symbol):
                return Verdict(run=False, reason=f"{feature.name}: {lacking}")
    if feature.probe():
        return Verdict(run=True)
    if circumstance := _circumstance(feature, architecture):
        return Verdict(run=False, reason=circumstance)
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


class Requirements:
    """The features of the running kernel, and which of them must be there."""

    def __init__(self, config: pytest.Config) -> None:
        others = chain.from_iterable(config.hook.pytest_ksmtests_architectures())
        self.architecture = arch.current(others=others)
        self.configuration = kconfig.configuration.find()
        self.release = running_release()
        self.required = frozenset(config.option.require)
        self.verdict = cache(self._verdict)

    def _verdict(self, name: str) -> Verdict:
        found = resolve(FEATURES[name], self.architecture, self.configuration, self.release)
        if not found.run and self.required & {name, "all"}:
            return Verdict(run=False, fail=True, reason=f"required, but {found.reason}")
        return found

    def heading(self) -> str:
        """What was looked at: the release, the architecture, the configuration."""
        source = self.configuration.source if self.configuration else "not found: probes decide"
        return f"kernel: {self.release}, {self.architecture.name}, configuration {source}"


_REQUIREMENTS = pytest.StashKey[Requirements]()


def requirements(config: pytest.Config) -> Requirements:
    """Those of this run. Raises UsageError where the configuration cannot be read."""
    if _REQUIREMENTS not in config.stash:
        try:
            config.stash[_REQUIREMENTS] = Requirements(config)
        except kconfig.ConfigurationError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[_REQUIREMENTS]


def architecture(config: pytest.Config) -> arch.Arch:
    """The architecture under test."""
    return requirements(config).architecture


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which kernel is under test."""
    return None if config.getoption("kernel", None) else requirements(config).heading()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Print the table of `--features` and run nothing."""
    if not config.option.features:
        return None
    found = requirements(config)
    lines = [found.heading()]
    for name in sorted(FEATURES):
        verdict = found.verdict(name)
        answer = "yes" if verdict.run else "MISSING" if verdict.fail else "no"
        lines.append(f"{name:26} {answer:8} {verdict.reason}".rstrip())
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail before any fixture is set up."""
    known = requirements(item.config)
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            found = known.verdict(name)
            if found.fail:
                pytest.fail(found.reason, pytrace=False)
            if not found.run:
                pytest.skip(found.reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A misspelt feature is an error of the test, found before anything runs."""
    for item in items:
        for mark in item.iter_markers("needs"):
            _refuse_unknown(item.nodeid, list(mark.args))


def _in_user_namespace() -> bool:
    """Whether user ids are mapped, so that root is not the machine's: user_namespaces(7)."""
    id_map = Path("/proc/self/uid_map")
    return id_map.exists() and id_map.read_text().split() != ["0", "0", "4294967295"]


def why_not_here() -> str | None:
    """Why the suite cannot run on this kernel at all, and what to do; None where it can."""
    if not Ksm.default_root.is_dir():
        configuration = kconfig.configuration.find()
        lacking = configuration.lacks("CONFIG_KSM") if configuration else None
        return (
            f"this kernel, {running_release()}, has no {Ksm.default_root}"
            f"{f' ({lacking})' if lacking else ''}: boot one that is built with CONFIG_KSM=y"
        )
    if os.geteuid() != 0:
        return (
            "KSM's settings and page frame numbers are root's alone, and this is user "
            f"{os.geteuid()}: run as root, for example `sudo make run_tests`"
        )
    if _in_user_namespace():
        return (
            "this is root of a user namespace, to whom the kernel log and page frame numbers are "
            "not open: run as root outside of the container"
        )
    if os.statvfs(Ksm.default_root).f_flag & os.ST_RDONLY:
        return "/sys is mounted read-only: `mount -o remount,rw /sys`, or leave the container"
    return None
