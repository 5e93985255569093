# SPDX-License-Identifier: GPL-2.0
"""Configurations embedded in kernel images, packed with everything that kernels are packed with."""

import bz2
import gzip
import importlib
import lzma
import random
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kconfig import ConfigurationError, images
from kconfig.configuration import read
from kconfig.decompression import CHUNK, COMPRESSIONS

TEXT = b"# a kernel\nCONFIG_KSM=y\nCONFIG_IKCONFIG=y\n# CONFIG_NUMA is not set\n"
NOISE = random.Random(0)  # noqa: S311 - the same images in every run
Pack = Callable[[bytes], bytes]


def embedded(text: bytes = TEXT) -> bytes:
    """What kernel/configs.c puts into .rodata."""
    return b"IKCFG_ST" + gzip.compress(text) + b"IKCFG_ED"


def kernel(configuration: bytes) -> bytes:
    """A kernel, unpacked: code, zeros and noise, in more than one piece as it is read."""
    return b"\x7fELF" + bytes(60) + NOISE.randbytes(CHUNK) + bytes(5000) + configuration + bytes(99)


def image(payload: bytes) -> bytes:
    """A bzImage, more or less: a head, the payload, the size of the kernel, a tail."""
    return b"MZ" + bytes(0x200) + b"HdrS" + NOISE.randbytes(16000) + payload + b"\0\0\x10\0tail"


def tool(*command: str) -> Pack:
    """Pack with a command."""

    def pack(data: bytes) -> bytes:
        if not shutil.which(command[0]):
            pytest.skip(f"there is no command {command[0]} to make an image with")
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    return pack


PACKINGS: dict[str, Pack] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "xz-bcj": lambda data: lzma.compress(
        data,
        check=lzma.CHECK_CRC32,
        filters=[{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 25}],
    ),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "lz4": tool("lz4", "-l", "-9", "-", "-"),
    "zstd": tool("zstd", "-22", "--ultra"),
    "lzo": tool("lzop", "-9"),
}


@pytest.fixture(params=sorted(PACKINGS))
def packing(request: pytest.FixtureRequest) -> str:
    """Each way to pack a kernel."""
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where an image is to be written."""
    return tmp_path / "vmlinuz"


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without any command."""
    monkeypatch.setenv("PATH", "")


def test_plain_kernel(path: Path) -> None:
    """vmlinux, Image, configs.ko."""
    path.write_bytes(kernel(embedded()))
    found = read(path)
    assert found.source == f"the image {path}"
    assert found.values == {"CONFIG_KSM": "y", "CONFIG_IKCONFIG": "y", "CONFIG_NUMA": "n"}


@pytest.mark.parametrize("name", ["bzImage", "Image.gz"])
def test_packed_kernel(path: Path, packing: str, name: str) -> None:
    """In the middle of an image, and alone in a file."""
    payload = PACKINGS[packing](kernel(embedded()))
    path.write_bytes(image(payload) if name == "bzImage" else payload)
    found = read(path)
    where = path.read_bytes().index(payload[:16])
    assert found.source == f"the image {path} ({packing.removesuffix('-bcj')} at {where})"
    assert found.lacks("CONFIG_KSM") is None
    assert found.lacks("CONFIG_NUMA") == f"CONFIG_NUMA is not set in {found.source}"


def test_packed_kernel_without(path: Path, packing: str) -> None:
    """The error says what was unpacked, and what was missing from the kernel."""
    path.write_bytes(image(PACKINGS[packing](kernel(b""))))
    with pytest.raises(ConfigurationError) as raised:
        read(path)
    assert str(raised.value).startswith(
        f"{path} gives no configuration: none is embedded in it, nor in what was unpacked of it "
        f"({packing.removesuffix('-bcj')} at "
    )
    assert "only CONFIG_IKCONFIG=y puts one there" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "needed"), [("lz4", "lz4"), ("lzo", "lzop"), ("zstd", "zstd, or a Python")]
)
@pytest.mark.usefixtures("no_tools")
def test_tool_to_install_is_named(path: Path, name: str, needed: str) -> None:
    """By the beginning of the stream alone."""
    beginnings = {
        "lz4": b"\x02\x21\x4c\x18\0\0\x10\0",
        "lzo": b"\x89LZO\0\r\n\x1a\n",
        "zstd": b"\x28\xb5\x2f\xfd",
    }
    path.write_bytes(image(beginnings[name] + bytes(99)))
    with pytest.raises(ConfigurationError, match=rf"{name} at 16518.*install the command {needed}"):
        read(path)


