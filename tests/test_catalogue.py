# SPDX-License-Identifier: GPL-2.0
"""The catalogue of kernels: what is in it, what a name means, and what is wrong with a file."""

import re
from pathlib import Path

import pytest

from guests import catalogue
from guests.catalogue import Catalogue, CatalogueError
from guests.debian import Package
from guests.packaged import PackagedKernel
from plugins.elsewhere import newest_here

KNOWN = catalogue.load()
MINE = """\
[kernels.mine]
arch = "arm64"
package = "linux-image-mine"
suite = "sid"
memory_mib = 1024

[groups]
favourites = ["mine", "7.2-amd64"]
"""


def names(pattern: str, known: Catalogue = KNOWN) -> list[str]:
    """The names a pattern stands for."""
    return [kernel.name for kernel in known.resolve(pattern)]


def write(directory: Path, text: str) -> Path:
    """A catalogue of the user's."""
    path = directory / "mine.toml"
    path.write_text(text)
    return path


def test_a_name_is_one_kernel() -> None:
    """An entry's keys become a kernel, and the package that is fetched for it."""
    (kernel,) = KNOWN.resolve("6.12-arm64-16k")
    assert kernel == PackagedKernel(
        "6.12-arm64-16k",
        "arm64",
        "linux-image-arm64-16k",
        "bookworm-backports",
        memory_mib=1024,
    )
    assert kernel.debian == Package("linux-image-arm64-16k", "bookworm-backports", "arm64")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("7.2-armhf*", ["7.2-armhf", "7.2-armhf-lpae"]),
        ("*-16k", ["6.12-arm64-16k", "7.2-arm64-16k"]),
        (
            "latest",
            [
                *("7.2-amd64", "7.2-amd64-numa", "7.2-arm64", "7.2-arm64-16k", "7.2-arm64-mte"),
                *("7.2-arm64-numa", "7.2-armhf", "7.2-armhf-lpae"),
                *("7.2-riscv64", "7.2-s390x", "7.2-ppc64el", "7.2-ppc64el-64k"),
            ],
        ),
    ],
)
def test_globs_and_groups(pattern: str, expected: list[str]) -> None:
    """They stand for kernels in the catalogue's order."""
    assert names(pattern) == expected


def test_groups_of_the_suite() -> None:
    """`all` needs no entry; `arm` is of 32 and 64 bits, `numa` has several nodes."""
    assert names("all") == list(KNOWN.kernels)
    assert names("numa") == [name for name, kernel in KNOWN.kernels.items() if kernel.nodes > 1]
    assert names("arm") == [name for name in KNOWN.kernels if "-arm" in name]


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("7.2-amr64", r"did you mean 7\.2-arm64"),
        ("lates", r"did you mean latest"),
        ("quux", r"there are 6\.1-amd64, .*, all, arm, latest, numa"),
        ("8.*", r"no kernel, group or pattern 8\.\*"),
    ],
)
def test_unknown_names_are_answered_with_known_ones(pattern: str, hint: str) -> None:
    """The error helps."""
    with pytest.raises(CatalogueError, match=hint):
        KNOWN.resolve(pattern)


def test_a_catalogue_of_ones_own_is_added(tmp_path: Path) -> None:
    """Its kernels and groups stand beside the suite's."""
    known = catalogue.load(write(tmp_path, MINE))
    assert names("favourites", known) == ["7.2-amd64", "mine"]
    assert known.kernels["mine"].memory_mib == 1024
    assert names("all", known) == [*KNOWN.kernels, "mine"]


def test_ones_own_entry_wins(tmp_path: Path) -> None:
    """An entry of the suite's name replaces it."""
    known = catalogue.load(write(tmp_path, MINE.replace("mine]", '"7.2-arm64"]')))
    assert known.kernels["7.2-arm64"].package == "linux-image-mine"


def test_a_group_may_be_empty_handed(tmp_path: Path) -> None:
    """The error names what the group asks for."""
    known = catalogue.load(write(tmp_path, '[groups]\nold = ["2.6-*"]'))
    with pytest.raises(CatalogueError, match=r"the group old has no kernels: 2\.6-\*"):
        known.resolve("old")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[kernels", "Expected ']'"),
        ("[kernel.mine]", "unknown table [kernel]: there are [kernels] and [groups]"),
        ("kernels = 3", "kernels is 3, not a table"),
        ("[kernels]\nmine = 3", 'kernels."mine" is 3, not a table'),
        ('[kernels."../x"]', 'kernels."../x": a kernel\'s name matches'),
        (MINE.replace("suite", "siute"), 'kernels."mine": unknown key siute: there are arch,'),
        (MINE.replace('suite = "sid"', ""), 'kernels."mine": the key suite is missing'),
        (MINE.replace('"sid"', "7"), 'kernels."mine": suite is 7, not'),
        (MINE.replace("1024", "true"), 'kernels."mine": memory_mib is True, not'),
        (MINE.replace("1024", "0"), 'kernels."mine": memory_mib is 0; the least is 1'),
        (MINE.replace("1024", "1024\nnodes = 3"), "memory_mib is 1024, which is no multiple of 3"),
        (MINE.replace('"arm64"', '"vax"'), "kernels.\"mine\": arch is 'vax'; there are amd64,"),
        (MINE.replace('"linux-image-mine"', '"-o x"'), "'-o x' does not match"),
        (MINE.replace("favourites", "all"), "groups.all: that is the group of all kernels"),
        ("[groups]\nmine = 'x'", "groups.mine is 'x', not a list of names or patterns"),
        ("[groups]\nmine = [3]", "groups.mine is [3], not a list of names or patterns"),
    ],
)
def test_mistakes_are_named_with_file_entry_and_key(
    tmp_path: Path, text: str, complaint: str
) -> None:
    """Every error begins with the file."""
    path = write(tmp_path, text)
    with pytest.raises(CatalogueError, match=f"^{re.escape(str(path))}: .*{re.escape(complaint)}"):
        catalogue.load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The path is in the error."""
    with pytest.raises(CatalogueError, match=r"cannot read the catalogue .*gone\.toml: No such"):
        catalogue.load(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        ("x86_64", "7.2-amd64"),
        ("aarch64", "7.2-arm64"),
        ("s390x", "7.2-s390x"),
        ("z80", "7.2-amd64"),
    ],
)
def test_the_kernel_offered_is_this_machines(
    machine: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest ordinary one; that of x86 where there is none."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert newest_here() == name


def test_every_name_of_the_catalogue_can_stand_in_an_id() -> None:
    """And none is the end of another behind a dash, or a test would belong to two kernels."""
    names = list(KNOWN.kernels)
    assert not [(one, two) for one in names for two in names if one.endswith(f"-{two}")]
