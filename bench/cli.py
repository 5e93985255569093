# SPDX-License-Identifier: GPL-2.0
"""What the bench's commands have in common."""

import argparse
import signal
import sys
from types import FrameType

ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")  # of util-linux


def count(text: str) -> int:
    """A positive number, as an argument."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def end_on_signals() -> None:
    """Turn signals into exceptions, so that programs are ended and settings put back."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)


def _end(signal_number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal_number)
