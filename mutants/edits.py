# SPDX-License-Identifier: GPL-2.0
"""Edits of C source by anchors: a statement or an expression of a function, whatever its layout.

An anchor is compared token by token, so that neither white space nor comments matter, and has to be
found exactly once. Coccinelle would do more, and less: a semantic patch that matches nothing, or
twice, is no error to it, and what one patch has changed the next one no longer finds.

Every edit puts text before and behind its anchor and changes nothing in between, so any number of
edits can have the same anchor, or anchors within each other's.
"""

import re
from dataclasses import dataclass

INCLUDE = "#include <linux/ksm_mutant.h>\n"

_TOKEN = re.compile(r"\w+|\S")
_GAP = r"(?:\s|/\*.*?\*/|\x00\d+\x00)*"  # white space, comments, marks of earlier edits
_MARK = re.compile(r"\x00(\d+)\x00")


class AnchorError(Exception):
    """An anchor is not in the source exactly once."""


@dataclass(frozen=True)
class Edit:
    """Text to put around an anchor."""

    file: str
    function: str  # where the anchor is; empty for anywhere in the file
    past: str  # empty, or what comes before the anchor, which is the first one behind it
    anchor: str
    before: str
    behind: str


class Source:
    """The text of a C file, and the edits to it."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._text = text
        self._added: list[str] = []

    def apply(self, edit: Edit) -> None:
        """Put an edit's text around its anchor. Raises AnchorError."""
        first, last = self._function(edit.function) if edit.function else (0, len(self._text))
        where = f"{edit.function}() of {self._file}" if edit.function else self._file
        if edit.past:
            first = self._find(edit.past, first, last, where)[0].end()
        begin, end = self._find(edit.anchor, first, last, where, first_of=bool(edit.past))[0].span()
        text = self._text
        before, behind = self._mark(edit.before), self._mark(edit.behind)
        self._text = text[:begin] + before + text[begin:end] + behind + text[end:]

    def text(self) -> str:
        """The source with all edits, and what they need included."""
        text = _MARK.sub(lambda match: self._added[int(match[1])], self._text)
        head, first, rest = text.partition("#include ")
        return f"{head}{INCLUDE}{first}{rest}"

    def _mark(self, added: str) -> str:
        """What stands for added text until all anchors are found."""
        self._added.append(added)
        return f"\x00{len(self._added) - 1}\x00"

    def _find(
        self, anchor: str, first: int, last: int, where: str, *, first_of: bool = False
    ) -> list[re.Match[str]]:
        found = list(_pattern(anchor).finditer(self._text, first, last))
        if not found or (len(found) > 1 and not first_of):
            times = f"{len(found)} times" if found else "not"
            raise AnchorError(f"{where}: `{anchor}` is there {times}, not once")
        return found

    def _function(self, name: str) -> tuple[int, int]:
        """Where a definition begins and ends: at the first column, as the kernel writes it."""
        for match in re.finditer(rf"^(?![#/\s])[^\n(;]*\b{name}\(", self._text, re.MULTILINE):
            body = self._text.find("{", match.end())
            end = self._text.find("\n}", body)
            declares = ";" in self._text[match.end() : body]
            if body != -1 and end != -1 and not declares:
                return match.start(), end
        raise AnchorError(f"{self._file} has no function {name}()")


def _pattern(anchor: str) -> re.Pattern[str]:
    words = (
        rf"\b{token}\b" if re.match(r"\w", token) else re.escape(token)
        for token in _TOKEN.findall(anchor)
    )
    return re.compile(_GAP.join(words), re.DOTALL)
