# SPDX-License-Identifier: GPL-2.0
"""Reading of a kernel's configuration: what counts as one, where it lies, what its lines say."""

import gzip
import os
import platform
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kconfig import ConfigurationError, sources
from kconfig.configuration import Configuration, find, parse, read
from kconfig.dotconfig import settings

RELEASE = "6.12.95-test"
TEXT = "#\n# Linux/x86 7.2.13 Kernel Configuration\n#\nCONFIG_KSM=y\n# CONFIG_NUMA is not set\n"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A .config."""
    path = tmp_path / "kernel.config"
    path.write_text(TEXT)
    return path


# --- lines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("CONFIG_X=y", "y"),
        ("CONFIG_X=m", "m"),
        ("CONFIG_X=n", "n"),
        ("# CONFIG_X is not set", "n"),
        ("CONFIG_X=y # with a comment, as in fragments", "y"),
        ("CONFIG_X=y\r", "y"),
        ("CONFIG_X=y\0garbage", "y"),
        ("CONFIG_X=1\0garbage", "1"),
        ("# CONFIG_X is not set\0", "n"),
        ("CONFIG_X=250", "250"),
        ("CONFIG_X=-1", "-1"),
        ("CONFIG_X=0xdead000000000000", "0xdead000000000000"),
        ('CONFIG_X=""', ""),
        ('CONFIG_X="a b"', "a b"),
        (r'CONFIG_X="say \"hi\" in C:\\"', 'say "hi" in C:\\'),
        ('CONFIG_X="a" and what follows', "a"),
        ('CONFIG_X="\u00fc\u2028"', "\u00fc\u2028"),
    ],
)
def test_value_of_a_line(line: str, value: str) -> None:
    """Values are those that the kernel's own reader takes."""
    assert settings(line) == {"CONFIG_X": value}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "CONFIG_X",
        "CONFIG_X=",
        "CONFIG_X =y",
        " CONFIG_X=y",
        "CONFIG_X= y",
        "CONFIG_X='y'",
        "CONFIG_X=12 monkeys",
        'CONFIG_X="open',
        'CONFIG_X="a\0b"',
        'CONFIG_X="open\\"',
        "CONFIG_\u00dc=y",
        "CONFIG_=y",
        "\0CONFIG_X=y",
        "#CONFIG_X is not set",
        "# CONFIG_X is not set ",
        "# CONFIG_X=y",
        "# CONFIG_X is absent",
        "export CONFIG_X=y",
    ],
)
def test_line_of_another_form_says_nothing(line: str) -> None:
    """Nor does it take away what another line says."""
    assert settings(line) == {}
    assert settings(f"CONFIG_A=y\n{line}\nCONFIG_B=m") == {"CONFIG_A": "y", "CONFIG_B": "m"}


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ("CONFIG_X=y\nCONFIG_X=m", "m"),
        ("CONFIG_X=y\n# CONFIG_X is not set", "n"),
        ("# CONFIG_X is not set\nCONFIG_X=y", "y"),
        ("CONFIG_X=y\nCONFIG_X=?", "y"),
        ("CONFIG_X=1\n# CONFIG_X is not set", "1"),
        ('CONFIG_X="a"\n# CONFIG_X is not set', "a"),
    ],
)
def test_last_valid_line_counts(lines: str, value: str) -> None:
    """As the kernel's own reader has it (compared with scripts/kconfig/conf of 7.2)."""
    assert settings(lines) == {"CONFIG_X": value}


def test_only_newlines_end_lines() -> None:
    """A form feed or a line separator inside a comment begins no setting."""
    assert settings("# \f CONFIG_X=y\n# \x0bCONFIG_X=y\n#\u2028CONFIG_X=y\r\r\n") == {}


# --- what is lacking --------------------------------------------------------------------------


def test_absent_and_not_set_are_told_apart() -> None:
    """One is a question the kernel was never asked, the other an answer."""
    configuration = parse("CONFIG_KSM=y\n# CONFIG_NUMA is not set\n", "/boot/config")
    assert configuration.lacks("CONFIG_KSM") is None
    assert configuration.lacks("CONFIG_NUMA") == "CONFIG_NUMA is not set in /boot/config"
    assert configuration.lacks("CONFIG_SWAP") == "CONFIG_SWAP is absent from /boot/config"


