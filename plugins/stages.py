# SPDX-License-Identifier: GPL-2.0
"""Tells which stage a kernel's guest has come to, where the terminal is.

What `guests` logs while one is started is a stage. pytest-xdist's workers send theirs over a
channel of execnet's that they find in `workerinput`.
"""

import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

CHANNEL = "ksmtests_stages"  # in workerinput


def tell(config: pytest.Config, kernel: str, stage: str) -> None:
    """Tell whoever implements the hook."""
    config.hook.pytest_ksmtests_stage(kernel=kernel, stage=stage)


class _Stages(logging.Handler):
    """Makes a stage of the first line of what is logged."""

    def __init__(self, config: pytest.Config, kernel: str) -> None:
        super().__init__(logging.INFO)
        self._tell = partial(tell, config, kernel)

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage().partition("\n")[0])


@contextlib.contextmanager
def logged(config: pytest.Config, kernel: str) -> Iterator[None]:
    """Tell what `guests` logs meanwhile."""
    logger = logging.getLogger("guests")
    level = logger.level
    handler = _Stages(config, kernel)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class ToWorkers:
    """Gives each worker a channel, and tells here what comes over it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Hand over the channel."""
        channel = node.gateway.newchannel()
        channel.setcallback(lambda told: tell(self._config, *told))
        node.workerinput[CHANNEL] = channel


class InWorker:
    """Passes on what is told in a worker."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def pytest_ksmtests_stage(self, kernel: str, stage: str) -> None:
        """Send it."""
        with contextlib.suppress(OSError):  # the other side is gone
            self._channel.send((kernel, stage))


def pytest_configure(config: pytest.Config) -> None:
    """Send or receive."""
    workerinput = getattr(config, "workerinput", None)
    if workerinput is None:
        config.pluginmanager.register(ToWorkers(config), "stages")
    elif CHANNEL in workerinput:
        config.pluginmanager.register(InWorker(workerinput[CHANNEL]), "stages")
