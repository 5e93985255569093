# SPDX-License-Identifier: GPL-2.0
"""The compressions that kernel images use: how their streams begin, and how they are unpacked.

Libraries are loaded when a stream needs them: a Python may be built without lzma or bz2, and
compression.zstd came with Python 3.14.
"""

import importlib
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from typing import Any

CHUNK = 1 << 20
LZMA_MEMORY = 1 << 30  # a window larger than any kernel is not believed


class NoDecompressor(Exception):
    """Neither a library nor a command unpacks a compression; the message says what to install."""


class DamagedStream(Exception):
    """What follows is no stream of the compression, or it ends early."""


def gunzip(chunks: Iterable[bytes], limit: int) -> bytes:
    """All of a gzip stream; what follows it is left alone. Raises DamagedStream."""
    inflater = zlib.decompressobj(wbits=31)
    text = b""
    for chunk in chunks:
        try:
            text += inflater.decompress(chunk, limit + 1 - len(text))
        except zlib.error as error:
            raise DamagedStream(str(error)) from error
        if len(text) > limit:
            raise DamagedStream(f"it has more than {limit} bytes")
        if inflater.eof:
            return text
    raise DamagedStream("it ends early")


Unpack = Callable[[FileIO], Iterator[bytes]]


@dataclass(frozen=True)
class Compression:
    """One compression. `unpack` reads from the file's position; raises the errors above."""

    name: str
    beginning: re.Pattern[bytes]  # as exact as can be: random data begins no stream
    unpack: Unpack


def _inflate(file: FileIO) -> Iterator[bytes]:
    inflater = zlib.decompressobj(wbits=31)
    data = file.read(CHUNK)
    while data and not inflater.eof:
        try:
            yield inflater.decompress(data, CHUNK)
        except zlib.error as error:
            raise DamagedStream(str(error)) from error
        data = inflater.unconsumed_tail or file.read(CHUNK)


def _library(module: str, decompressor: str, error: str, **arguments: Any) -> Unpack:
    """Unpack with `module`, whose decompressors are like those of bz2."""

    def unpack(file: FileIO) -> Iterator[bytes]:
        try:
            library = importlib.import_module(module)
        except ImportError:
            raise NoDecompressor(f"a Python with the module {module}") from None
        options = {
            name: getattr(library, f"FORMAT_{value}", value) for name, value in arguments.items()
        }
        stream = getattr(library, decompressor)(**options)
        while not stream.eof:
            data = file.read(CHUNK) if stream.needs_input else b""
            if stream.needs_input and not data:
                raise DamagedStream("it ends early")
            try:
                yield stream.decompress(data, CHUNK)
            except (OSError, EOFError, getattr(library, error, OSError)) as reason:
                raise DamagedStream(str(reason)) from reason

    return unpack


def _command(*command: str) -> Unpack:
    """Unpack with a command that reads the file itself, from where it stands."""

    def unpack(file: FileIO) -> Iterator[bytes]:
        if not shutil.which(command[0]):
            raise NoDecompressor(f"the command {command[0]}")
        with subprocess.Popen(
            command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            try:
                assert process.stdout is not None
                while data := process.stdout.read(CHUNK):
                    yield data
            finally:
                process.kill()

    return unpack


def _either(first: Unpack, second: Unpack) -> Unpack:
    """Unpack with the first that is there."""

    def unpack(file: FileIO) -> Iterator[bytes]:
        try:
            yield from first(file)
        except NoDecompressor as one:
            try:
                yield from second(file)
            except NoDecompressor as other:
                raise NoDecompressor(f"{other}, or {one}") from None

    return unpack


def _pattern(beginning: bytes) -> re.Pattern[bytes]:
    return re.compile(beginning, re.DOTALL)


COMPRESSIONS = (
    Compression("gzip", _pattern(rb"\x1f\x8b\x08[\x00-\x1f]"), _inflate),
    Compression(
        "xz",
        _pattern(rb"\xfd7zXZ\x00\x00[\x00\x01\x04\x0a]"),
        _library("lzma", "LZMADecompressor", "LZMAError", format="XZ", memlimit=LZMA_MEMORY),
    ),
    Compression("bzip2", _pattern(rb"BZh[1-9]1AY&SY"), _library("bz2", "BZ2Decompressor", "")),
    Compression(
        "lzma",  # properties, window, size (or -1), and the first byte of the range coder
        _pattern(rb"\x5d\x00\x00..(?:\xff{8}|.{5}\x00{3})\x00"),
        _library("lzma", "LZMADecompressor", "LZMAError", format="ALONE", memlimit=LZMA_MEMORY),
    ),
    Compression("lzo", _pattern(rb"\x89LZO\x00\r\n\x1a\n"), _command("lzop", "-dcq")),
    Compression(
        "lz4",  # the legacy frame: magic, and the size of a block of at most 8 MiB
        _pattern(rb"\x02\x21\x4c\x18..[\x00-\x80]\x00"),
        _command("lz4", "-dcq"),
    ),
    Compression(
        "zstd",
        _pattern(rb"\x28\xb5\x2f\xfd"),
        _either(
            _library("compression.zstd", "ZstdDecompressor", "ZstdError"),
            _command("zstd", "-dcq"),
        ),
    ),
)
