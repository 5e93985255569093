# SPDX-License-Identifier: GPL-2.0
"""A few lines below what pytest prints that are drawn anew all the time, by rich.

pytest goes on writing as ever. Whole lines of it are printed above the live ones; what has no end
yet, such as a row of dots, is drawn as the first of these.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

PER_SECOND = 4  # times that the lines are drawn


class Line:
    """A line with whatever escape sequences are in it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(self._text)
        yield Segment.line()


class Screen:
    """The terminal: a file for pytest to write to, and the live lines below.

    `draw` is called with the number of lines there is room for, in a thread of its own.
    """

    def __init__(
        self, terminal: TextIO, draw: Callable[[int], Iterable[RenderableType]], *, color: bool
    ) -> None:
        """`terminal` is what pytest wrote to until now; tests may capture its descriptor."""
        self._terminal = terminal
        self._draw = draw
        self._begun = ""  # of a line
        self._own = open(  # noqa: SIM115 - closed by close()
            os.dup(terminal.fileno()), "w", encoding=terminal.encoding, errors="replace"
        )
        self._console = Console(file=self._own, no_color=not color, highlight=False)
        self._live = Live(
            self,
            console=self._console,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        terminal.flush()
        self._live.start()
        self._console.show_cursor(show=True)  # or a run that is killed would leave none
        # rich's own thread may draw between another's measuring and drawing, and leave lines.
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)
        self._thread.start()

    def _refresh(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            while not self._ended.wait(1 / PER_SECOND):
                with self._lock:
                    self._live.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._begun:
            yield Text.from_ansi(self._begun, no_wrap=True, overflow="crop")
        try:
            yield from self._draw(options.size.height - 2)
        except Exception as error:  # noqa: BLE001 - it would end the thread, or the run
            yield Text(f"progress cannot be shown: {error!r}")

    def write(self, text: str) -> int:
        """Print what are whole lines; keep the rest."""
        if self._ended.is_set():
            return self._terminal.write(text)
        *lines, begun = (self._begun + text).split("\n")
        try:
            with self._lock:
                self._begun = begun.rpartition("\r")[2]
                for line in lines:
                    self._console.print(Line(line), soft_wrap=True)
        except Exception as error:  # noqa: BLE001 - what pytest says is what matters
            self._begun = ""
            self._ended.set()
            self._terminal.write(f"progress cannot be shown: {error!r}\n{text}")
        return len(text)

    def flush(self) -> None:
        """Nothing: whole lines have been printed."""

    def isatty(self) -> bool:
        """It is one."""
        return True

    def fileno(self) -> int:
        """The terminal's."""
        return self._terminal.fileno()

    @property
    def encoding(self) -> str:
        """The terminal's."""
        return self._terminal.encoding

    def close(self) -> None:
        """Remove the live lines, and leave the cursor where pytest is."""
        self._ended.set()
        self._thread.join()
        self._draw = lambda _: ()
        begun, self._begun = self._begun, ""
        self._live.stop()
        self._own.close()
        self._terminal.write(begun)
        self._terminal.flush()
