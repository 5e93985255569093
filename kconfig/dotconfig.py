# SPDX-License-Identifier: GPL-2.0
"""The lines of a .config, read as the kernel's own reader does (scripts/kconfig/confdata.c)."""

import re
from collections.abc import Iterator

NOT_SET = "n"
SWITCHES = ("y", "m", NOT_SET)

_LINE = re.compile(r"(CONFIG_[A-Za-z0-9_]+)=(.*)|# (CONFIG_[A-Za-z0-9_]+) is not set", re.DOTALL)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]+|0[xX][0-9a-fA-F]+")


def _value(text: str) -> str | None:
    """What stands right of `=`; None for what no type of symbol takes."""
    if text.startswith(SWITCHES):
        return text[0]  # the letter decides, whatever follows it
    if text.startswith('"'):
        string = _STRING.match(text)
        return _ESCAPED.sub(r"\1", string[1]) if string else None
    return text if _NUMBER.fullmatch(text) else None


def _lines(text: str) -> Iterator[str]:
    """Lines as C sees them: they end with a newline, and nothing counts from a NUL on."""
    for line in text.split("\n"):
        yield line.removesuffix("\r").partition("\0")[0]


def settings(text: str) -> dict[str, str]:
    """Every symbol of `text` with its value: y, m, n (not set), a number, or a string unquoted.

    Of several lines for one symbol the last valid one counts; lines of other forms are skipped.
    """
    values: dict[str, str] = {}
    for line in _lines(text):
        match = _LINE.fullmatch(line)
        if not match:
            continue
        symbol = match[1] or match[3]
        value = NOT_SET if match[3] else _value(match[2])
        if match[3] and values.get(symbol, NOT_SET) not in SWITCHES:
            continue  # numbers and strings cannot be switched off
        if value is not None:
            values[symbol] = value
    return values
