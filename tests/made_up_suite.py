# SPDX-License-Identifier: GPL-2.0
"""A made-up suite in a checkout of its own, run on this kernel and on boards that are of others.

pytest_plugins = ("pytester", "tests.made_up_suite")
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_kernels import PLUGINS, ROOMS, ROOT, SSH

CONFTEST = """
import os
import pytest

pytest_plugins = [{plugins}]

@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if release := os.environ.get("KSMTESTS_RELEASE"):
        import plugins.requirements
        plugins.requirements.running_release = lambda: release
"""
# A board called r6.1.77 claims to have that release.
RELEASE = r"""KSMTESTS_RELEASE=$(echo "$*" | sed -n '1s/.*@r\([^ ]*\).*/\1/p')"""
BOARD = SSH.replace("PATH=", f"{RELEASE}\nexport KSMTESTS_RELEASE\nPATH=")

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def checkout(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkout, with an ssh that connects to this machine."""
    for room in ROOMS:
        (pytester.path / room).symlink_to(ROOT / room)
    names = ", ".join(f'"plugins.{name}"' for name in PLUGINS)
    pytester.makeconftest(CONFTEST.format(plugins=names))
    pytester.makepyprojecttoml(
        "[tool.pytest.ini_options]\npythonpath = ['.']\ntestpaths = ['suite']\n"
    )
    ssh = pytester.mkdir("bin") / "ssh"
    ssh.write_text(BOARD)
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("KSMTESTS_CALLS", str(pytester.path / "calls"))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return pytester.path


@pytest.fixture
def run(checkout: Path, pytester: pytest.Pytester) -> Run:
    """Run a suite of one module, suite/test_it.py."""
    pytester.mkpydir("suite")

    def run(source: str, *arguments: str) -> pytest.RunResult:
        (checkout / "suite/test_it.py").write_text(source)
        return pytester.runpytest_subprocess("suite", *arguments, timeout=120)

    return run
