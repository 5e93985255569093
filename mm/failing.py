# SPDX-License-Identifier: GPL-2.0
"""In a process under test: calls of which one allocation fails, which is the nth that they make."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uapi.fault_injection import countdown


@dataclass(frozen=True)
class Outcome:
    """What became of the call."""

    errno: int  # 0 where it succeeded, be it that it could do without what it did not get
    reached: bool  # whether it made so many allocations; otherwise none has failed


class _Countdown:
    """This process's own; without allocations while it runs."""

    def __init__(self) -> None:
        self._fd = os.open(countdown(os.getpid()), os.O_RDWR)

    def start(self, nth: int) -> None:
        os.pwrite(self._fd, str(nth).encode(), 0)

    def stop(self) -> bool:
        """Whether it had come to its end."""
        reached = int(os.pread(self._fd, 16, 0)) == 0
        self.start(0)
        return reached

    def close(self) -> None:
        os.close(self._fd)


def in_call(nth: int, function: Callable[..., object], *arguments: Any) -> Outcome:
    """Make a call, with its nth allocation failing, 1 for the first."""
    allocations = _Countdown()
    errno, reached = 0, False
    try:
        allocations.start(nth)
        function(*arguments)
    except OSError as error:
        errno = error.errno or 0
    finally:
        reached = allocations.stop()
        allocations.close()
    return Outcome(errno, reached)


class _Fork:
    """The next fork of this process."""

    def __init__(self) -> None:
        self.nth = 0
        self.reached = False
        self._allocations: _Countdown | None = None

    def before(self) -> None:
        if self.nth:
            self._allocations = _Countdown()
            self._allocations.start(self.nth)

    def after(self) -> None:
        if self._allocations:
            self.reached = self._allocations.stop()
            self._allocations.close()
        self.nth, self._allocations = 0, None


_fork = _Fork()
os.register_at_fork(before=_fork.before, after_in_parent=_fork.after)


def in_next_fork(nth: int) -> None:
    """Have the nth allocation of this process's next fork fail."""
    _fork.nth = nth


def was_reached() -> bool:
    """Whether the last such fork made so many allocations."""
    return _fork.reached