@pytest.mark.parametrize("value", ["m", "100", '"text"', '""'])
def test_module_number_and_string_are_not_lacking(value: str) -> None:
    """A module counts as there: its probe says whether it can be loaded."""
    assert parse(f"CONFIG_X={value}", "here").lacks("CONFIG_X") is None


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("CONFIG_MIGRATION=y", False),  # before the symbol was split
        ("CONFIG_MIGRATION=y\nCONFIG_NUMA_MIGRATION=y", False),
        ("CONFIG_MIGRATION=y\n# CONFIG_NUMA_MIGRATION is not set", True),
        ("# CONFIG_MIGRATION is not set", True),
        ("CONFIG_KSM=y", True),
    ],
)
def test_symbol_under_its_former_name(text: str, lacking: bool) -> None:
    """Kernels before NUMA_MIGRATION have MIGRATION for it."""
    assert bool(parse(text, "here").lacks("CONFIG_NUMA_MIGRATION")) is lacking


def test_what_is_not_set_is_named_as_that_kernel_names_it() -> None:
    """Nobody finds NUMA_MIGRATION in the menus of a kernel that has MIGRATION."""
    old = parse("# CONFIG_MIGRATION is not set", "here")
    assert old.lacks("CONFIG_NUMA_MIGRATION") == "CONFIG_MIGRATION is not set in here"


# --- files ------------------------------------------------------------------------------------


def test_reads_a_file_plain_and_gzipped(written: Path, tmp_path: Path) -> None:
    """The source is the file."""
    packed = tmp_path / "config.gz"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    for path in (written, packed):
        assert read(path) == Configuration(str(path), {"CONFIG_KSM": "y", "CONFIG_NUMA": "n"})


def test_reads_a_build_tree(written: Path) -> None:
    """A directory stands for the .config in it."""
    written.rename(written.with_name(".config"))
    assert read(written.parent).source == str(written.parent / ".config")


def test_bytes_that_are_no_utf8_do_no_harm(written: Path) -> None:
    """They are replaced."""
    written.write_bytes(b'CONFIG_KSM=y\nCONFIG_X="\xff\xfe"\n\xff\n')
    assert read(written).values == {"CONFIG_KSM": "y", "CONFIG_X": "\ufffd\ufffd"}


def test_zeros_at_the_end_do_no_harm(written: Path) -> None:
    """As a power cut may leave them, a page or more."""
    written.write_bytes(TEXT.encode() + bytes(8192))
    assert read(written).lacks("CONFIG_KSM") is None


def test_line_of_megabytes(written: Path) -> None:
    """It is a line like others, and read in time."""
    long = "x" * (4 << 20)
    written.write_text(f'CONFIG_A="{long}"\n# {long}\n{long}\nCONFIG_B=y\n')
    assert read(written).values == {"CONFIG_A": long, "CONFIG_B": "y"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is no kernel configuration.* begins with nothing"),
        (b"\n\n", "begins with nothing"),
        (b"<html>\n404", r"no line sets a symbol.* begins with '<html>\\n404'"),
        (b"#!/bin/sh\nexit\n", "is no kernel configuration"),
        (gzip.compress(TEXT.encode() * 500)[:-9], "gives no configuration: .*ends early"),
        (gzip.compress(TEXT.encode() * 500)[:-8] + bytes(8), "gives no configuration: .*incorrect"),
        (gzip.compress(b"hello"), "is no kernel configuration.*'hello'"),
        (bytes(5000), "none is embedded in it"),
        (os.urandom(20) + bytes(5000), "none is embedded in it"),
        (b"\x1f\x8b", "none is embedded in it|ends early|is no kernel configuration"),
    ],
    ids=["empty", "blank", "html", "script", "cut", "crc", "gzip", "zeros", "random", "magic"],
)
def test_file_that_is_no_configuration(written: Path, content: bytes, complaint: str) -> None:
    """The error names the file and what was seen."""
    written.write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"(?s){written}.*(?:{complaint})"):
        read(written)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_text_beyond_the_limit(
    written: Path,
    monkeypatch: pytest.MonkeyPatch,
    packed: bool,
) -> None:
    """What unpacks to more than any configuration is refused, not kept in memory."""
    monkeypatch.setattr(sources, "TEXT_LIMIT", 10_000)
    content = TEXT.encode() * 200
    written.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ConfigurationError, match=rf"{written} gives no configuration.*10000 bytes"):
        read(written)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """Nothing blocks and nothing else is raised."""
    os.mkfifo(tmp_path / "fifo")
    for path, complaint in (
        (tmp_path / "none", "cannot be read: No such file"),
        (tmp_path / "fifo", "is neither a file nor a directory"),
        (Path("/dev/zero"), "is neither a file nor a directory"),
        (tmp_path, "has no .config"),
        (tmp_path / "fifo/x", "cannot be read: Not a directory"),
    ):
        with pytest.raises(ConfigurationError, match=f"{path} {complaint}"):
            read(path)


