# SPDX-License-Identifier: GPL-2.0
"""Messages between this side and the agent in a guest: JSON objects, each behind its length.

A guest is not trusted: whatever its kernel went through, what arrives is a bounded JSON object or
a ProtocolError. This module is all that both ends share.
"""

import base64
import binascii
import json
import re
import struct
from typing import Any

MAX_FRAME = 1 << 20  # bytes
DEEPEST = 50  # values in each other; a traceback of pytest's has ten
MAX_CHUNK = MAX_FRAME // 2  # bytes of output or input in one message, before base64

_LENGTH = struct.Struct(">I")
_ODD = re.compile(rb"\\[ubfr]|\xc2[\x80-\x9f]|\x7f")  # in JSON, what may stand for one of these:
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Message = dict[str, Any]


class ProtocolError(Exception):
    """What arrived is no message."""


def encode(message: Message) -> bytes:
    """The bytes of a message. Raises ProtocolError where it is too long to be taken."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a message of {len(body)} bytes; {MAX_FRAME} are the limit")
    return _LENGTH.pack(len(body)) + body


def pack(data: bytes) -> str:
    """Bytes as a value in a message."""
    return base64.b64encode(data).decode()


def unpack(value: object) -> bytes:
    """The bytes of such a value. Raises ProtocolError."""
    if not isinstance(value, str):
        raise ProtocolError(f"{type(value).__name__} where base64 text is expected")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(f"not base64: {error}") from error


def _plain(value: Any, depth: int = 1) -> Any:
    """A value whose texts can be written and passed on, and do nothing to a terminal.

    Half of a surrogate pair can be neither, nor can what is nested without end; of control
    characters line ends and tabs are kept. Raises ProtocolError.
    """
    if depth > DEEPEST:
        raise ProtocolError(f"values nested in each other {depth} times; {DEEPEST} are the limit")
    match value:
        case str():
            text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), value)
            return text.encode("utf-8", "backslashreplace").decode()
        case list():
            return [_plain(each, depth + 1) for each in value]
        case dict():
            return {_plain(key): _plain(each, depth + 1) for key, each in value.items()}
    return value


class Decoder:
    """Takes bytes as they arrive and gives messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages complete with `data`. Raises ProtocolError, after which nothing counts."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise ProtocolError(f"a message of {length} bytes; {MAX_FRAME} are the limit")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(_parse(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return messages


def _parse(body: bytes) -> Message:
    try:
        message = json.loads(body)
        if _ODD.search(body) or body.count(b"[") + body.count(b"{") > DEEPEST:
            message = _plain(message)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}; it begins {body[:40]!r}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"JSON, but no object; it begins {body[:40]!r}")
    return message
