# SPDX-License-Identifier: GPL-2.0
"""What the suite, and what it starts, may do, and what root refuses to execute."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from guests import launcher, qemu
from plugins import own_files
from tests.test_guests import command_line

ROOT = Path(__file__).parent.parent
pytest_plugins = "pytester"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="of what root may do")

NOBODY = 65534


def launch(
    directory: Path, *program: str, ids: Sequence[int] = (), within: Sequence[str] = ()
) -> str:
    """What a launched program prints; `within` are words to run the launcher by."""
    command = [*within, *launcher.command(str(directory), program, ids)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as launched:
        assert launched.stdout
        return launched.stdout.read()


def status(directory: Path, ids: Sequence[int] = ()) -> dict[str, str]:
    """What /proc says of a launched process."""
    shown = launch(directory, "cat", "/proc/self/status", ids=ids)
    return {
        name: value.strip() for name, _, value in (x.partition(":") for x in shown.splitlines())
    }


@pytest.mark.parametrize("ids", [(), pytest.param((NOBODY, NOBODY), marks=needs_root)])
def test_what_is_launched_has_no_capability(ids: tuple[int, ...], tmp_path: Path) -> None:
    """Nor can it get one, by whatever it executes: QEMU runs so, started by root or not."""
    said = status(tmp_path, ids)
    assert said["NoNewPrivs"] == "1"
    capabilities = {name: int(bits, 16) for name, bits in said.items() if name.startswith("Cap")}
    bounds = capabilities.pop("CapBnd")
    assert set(capabilities.values()) == {0}
    assert os.geteuid() != 0 or bounds == 0


@needs_root
def test_what_is_launched_is_another_user(tmp_path: Path) -> None:
    """In all of its ids, and in no group of root's."""
    said = status(tmp_path, (NOBODY, 12345, 23456))
    assert said["Uid"].split() == [str(NOBODY)] * 4
    assert said["Gid"].split() == ["12345"] * 4
    assert said["Groups"] == "23456"
    assert status(tmp_path, (NOBODY, 12345))["Groups"] == ""


@needs_root
def test_another_user_reads_nothing_of_roots(tmp_path: Path) -> None:
    """Its program may lie there all the same."""
    secret, program = tmp_path / "secret", tmp_path / "program"
    secret.write_text("of root")
    program.write_text("#!/bin/sh\nid -u; cat $1")
    for path, mode in ((tmp_path, 0o700), (program, 0o755)):
        path.chmod(mode)
    assert launch(tmp_path, str(program), str(secret)) == "0\nof root"
    said = launch(tmp_path, str(program), str(secret), ids=(NOBODY, NOBODY))
    assert said.startswith(f"{NOBODY}\n")
    assert "Permission denied" in said


@needs_root
def test_a_user_that_cannot_be_had_is_no_reason_to_stay_root(tmp_path: Path) -> None:
    """Nothing is run then."""
    namespace = ("unshare", "--user", "--map-root-user")
    said = launch(tmp_path, "id", ids=(NOBODY, NOBODY), within=namespace)
    if said.startswith("unshare:"):
        pytest.skip(said)
    assert said == "id: Operation not permitted\n"


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
