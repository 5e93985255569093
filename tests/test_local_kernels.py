# SPDX-License-Identifier: GPL-2.0
"""Kernels named by words: what a path is taken for, and what is missing or unfit."""

import gzip
import struct
from pathlib import Path

import pytest

from guests import catalogue, formats, modules, needs
from guests.catalogue import CatalogueError
from guests.local import BUILDS, LocalKernel, find
from guests.session import boot
from guests.sources import resolve

CHECKOUT = Path(__file__).resolve().parent.parent
KNOWN = catalogue.load()
CONFIGS = {
    arch: "\n" + "".join(f"CONFIG_{name}=y\n" for name in (symbol, *of_all))
    for symbol, (arch, _) in BUILDS.items()
    for of_all in [(*needs.BUILT_IN, *needs.MODULAR, *needs.OF_MACHINE[arch])]
}


def marked(*marks: tuple[int, bytes]) -> bytes:
    """The head of an image with marks at offsets."""
    head = bytearray(0x10100)
    for offset, mark in marks:
        head[offset : offset + len(mark)] = mark
    return bytes(head)


X86 = marked((0x202, b"HdrS"), (0x236, b"\x01"))
ARM64 = marked((0x38, b"ARM\x64"))
PE_ARM64 = (0x3C, struct.pack("<I", 0x80)), (0x80, b"PE\0\0" + struct.pack("<H", 0xAA64))


def zboot(compression: bytes, payload: bytes) -> bytes:
    """An EFI zboot image."""
    header = b"MZ\0\0zimg" + struct.pack("<II8s", 0x200, len(payload), b"") + compression
    return marked((0, header), *PE_ARM64, (0x200, payload))


def tree(directory: Path, image: str = "arch/x86/boot/bzImage", arch: str = "amd64") -> Path:
    """A tree with a kernel built in it."""
    (directory / image).parent.mkdir(parents=True, exist_ok=True)
    (directory / image).write_bytes(X86)
    (directory / "Kbuild").touch()
    (directory / ".config").write_text(CONFIGS[arch])
    return directory


@pytest.mark.parametrize(
    ("head", "arch"),
    [
        (X86, "amd64"),
        (marked((0x202, b"HdrS")), "i386"),
        (ARM64, "arm64"),
        (gzip.compress(ARM64), "arm64"),
        (zboot(b"gzip", b""), "arm64"),
        (zboot(b"zstd", b""), "arm64"),
        (marked((0x24, struct.pack("<I", 0x016F2818))), "armhf"),
        (marked((0x38, b"RSC\x05")), "riscv64"),
        (marked((0x10008, b"S390EP")), "s390x"),
        (marked((0, b"\x7fELF\x02\x01"), (18, b"\x15\x00")), "ppc64el"),
        (marked((0, b"\x7fELF\x02\x02"), (18, b"\x00\x15")), None),
        (b"\x1f\x8bnonsense", None),
        (b"\x7fELF", None),
        (b"MZ\0\0zimg", None),
        (b"", None),
    ],
)
def test_an_image_says_what_it_is_for(tmp_path: Path, head: bytes, arch: str | None) -> None:
    """By the marks of the boot protocols."""
    (tmp_path / "image").write_bytes(head)
    assert formats.architecture(tmp_path / "image") == arch


def test_zboot_images_are_unpacked(tmp_path: Path) -> None:
    """Others are loaded from where they are."""
    (tmp_path / "zboot").write_bytes(zboot(b"gzip", gzip.compress(ARM64)))
    (tmp_path / "plain").write_bytes(ARM64)
    target = tmp_path / "unpacked"
    assert formats.loadable(tmp_path / "plain", target) == tmp_path / "plain"
    assert formats.loadable(tmp_path / "zboot", target).read_bytes() == ARM64


@pytest.mark.parametrize(
    ("image", "arch"),
    [
        ("arch/x86/boot/bzImage", "amd64"),
        ("arch/arm64/boot/Image", "arm64"),
        ("arch/arm64/boot/Image.gz", "arm64"),
        ("arch/arm/boot/zImage", "armhf"),
        ("arch/riscv/boot/Image", "riscv64"),
        ("arch/s390/boot/bzImage", "s390x"),
        ("vmlinux", "ppc64el"),
    ],
)
def test_a_tree_is_the_kernel_built_in_it(tmp_path: Path, image: str, arch: str) -> None:
    """Its configuration says for which architecture; so does an image in it lead to the tree."""
    linux = tree(tmp_path / "linux", image, arch)
    expected = LocalKernel("linux", arch, linux, linux / image, linux / ".config", linux)
    assert resolve([str(linux)], KNOWN) == [expected]
    assert resolve([str(linux / image), str(linux)], KNOWN) == [expected]


@pytest.mark.parametrize("name", ["config-6.1-x", "vmlinuz-6.1-x.config", ".config", "config"])
def test_a_configuration_is_looked_for_beside_an_image(tmp_path: Path, name: str) -> None:
    """And modules where distributions have them."""
    boot = tmp_path / "boot"
    boot.mkdir()
    (boot / "vmlinuz-6.1-x").write_bytes(ARM64)
    assert find(boot / "vmlinuz-6.1-x").config is None
    (boot / name).write_text(CONFIGS["arm64"])
    kernel = find(boot / "vmlinuz-6.1-x")
    assert (kernel.name, kernel.arch, kernel.config) == ("vmlinuz-6.1-x", "arm64", boot / name)
    assert kernel.modules == tmp_path / "lib/modules/6.1-x/kernel"


