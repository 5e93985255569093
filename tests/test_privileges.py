# SPDX-License-Identifier: GPL-2.0
"""What the suite, and what it starts, may do, and what root refuses to execute."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from guests import launcher, qemu
from plugins import own_files
from tests.test_guests import command_line

ROOT = Path(__file__).parent.parent
pytest_plugins = "pytester"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="of what root may do")

STATUS = ("grep", "-E", "^(Cap|NoNewPrivs)", "/proc/self/status")


def test_what_is_launched_has_no_capability(tmp_path: Path) -> None:
    """Nor can it get one, by whatever it executes: QEMU runs so, started by root or not."""
    command = [sys.executable, "-I", launcher.__file__, str(tmp_path), *STATUS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as launched:
        assert launched.stdout
        status = dict(line.split(":") for line in launched.stdout.read().splitlines())
    assert status.pop("NoNewPrivs").strip() == "1"
    assert {int(bits, 16) for name, bits in status.items() if name != "CapBnd"} == {0}
    assert os.geteuid() != 0 or int(status["CapBnd"], 16) == 0


@pytest.mark.parametrize("arch", ["amd64", "arm64", "armhf", "s390x", "ppc64el", "riscv64"])
def test_guests_have_no_network_and_a_sandbox(arch: str) -> None:
    """Nothing of this machine's: no device but the console, the monitor and the channel."""
    told = command_line(arch)
    assert told[told.index("-sandbox") + 1] == qemu.SANDBOX
    assert {"-nodefaults", "-no-user-config"} <= set(told)
    assert not {"-net", "-netdev", "-nic", "-drive", "-hda", "-virtfs", "-fsdev"} & set(told)
    devices = [told[at + 1].partition(",")[0] for at, word in enumerate(told) if word == "-device"]
    assert [name.partition("-")[0] for name in devices] == ["virtio", "virtserialport"]


@pytest.mark.parametrize("denied", ["obsolete", "elevateprivileges", "spawn", "resourcecontrol"])
def test_sandbox_denies(denied: str) -> None:
    """All that QEMU can be told to deny."""
    assert f"{denied}=deny" in qemu.SANDBOX.split(",")


# Files that others can write


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory of Python below another."""
    (tmp_path / "tree/ksmtests").mkdir(parents=True)
    (tmp_path / "tree/ksmtests/test_it.py").touch()
    (tmp_path / "tree/notes").touch()
    return tmp_path / "tree"


@pytest.mark.parametrize(
    ("name", "mode", "refused"),
    [
        (".", 0o755, False),
        (".", 0o777, True),
        (".", 0o1777, True),  # everybody could add a conftest.py
        ("..", 0o777, True),  # everybody could rename it, and put another there
        ("..", 0o1777, False),
        ("ksmtests", 0o777, True),
        ("ksmtests", 0o775, False),  # the owner's group
        ("ksmtests/test_it.py", 0o666, True),
        ("notes", 0o666, False),
    ],
)
def test_what_all_can_write_is_found(name: str, mode: int, refused: bool, checkout: Path) -> None:
    """Directories and programs, and those above unless only owners can rename what is in them."""
    path = (checkout / name).resolve()
    path.chmod(mode)
    assert own_files.open_to_all(checkout) == (path if refused else None)


def test_links_are_not_followed(checkout: Path, tmp_path: Path) -> None:
    """Python's own directory may be anywhere."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other").chmod(0o777)
    (checkout / "link").symlink_to(tmp_path / "other")
    assert own_files.open_to_all(checkout) is None


@needs_root
def test_root_refuses(pytester: pytest.Pytester) -> None:
    """With what can be written, and what to do."""
    pytester.makeconftest("pytest_plugins = 'plugins.own_files'")
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\npythonpath = ['{ROOT}']\n")
    pytester.makepyfile("def test_it(): pass")
    assert pytester.runpytest_subprocess().ret == pytest.ExitCode.OK
    pytester.path.chmod(0o777)
    done = pytester.runpytest_subprocess()
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: root does not run tests of *any user can*mode 0777*chmod*"])


@needs_root
def test_others_may_run_what_they_like(pytester: pytest.Pytester) -> None:
    """It is their own risk; nothing is refused to them."""
    pytester.makeconftest(
        "import os\nos.geteuid = lambda: 1000\npytest_plugins = 'plugins.own_files'"
    )
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\npythonpath = ['{ROOT}']\n")
    pytester.makepyfile("def test_it(): pass")
    pytester.path.chmod(0o777)
    assert pytester.runpytest_subprocess().ret == pytest.ExitCode.OK
