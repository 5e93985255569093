# SPDX-License-Identifier: GPL-2.0
"""Texts of a record as they may be shown.

What a guest has said may be anything: escape sequences of terminals, marks that turn the direction
of writing, halves of characters that no encoding has, gigabytes.
"""

from datetime import datetime

LONGEST_LINE = 300  # characters
LONGEST_TEXT = 65536
GAP = "[... {} characters ...]"


def line(text: str, most: int = LONGEST_LINE) -> str:
    """The first line of a text, without its middle where it is too long."""
    return clean(_cut(next(iter(text.strip().splitlines()), ""), most, f" {GAP} "))


def moment(text: str) -> str:
    """A time of a record, to the second."""
    return datetime.fromisoformat(text).isoformat(" ", "seconds")


def block(text: str, most: int = LONGEST_TEXT) -> str:
    """All lines of a text, without their middle where they are too long."""
    return clean(_cut(text, most, f"\n{GAP}\n"))


def clean(text: str) -> str:
    """A text whose signs can all be seen, but for line ends and tabs; the others are escaped."""
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else sign.encode("unicode_escape").decode()
        for sign in text
    )


def _cut(text: str, most: int, gap: str) -> str:
    if len(text) <= most:
        return text
    half = most // 2
    return text[:half] + gap.format(len(text) - 2 * half) + text[-half:]