# --- finding ----------------------------------------------------------------------------------


def place(root: Path, name: str, content: bytes) -> Path:
    """Write a file below a root directory."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_surest_source_first(tmp_path: Path) -> None:
    """Each is found once those before it are gone; without any there is none."""
    places = [
        place(tmp_path, f"boot/config-{RELEASE}", TEXT.encode()),
        place(tmp_path, f"lib/modules/{RELEASE}/config", TEXT.encode()),
        place(tmp_path, f"lib/modules/{RELEASE}/build/.config", TEXT.encode()),
    ]
    place(tmp_path, "boot/config-6.1", TEXT.encode())
    place(tmp_path, "proc/config.gz", gzip.compress(TEXT.encode()))  # another kernel runs
    for path in places:
        found = find(tmp_path, RELEASE)
        assert found
        assert found.source == str(path)
        path.unlink()
    assert find(tmp_path, RELEASE) is None


def test_running_kernel_says_it_itself(tmp_path: Path) -> None:
    """/proc/config.gz is asked before the files of the release."""
    packed = place(tmp_path, "proc/config.gz", gzip.compress(TEXT.encode()))
    place(tmp_path, f"boot/config-{platform.release()}", TEXT.encode())
    found = find(tmp_path)
    assert found
    assert found.source == str(packed)


def test_damaged_configuration_is_not_passed_over(tmp_path: Path) -> None:
    """The next one might be another kernel's."""
    damaged = place(tmp_path, f"boot/config-{RELEASE}", b"")
    place(tmp_path, f"lib/modules/{RELEASE}/config", TEXT.encode())
    with pytest.raises(ConfigurationError, match=str(damaged)):
        find(tmp_path, RELEASE)


# --- properties -------------------------------------------------------------------------------

NAMES = st.text(string.ascii_letters + string.digits + "_", min_size=1).map("CONFIG_{}".format)
STRINGS = st.text(st.characters(exclude_characters="\n\0\r", exclude_categories=["Cs"]))
VALUES = st.one_of(
    st.sampled_from("ymn"),
    st.integers().map(str),
    st.integers(min_value=0).map(hex),
    STRINGS.map(lambda text: f'"{text}"'),
)


def render(symbol: str, value: str) -> str:
    """A line as kconfig writes it."""
    if value == "n":
        return f"# {symbol} is not set"
    if value.startswith('"'):
        escaped = value[1:-1].replace("\\", "\\\\").replace('"', '\\"')
        value = f'"{escaped}"'
    return f"{symbol}={value}"


@given(st.dictionaries(NAMES, VALUES), st.sampled_from(["\n", "\r\n"]))
def test_what_kconfig_writes_is_read_back(values: dict[str, str], end: str) -> None:
    """Whatever a string holds."""
    text = "".join(render(*item) + end for item in values.items())
    unquoted = {
        symbol: value[1:-1] if value.startswith('"') else value for symbol, value in values.items()
    }
    assert settings(text) == unquoted


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    """Symbols and values have their forms, whatever comes in."""
    for symbol, value in settings(text).items():
        assert symbol.startswith("CONFIG_")
        assert symbol.isascii()
        assert "\n" not in value
        assert "\0" not in value


LINES = st.one_of(
    st.builds(render, NAMES, VALUES),
    st.builds("{}={}".format, NAMES, st.text()),
    st.text(),
    st.just("\0"),
)


@given(st.lists(LINES), st.lists(LINES))
def test_later_lines_win(earlier: list[str], later: list[str]) -> None:
    """What is said later holds, and what only was said earlier stays."""
    first, second = settings("\n".join(earlier)), settings("\n".join(later))
    both = settings("\n".join([*earlier, *later]))
    assert both.keys() == first.keys() | second.keys()
    for symbol, value in both.items():
        assert value in (second.get(symbol), first.get(symbol))
        if second.get(symbol, "n") != "n":
            assert value == second[symbol]


@given(
    st.one_of(st.binary(), st.binary().map(TEXT.encode().__add__), st.binary().map(gzip.compress))
)
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """Never is anything but ConfigurationError raised."""
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    complaint = ""
    try:
        assert read(path).values
    except ConfigurationError as error:
        complaint = str(error)
    assert not complaint or str(path) in complaint