def test_library_that_python_was_built_without(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named like a command."""

    def no_module(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", no_module)
    path.write_bytes(image(PACKINGS["xz"](kernel(embedded()))))
    with pytest.raises(ConfigurationError, match="install a Python with the module lzma"):
        read(path)


@pytest.mark.parametrize("offset", range(-12, 3))
def test_mark_between_two_reads(path: Path, offset: int) -> None:
    """Wherever the kernel is cut into pieces, the mark is seen."""
    path.write_bytes(b"\x7fELF".ljust(CHUNK + offset, b"\0") + embedded())
    assert read(path).values["CONFIG_KSM"] == "y"


@pytest.mark.parametrize("offset", range(-12, 3))
def test_stream_between_two_reads(path: Path, offset: int) -> None:
    """Nor is the beginning of a stream missed."""
    packed = lzma.compress(bytes(5000) + embedded())
    path.write_bytes(b"\x7fELF".ljust(CHUNK + offset, b"\0") + packed)
    assert read(path).source == f"the image {path} (xz at {CHUNK + offset})"


def test_mark_without_a_configuration_is_passed_over(path: Path) -> None:
    """Lz4, lzo and zstd leave the mark and most of what follows it in sight, with gaps."""
    torn = embedded().replace(b"\x1f\x8b\x08", b"\x1f\x8b\x08\x7f", 1)
    path.write_bytes(image(torn + gzip.compress(kernel(embedded()))))
    assert read(path).values["CONFIG_KSM"] == "y"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:40],
        lambda text: text[:30] + bytes(8) + text[38:],
        lambda text: text[:11] + bytes(300),
    ],
    ids=["cut", "overwritten", "zeros"],
)
def test_damaged_configuration(path: Path, damage: Callable[[bytes], bytes]) -> None:
    """It is said to be there, and damaged."""
    path.write_bytes(b"\x7fELF".ljust(100, b"\0") + damage(embedded()))
    with pytest.raises(ConfigurationError, match=f"{path} gives.*one embedded in it is damaged"):
        read(path)


def test_endless_configuration(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that unpack to more than any configuration are not unpacked to the end."""
    monkeypatch.setattr(images, "TEXT_LIMIT", 1 << 20)
    path.write_bytes(b"\x7fELF".ljust(100, b"\0") + embedded(bytes(100 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(ConfigurationError, match="it has more than 1048576 bytes"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_endless_kernel(path: Path, packing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that unpack to more than any kernel."""
    monkeypatch.setattr(images, "IMAGE_LIMIT", 4 * CHUNK)
    path.write_bytes(image(PACKINGS[packing](bytes(8 * CHUNK))))
    with pytest.raises(ConfigurationError, match=f"none is in the first {4 * CHUNK} bytes"):
        read(path)


def test_false_beginnings_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are started for the first of them alone."""
    starts = 0

    def popen(*_: object, **options: Any) -> subprocess.Popen[bytes]:
        nonlocal starts
        starts += 1
        return real(["true"], **options)

    real = subprocess.Popen
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "Popen", popen)
    path.write_bytes(bytes(64) + b"\x02\x21\x4c\x18\0\0\x10\0" * 1000)
    with pytest.raises(ConfigurationError, match="none is embedded in it"):
        read(path)
    assert starts == images.STREAMS_LIMIT


@given(
    st.sampled_from(["gzip", "bzip2", "xz", "lzma"]),
    st.integers(0, 2000),
    st.binary(max_size=20),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_refused_or_harmless(
    path: Path, name: str, position: int, garbage: bytes
) -> None:
    """Never is anything but ConfigurationError raised, nor another configuration read."""
    whole = image(PACKINGS[name](bytes(1000) + embedded() + bytes(1000)))
    start = whole.index(b"HdrS") + 16000 + position
    path.write_bytes(whole[:start] + garbage + whole[start + len(garbage) :])
    try:
        values = read(path).values
    except ConfigurationError:
        return
    assert values == {"CONFIG_KSM": "y", "CONFIG_IKCONFIG": "y", "CONFIG_NUMA": "n"}


def test_beginnings_are_rare() -> None:
    """Noise looks like the beginning of a stream less than once in a megabyte."""
    noise = NOISE.randbytes(4 * CHUNK)
    assert sum(len(each.beginning.findall(noise)) for each in COMPRESSIONS) <= 4
