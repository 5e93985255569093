# SPDX-License-Identifier: GPL-2.0
"""Files as they are sent to an agent: quicker to unpack on an emulated processor than an archive.

A header's length in four bytes, the header, which is a JSON list of [path, mtime in ns, size], and
the files' contents; all of it compressed.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

_LENGTH = struct.Struct(">I")


def packed(files: Iterable[Path]) -> bytes:
    """These files, at their absolute paths. Raises OSError."""
    header = []
    contents = []
    for path in files:
        data = path.read_bytes()
        header.append((str(path), path.stat().st_mtime_ns, len(data)))
        contents.append(data)
    encoded = json.dumps(header).encode()
    return zlib.compress(b"".join((_LENGTH.pack(len(encoded)), encoded, *contents)), level=1)


def unpack(bundle: bytes | memoryview, root: Path) -> None:
    """Write the files below `root`, with their times, by which compiled modules are known good."""
    data = zlib.decompress(bundle)
    (length,) = _LENGTH.unpack_from(data)
    at = _LENGTH.size + length
    made: set[str] = set()
    for path, mtime_ns, size in json.loads(data[_LENGTH.size : at]):
        target = f"{root}/{path.lstrip('/')}"
        directory = target.rpartition("/")[0]
        if directory not in made:
            os.makedirs(directory, exist_ok=True)  # noqa: PTH103 - pathlib costs more than the rest
            made.add(directory)
        with open(target, "wb", buffering=0) as stream:
            stream.write(data[at : at + size])
        os.utime(target, ns=(mtime_ns, mtime_ns))
        at += size
