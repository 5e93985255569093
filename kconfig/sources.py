# SPDX-License-Identifier: GPL-2.0
"""Where a kernel's configuration lies, and its text."""

import os
import platform
import stat
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from kconfig import ConfigurationError
from kconfig.decompression import DamagedStream, gunzip
from kconfig.images import TEXT_LIMIT, embedded

GZIP = b"\x1f\x8b"
HEAD = 4096  # bytes that tell text from an image: all images have zeros in there


def installed(root: Path, release: str) -> Iterator[Path]:
    """The configurations of an installed kernel that are there to be read, the surest first."""
    candidates = [
        root / f"boot/config-{release}",
        root / f"lib/modules/{release}/config",
        root / f"lib/modules/{release}/build/.config",  # may have been changed after the build
    ]
    if release == platform.release():
        candidates.insert(0, root / "proc/config.gz")  # the kernel's own: CONFIG_IKCONFIG_PROC
    for path in candidates:
        if os.access(path, os.R_OK) and path.is_file():
            yield path


def load(path: Path) -> tuple[str, str]:
    """The text of the configuration at `path`, after the words that say which source it is.

    `path` is a .config, plain or gzipped, a directory with one, or a kernel image.
    Raises ConfigurationError.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return load(_in_directory(path))
        if not stat.S_ISREG(mode):
            raise ConfigurationError(f"{path} is neither a file nor a directory")
        with path.open("rb", buffering=0) as file:
            return _load(path, file)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _in_directory(directory: Path) -> Path:
    for name in (".config", "config"):
        if (directory / name).is_file():
            return directory / name
    raise ConfigurationError(
        f"{directory} has no .config: it is no build tree, or one that was never configured"
    )


def _load(path: Path, file: FileIO) -> tuple[str, str]:
    data = _read(file, TEXT_LIMIT + 1)
    try:
        if _is_text(data):
            return str(path), _decode(data)
        if data.startswith(GZIP) and _is_text(_head(data)):
            return str(path), _decode(gunzip([data], TEXT_LIMIT))
        where, text = embedded(file)
    except (ConfigurationError, DamagedStream) as error:
        raise ConfigurationError(f"{path} gives no configuration: {error}") from error
    return f"the image {path}" + (f" ({where})" if where else ""), _decode(text)


def _read(file: FileIO, size: int) -> bytes:
    """Up to `size` bytes; files of /proc are read in pieces."""
    data = bytearray()
    while chunk := file.read(size - len(data)):
        data += chunk
    return bytes(data)


def _head(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(data[:HEAD], HEAD)
    except zlib.error:
        return b"\0"


def _is_text(data: bytes) -> bool:
    return b"\0" not in data[:HEAD] or data.startswith((b"#", b"CONFIG_"))


def _decode(text: bytes) -> str:
    if len(text) > TEXT_LIMIT:
        raise ConfigurationError(f"it is text of more than {TEXT_LIMIT} bytes")
    return text.decode(errors="replace")
