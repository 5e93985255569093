# SPDX-License-Identifier: GPL-2.0
"""The configuration that CONFIG_IKCONFIG puts into a kernel (kernel/configs.c).

It is gzip between two marks, IKCFG_ST and IKCFG_ED, plain in vmlinux, Image and configs.ko; in
bzImage, zImage and Image.gz it is in there once the kernel is unpacked.
"""

import logging
from collections.abc import Iterator
from io import FileIO
from itertools import chain

from kconfig import ConfigurationError
from kconfig.decompression import (
    CHUNK,
    COMPRESSIONS,
    Compression,
    DamagedStream,
    NoDecompressor,
    gunzip,
)

log = logging.getLogger(__name__)

MARK = b"IKCFG_ST"
BEGINNING = MARK + b"\x1f\x8b\x08"
TEXT_LIMIT = 16 << 20  # fifty times the largest configuration
IMAGE_LIMIT = 2 << 30  # bytes unpacked in search of it; kernels have up to 200 MiB
STREAMS_LIMIT = 64  # beginnings of one compression; most of them are chance
OVERLAP = 32  # longer than any beginning


def _chunks(file: FileIO) -> Iterator[bytes]:
    file.seek(0)
    while data := file.read(CHUNK):
        yield data


class _Damaged(Exception):
    """There is a mark, and what follows it is no whole configuration."""


def _text(chunks: Iterator[bytes]) -> bytes:
    try:
        return gunzip(chunks, TEXT_LIMIT)
    except DamagedStream as error:
        raise _Damaged(str(error)) from error


def _marked(chunks: Iterator[bytes]) -> bytes | None:
    """The text behind the mark, if the mark is there."""
    tail = b""
    for chunk in chunks:
        data = tail + chunk
        position = data.find(BEGINNING)
        if position >= 0:
            return _text(chain([data[position + len(MARK) :]], chunks))
        tail = data[1 - len(BEGINNING) :]
    return None


def _streams(file: FileIO) -> list[tuple[int, Compression]]:
    """Where streams seem to begin, in the order of the file."""
    found: dict[Compression, set[int]] = {compression: set() for compression in COMPRESSIONS}
    start, tail = 0, b""
    for chunk in _chunks(file):
        data = tail + chunk
        for compression, positions in found.items():
            for match in compression.beginning.finditer(data):
                if len(positions) < STREAMS_LIMIT:
                    positions.add(start + match.start())
        tail = data[-OVERLAP:]
        start += len(data) - len(tail)
    every = ((position, each) for each, positions in found.items() for position in positions)
    return sorted(every, key=lambda stream: stream[0])


class _Search:
    """The search of one image, and what is told when it finds nothing."""

    def __init__(self, file: FileIO) -> None:
        self.file = file
        self.unpacked = 0
        self.searched: list[str] = []
        self.missing: dict[str, tuple[int, str]] = {}
        self.damaged = ""

    def plain(self) -> bytes | None:
        """The text in the image as it is."""
        return self._text(_chunks(self.file))

    def stream(self, position: int, compression: Compression) -> bytes | None:
        """The text in the stream at `position`; None where there is none, or no stream at all."""
        self.file.seek(position)
        before = self.unpacked
        text = None
        try:
            text = self._text(self._metered(compression.unpack(self.file)))
        except NoDecompressor as error:
            self.missing.setdefault(compression.name, (position, str(error)))
        except DamagedStream as error:
            log.debug("%s at %d: %s", compression.name, position, error)
        if self.unpacked > before:
            self.searched.append(f"{compression.name} at {position}")
        return text

    def _text(self, chunks: Iterator[bytes]) -> bytes | None:
        """The text behind the mark. Damage is no end: lz4, lzo and zstd keep what gzip packed.

        It stands in their streams as it is, mark and all, but for what they put in between.
        """
        try:
            return _marked(chunks)
        except _Damaged as error:
            self.damaged = str(error)
            return None

    def _metered(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.unpacked += len(chunk)
            if self.unpacked > IMAGE_LIMIT:
                raise ConfigurationError(f"none is in the first {IMAGE_LIMIT} bytes unpacked of it")
            yield chunk

    def nothing(self) -> ConfigurationError:
        """Why nothing was found, as far as is known."""
        if self.damaged and not self.missing:
            return ConfigurationError(f"the one embedded in it is damaged ({self.damaged})")
        reason = "none is embedded in it"
        if self.searched:
            more = f" and {len(self.searched) - 4} more" if len(self.searched) > 4 else ""
            reason += f", nor in what was unpacked of it ({', '.join(self.searched[:4])}{more})"
        reason += ": only CONFIG_IKCONFIG=y puts one there"
        for name, (position, tool) in self.missing.items():
            reason += f"; what may be {name} at {position} was left packed: install {tool}"
        return ConfigurationError(reason)


def embedded(file: FileIO) -> tuple[str, bytes]:
    """The configuration in an image, after where it was found: "" or "xz at 16640".

    Raises ConfigurationError with a reason that names no file.
    """
    search = _Search(file)
    if text := search.plain():
        return "", text
    for position, compression in _streams(file):
        if text := search.stream(position, compression):
            return f"{compression.name} at {position}", text
    raise search.nothing()
