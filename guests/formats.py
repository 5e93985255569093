# SPDX-License-Identifier: GPL-2.0
"""What a kernel's image is made for, told from its first bytes."""

import struct
import zlib
from pathlib import Path

HEAD = 1 << 17  # bytes that are looked at; s390's mark lies at 64 KiB
EFI_ZBOOT = b"zimg"  # at 4: a compressed image in a program that unpacks it (drivers/firmware/efi)
ZBOOT_HEADER = 0x40  # bytes
XLF_KERNEL_64 = 1  # of xloadflags (x86/boot.rst)

# Offset, mark, Debian's architecture; the documents are the kernel's.
MARKS = (
    (0x38, b"ARM\x64", "arm64"),  # arch/arm64/booting.rst
    (0x38, b"RSC\x05", "riscv64"),  # arch/riscv/boot-image-header.rst
    (0x24, struct.pack("<I", 0x016F2818), "armhf"),  # arch/arm/booting.rst
    (0x10008, b"S390EP", "s390x"),  # arch/s390/boot/head.S
)
PE_MACHINES = {0x8664: "amd64", 0xAA64: "arm64", 0x5064: "riscv64"}
ELF_MACHINES = {(62, 1): "amd64", (21, 1): "ppc64el", (22, 2): "s390x"}  # e_machine, EI_DATA


class FormatError(Exception):
    """An image is of a form that cannot be loaded."""


def architecture(image: Path) -> str | None:
    """Debian's name of the architecture; None for what is no kernel that QEMU could boot.

    Raises OSError where it cannot be read.
    """
    with image.open("rb") as stream:
        head = stream.read(HEAD)
    if head.startswith(b"\x1f\x8b"):
        head = _unzipped(head)
    if head[0x202:0x206] == b"HdrS":
        return "amd64" if head[0x236:0x237] and head[0x236] & XLF_KERNEL_64 else "i386"
    for offset, mark, found in MARKS:
        if head[offset : offset + len(mark)] == mark:
            return found
    if head[4:8] == EFI_ZBOOT:
        return _pe(head)
    return _elf(head)


def _unzipped(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(head, HEAD)
    except zlib.error:
        return b""


def _pe(head: bytes) -> str | None:
    (at,) = struct.unpack_from("<I", head.ljust(0x40, b"\0"), 0x3C)
    if head[at : at + 4] != b"PE\0\0":
        return None
    return PE_MACHINES.get(int.from_bytes(head[at + 4 : at + 6], "little"))


def _elf(head: bytes) -> str | None:
    if head[:4] != b"\x7fELF" or len(head) < 20:
        return None
    machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    return ELF_MACHINES.get((machine, head[5]))


def loadable(image: Path, target: Path) -> Path:
    """What QEMU can load: `target` with what an EFI zboot image unpacks to, else `image` itself.

    QEMU does so itself since 8.0. Raises FormatError for a compression other than gzip.
    """
    refuse_unloadable(image)
    with image.open("rb") as stream:
        head = stream.read(ZBOOT_HEADER)
        if head[4:8] != EFI_ZBOOT:
            return image
        offset, size = struct.unpack_from("<II", head, 8)
        stream.seek(offset)
        target.write_bytes(zlib.decompress(stream.read(size), wbits=zlib.MAX_WBITS | 16))
    return target


def refuse_unloadable(image: Path) -> None:
    """Raise FormatError for an image that only firmware could unpack."""
    with image.open("rb") as stream:
        head = stream.read(ZBOOT_HEADER)
    compression = head[24:].partition(b"\0")[0]
    if head[4:8] == EFI_ZBOOT and compression != b"gzip":
        raise FormatError(
            f"{image} is an EFI zboot image packed with {compression.decode('ascii', 'replace')}, "
            "which is not unpacked here: name the Image it was made from, or set "
            "CONFIG_KERNEL_GZIP=y"
        )