def test_names_differ(tmp_path: Path) -> None:
    """By the parents' names, then by numbers; catalogued kernels keep theirs."""
    paths = [tree(tmp_path / name) for name in ("a/linux", "b/linux", "c/7.2-amd64", "d/a b")]
    kernels = resolve([*map(str, paths), "7.2-amd64"], KNOWN)
    names = [kernel.name for kernel in kernels]
    assert names == ["linux", "b-linux", "c-7.2-amd64", "a-b", "7.2-amd64"]


def test_words_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, each kernel once; the catalogue's names come before files' names."""
    for name in ("latest", "mine"):
        tree(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    found = resolve(["mine", "6.1-arm*", "6.1-arm64", "./latest", "latest"], KNOWN)
    names = [kernel.name for kernel in found]
    expected = ["mine", *(name for name in KNOWN.kernels if name.startswith("6.1-arm")), "latest"]
    assert names == [*expected, *(kernel.name for kernel in KNOWN.resolve("latest"))]


def test_overrides_hold_for_all(tmp_path: Path) -> None:
    """What is appended comes after an entry's own."""
    words = ["7.2-amd64", str(tree(tmp_path / "linux"))]
    kernels = resolve(words, KNOWN, append="slab_nomerge", memory_mib=1024, cpus=2)
    assert [(one.append, one.memory_mib, one.cpus) for one in kernels] == [
        ("slab_nomerge", 1024, 2)
    ] * 2
    again = resolve(words, KNOWN, append="")
    assert [(one.append, one.memory_mib, one.cpus) for one in again] == [("", 512, 1)] * 2


def test_numbers_are_above_zero() -> None:
    """The error names the number."""
    with pytest.raises(CatalogueError, match="cpus is 0; the least is 1"):
        resolve(["7.2-amd64"], KNOWN, cpus=0)


def refused(path: Path) -> str:
    """Why there is no kernel at a path."""
    with pytest.raises(CatalogueError) as error:
        resolve([f"{path.parent}/{path.name}"], KNOWN)
    return str(error.value)


def test_what_is_no_kernel_is_refused(tmp_path: Path) -> None:
    """With what is missing."""
    assert refused(tmp_path / "gone").endswith("gone: No such file or directory")
    assert refused(tmp_path) == f"{tmp_path} is no tree of a kernel: it has no .config"
    (tmp_path / "text").write_text("text")
    assert "text is no image of a kernel that is known here; there are m" in refused(
        tmp_path / "text"
    )
    (tmp_path / "old").write_bytes(marked((0x202, b"HdrS")))
    assert "old is a kernel for i386; there are machines for amd64" in refused(tmp_path / "old")
    (tmp_path / "packed").write_bytes(zboot(b"zstd", b""))
    assert "packed is an EFI zboot image packed with zstd" in refused(tmp_path / "packed")


def test_an_unfinished_tree_is_refused(tmp_path: Path) -> None:
    """With the next thing to do."""
    linux = tree(tmp_path / "linux")
    (linux / "arch/x86/boot/bzImage").unlink()
    assert refused(linux) == f"{linux} has no arch/x86/boot/bzImage: run make in it"
    (linux / ".config").write_text("CONFIG_MIPS=y\n")
    assert "is for none of the architectures there are machines for: amd64" in refused(linux)
    (linux / ".config").unlink()
    assert refused(linux) == f"{linux} is not configured: it has no .config"


def test_an_unfit_configuration_is_refused_with_all_that_lacks(tmp_path: Path) -> None:
    """Before anything is booted."""
    linux = tree(tmp_path / "linux")
    config = CONFIGS["amd64"].replace("CONFIG_VIRTIO_PCI=y", "CONFIG_VIRTIO_PCI=m")
    (linux / ".config").write_text(config.replace("CONFIG_DEVTMPFS=y", "# is not set"))
    assert refused(linux) == (
        f"a guest of {linux} could not be talked to: {linux}/.config must have "
        "CONFIG_DEVTMPFS=y, CONFIG_VIRTIO_PCI=y "
        "(scripts/config -e DEVTMPFS -e VIRTIO_PCI && make olddefconfig && make)"
    )


def test_pci_is_not_asked_for_where_there_is_none(tmp_path: Path) -> None:
    """s390x has channel I/O."""
    linux = tree(tmp_path / "linux", "arch/s390/boot/bzImage", "s390x")
    config = CONFIGS["s390x"].replace("CONFIG_VIRTIO_PCI=y", "# CONFIG_PCI is not set")
    (linux / ".config").write_text(config)
    assert find(linux).arch == "s390x"


def test_modules_of_a_tree_are_loaded(tmp_path: Path) -> None:
    """From where they are built."""
    linux = tree(tmp_path / "linux")
    text = CONFIGS["amd64"].replace("CONFIG_VIRTIO_PCI=y", "CONFIG_VIRTIO_PCI=m")
    (linux / ".config").write_text(text)
    (linux / "drivers/virtio").mkdir(parents=True)
    (linux / "drivers/virtio/virtio_pci.ko").write_bytes(b"\0depends=\0")
    (kernel,) = resolve([str(linux)], KNOWN)
    found = modules.needed(kernel.files())
    assert found == [linux / "drivers/virtio/virtio_pci.ko"]


@pytest.mark.guest
@pytest.mark.network
def test_a_local_kernel_boots() -> None:
    """It has its configuration at hand."""
    (packaged,) = KNOWN.resolve("6.12-arm64")
    (kernel,) = resolve([str(packaged.files().image)], KNOWN)
    config = kernel.files().config
    assert config
    output = bytearray()
    with boot(kernel, CHECKOUT) as guest:
        command = "cat /boot/config-$(uname -r)"
        assert guest.run(["sh", "-c", command], output.extend) == 0
    assert output == config.read_bytes()
