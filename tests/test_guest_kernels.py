# SPDX-License-Identifier: GPL-2.0
"""What an emulated kernel is booted with: its modules, its configuration, and patience."""

import lzma
from pathlib import Path

import pytest

from guests import modules, packaged
from guests.debian import FetchError, Index
from guests.kernel import KernelFiles
from guests.packaged import PackagedKernel
from guests.patience import PatienceError, scaled


def files_of(directory: Path, config: str) -> KernelFiles:
    """A kernel with virtio modules."""
    drivers = directory / "lib/modules/1.0/kernel/drivers/virtio"
    drivers.mkdir(parents=True)
    for name, depends in (
        ("virtio_console", "virtio,virtio_ring"),
        ("virtio_pci", "virtio-ring"),
        ("virtio_ring", ""),
        ("virtio", ""),
        ("unrelated", "virtio"),
    ):
        modinfo = f"license=GPL\0depends={depends}\0retpoline=Y\0"
        (drivers / f"{name}.ko").write_bytes(b"\x7fELF\0" + modinfo.encode())
    (directory / "boot").mkdir()
    (directory / "boot/vmlinuz-1.0").touch()
    (directory / "boot/config-1.0").write_text(config)
    return packaged.locate([directory])


def test_modules_are_loaded_after_what_they_depend_on(tmp_path: Path) -> None:
    """Only the channel's, and each once."""
    files = files_of(tmp_path, "\nCONFIG_VIRTIO_PCI=m\nCONFIG_VIRTIO_CONSOLE=m\n")
    assert [path.stem for path in modules.needed(files)] == [
        *("virtio_ring", "virtio_pci", "virtio", "virtio_console")
    ]


def test_modules_of_devices_are_unpacked(tmp_path: Path) -> None:
    """Those the configuration has as modules; one that is not there is done without."""
    files = files_of(tmp_path, "\nCONFIG_ZRAM=m\nCONFIG_HWPOISON_INJECT=m\nCONFIG_CRYPTO_LZO=y\n")
    for name, depends in (("drivers/block/zram/zram", "lz4-x"), ("lib/lz4/lz4_x", "")):
        module = files.modules / f"{name}.ko.xz"
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_bytes(lzma.compress(f"\0depends={depends}\0".encode()))
    found = modules.needed(files)
    assert [path.name for path in found] == ["lz4_x.ko.xz", "zram.ko.xz"]
    assert modules.content(found[1]) == b"\0depends=lz4-x\0"


def test_no_modules_where_they_are_built_in(tmp_path: Path) -> None:
    """As in Debian's kernels since 6.12."""
    files = files_of(tmp_path, "\nCONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_CONSOLE=y\n")
    assert modules.needed(files) == []


def test_kernel_of_three_packages(tmp_path: Path) -> None:
    """7.2 has image, configuration and modules apart, below /usr/lib/modules; all are needed."""
    parts = (("binary", "vmlinuz"), ("base", "config"), ("modules", "kernel/mm/zram.ko"))
    for name, file in parts:
        path = tmp_path / name / "usr/lib/modules/7.2" / file
        path.parent.mkdir(parents=True)
        path.touch()
    trees = [tmp_path / name for name, _ in parts]
    files = packaged.locate(trees)
    assert (files.release, files.image.name) == ("7.2", "vmlinuz")
    assert files.config == tmp_path / "base/usr/lib/modules/7.2/config"
    assert files.modules == tmp_path / "modules/usr/lib/modules/7.2/kernel"
    with pytest.raises(FetchError, match=r"no usr/lib/modules/7\.2/kernel in "):
        packaged.locate(trees[:2])


def test_dependencies_are_read_from_the_index(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first of alternatives counts, versions do not; none is no error."""
    shown = "Package: x\nDepends: dracut | initramfs (>= 2), linux-base-7.2+deb14 (= 7.2-1), kmod\n"
    monkeypatch.setattr(Index, "run", lambda *_: shown)
    index = Index(tmp_path, 0, "deb http://mirror sid main")
    assert index.dependencies("x") == ["dracut", "linux-base-7.2+deb14", "kmod"]
    monkeypatch.setattr(Index, "run", lambda *_: "Package: x\n")
    assert index.dependencies("x") == []


def test_builds_are_found_by_dependencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue's package leads to the one with the kernel in it."""
    depends = {
        "linux-image-arm64": ["linux-base-arm64", "linux-image-7.2-arm64"],
        "linux-image-7.2-arm64": [
            *("dracut", "linux-base-7.2-arm64", "linux-binary-7.2-arm64", "linux-modules-7.2-arm64")
        ],
    }
    monkeypatch.setattr(packaged, "dependencies", lambda package: depends[package.name])
    wanted = PackagedKernel("7.2-arm64", "arm64", "linux-image-arm64", "sid").debian
    found = packaged.build(wanted)
    assert [package.name for package in found] == [
        f"linux-{part}-7.2-arm64" for part in ("base", "binary", "modules")
    ]


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf"])
def test_patience_is_a_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Anything else would make deadlines of nothing."""
    monkeypatch.setenv("KSMTESTS_PATIENCE", text)
    with pytest.raises(PatienceError, match="must be a number above 0"):
        scaled(1)
