# SPDX-License-Identifier: GPL-2.0
"""What is said of time limits is understood, and without effect, where pytest-timeout is missing.

It is not among the packages a kselftest run asks for: the runner has a limit of its own.
"""

import pytest

PLUGINS = ("timeout", "pytest_timeout")  # what it is registered as, by itself and by others


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Let pyproject.toml have its limit: an option nobody knows ends a strict run."""
    if not any(map(pluginmanager.has_plugin, PLUGINS)):
        parser.addini("timeout", "needs pytest-timeout: seconds a test may take")


def pytest_configure(config: pytest.Config) -> None:
    """Let tests have theirs."""
    if not any(map(config.pluginmanager.has_plugin, PLUGINS)):
        config.addinivalue_line("markers", "timeout(seconds): needs pytest-timeout")
