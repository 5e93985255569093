# SPDX-License-Identifier: GPL-2.0
"""Root images in the cache: made once, whole or not at all, and not used when they are damaged."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from guests import image
from guests.cache import cache_dir
from guests.image import BASE, DIGEST, ImageError, base_image, write_image

CONTENT = b"an archive" * 1000


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where they are, in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_dir() / "images"


def complete(work: Path) -> None:
    """What making an image ends with."""
    (work / "done").mkdir()
    (work / "done" / BASE).write_bytes(CONTENT)
    (work / "done" / DIGEST).write_text(hashlib.sha256(CONTENT).hexdigest())


def test_two_at_once_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first, and takes what that has made."""
    making = threading.Event()
    made: list[Path] = []

    def make(work: Path, *_: object) -> None:
        making.set()
        made.append(work)
        assert not other.done(), "it does not go on without"
        complete(work)

    monkeypatch.setattr(image, "_make", make)
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(lambda: making.wait(60) and base_image("arm64"))
        assert base_image("arm64") == other.result()
    assert len(made) == 1


def test_environments_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever interpreter compiles its modules writes the same; without one it is another."""
    monkeypatch.setattr(image, "_make", lambda work, *_: complete(work))
    found = {}
    for interpreter in ("/one/python", "/other/python", None):
        monkeypatch.setattr(image, "_interpreter", lambda _, it=interpreter: it)
        found[interpreter] = base_image("arm64")
    assert found["/one/python"] == found["/other/python"] != found[None]


def test_what_a_killed_run_left_is_no_image(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of one is removed, and a whole one made."""
    half = images / "making-arm64/done" / BASE
    half.parent.mkdir(parents=True)
    half.write_bytes(CONTENT[:100])
    monkeypatch.setattr(image, "_make", lambda work, *_: complete(work))
    assert base_image("arm64").read_bytes() == CONTENT
    assert not half.exists()


def test_what_cannot_be_made_leaves_nothing(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, for instance."""

    def fail(work: Path, *_: object) -> None:
        (work / "root").mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image, "_make", fail)
    with pytest.raises(OSError, match="No space left"):
        base_image("arm64")
    assert [path.name for path in images.iterdir()] == ["arm64.lock"]


@pytest.mark.parametrize("damaged", [CONTENT[:-1], b"x" + CONTENT[1:], b""])
def test_a_damaged_image_is_made_anew(
    damaged: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off or changed: it is said, and the next guest has a good one."""
    monkeypatch.setattr(image, "_make", lambda work, *_: complete(work))
    base = base_image("arm64")
    write_image(tmp_path / "initramfs", b"front", base)
    assert (tmp_path / "initramfs").read_bytes() == b"front" + CONTENT
    base.write_bytes(damaged)
    with pytest.raises(ImageError, match="was damaged, and is removed"):
        write_image(tmp_path / "initramfs", b"front", base)
    assert not base.exists()
    write_image(tmp_path / "initramfs", b"front", base_image("arm64"))
