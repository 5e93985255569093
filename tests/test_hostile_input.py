# SPDX-License-Identifier: GPL-2.0
"""Whatever stands in options and files: an answer in words, no traceback, and nothing half done."""

import json
import string
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import guests.__main__
import kconfig.__main__
import reports.__main__
from guests import catalogue
from guests.catalogue import CatalogueError
from kconfig import ConfigurationError, configuration
from plugins import known_issues
from plugins.known_issues import KnownIssue, KnownIssuesError
from plugins.results import TOTALS
from reports.kcidb import kcidb
from reports.lava import lava
from reports.records import RecordError, read
from reports.tmt import tmt
from tests.test_kernels import PLUGINS

pytest_plugins = ("pytester", "tests.made_up_suite")

# The fixtures only make directories, which each example uses anew.
examples = settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
few = settings(examples, max_examples=8)

ARGUMENT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
SPECIAL = st.sampled_from(
    [
        "",
        "-",
        "--",
        "/",
        "~",
        "~nobody-of-that-name/x",
        ".",
        "..",
        "[",
        "*",
        "ssh:",
        "ssh:-oX",
        "all",
    ]
) | st.just("x" * 300)
NAME = st.text(string.ascii_letters + string.digits + " .-_~%[]\"'\n\t\x7f\xff", max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)

VALUE_OPTIONS = (
    *("--kernel", "--kernel-append", "--kernel-catalogue", "--guest-memory", "--guest-cpus"),
    *("--guest-nodes", "--fresh-guest", "--require", "--known-issues", "--mutant"),
)
FILE_OPTIONS = ("--record", "--matrix")  # files they write

Configure: TypeAlias = Callable[[str], None]


@pytest.fixture
def configure(
    checkout: Path,  # noqa: ARG001 where the suite is
    pytester: pytest.Pytester,
) -> Configure:
    """Begin a run with an option. Raises UsageError."""
    plugins = [f"plugins.{name}" for name in (*PLUGINS, "matrix", "mutant")]
    pytester.makeconftest(f"pytest_plugins = {plugins}")
    (pytester.mkpydir("suite") / "test_it.py").write_text("def test_it(): pass\n")

    def begin(option: str) -> None:
        config = pytester.parseconfigure(option)
        config._ensure_unconfigure()  # noqa: SLF001 - pytester does it for each test, not each run

    return begin


@few
@pytest.mark.parametrize("option", VALUE_OPTIONS)
@given(value=(SPECIAL | ARGUMENT).filter(lambda value: value != "--"))  # argparse drops that
def test_options(option: str, configure: Configure, value: str) -> None:
    """Each takes a value or says what is wrong with it."""
    with suppress(pytest.UsageError):
        configure(f"{option}={value}")


@few
@pytest.mark.parametrize("option", FILE_OPTIONS)
@given(name=NAME)
def test_options_that_name_a_file(
    option: str, configure: Configure, pytester: pytest.Pytester, name: str
) -> None:
    """Of any name; one that cannot be written is refused."""
    with suppress(pytest.UsageError):
        configure(f"{option}={pytester.path}/{name}")


@pytest.mark.usefixtures("configure")
@pytest.mark.parametrize(
    "mistake",
    ["--known-issues=nowhere", "--kernel=nothing", "--require=nothing", "--mutant=x", "nowhere.py"],
)
def test_a_mistake_overwrites_nothing(mistake: str, pytester: pytest.Pytester) -> None:
    """What an earlier run has written stays, and the mistake is told of in a line."""
    files = [pytester.path / "record", pytester.path / "matrix"]
    for file in files:
        file.write_text("of an earlier run")
    options = [f"--{file.name}={file}" for file in files]
    done = pytester.runpytest_subprocess(*options, mistake, "suite")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert [file.read_text() for file in files] == ["of an earlier run"] * 2
    assert "Traceback" not in f"{done.stdout}\n{done.stderr}"


# Files


def toml(value: Any) -> str:
    """A value as TOML has it, or nearly."""
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


def entries(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    """Tables with such keys, and others."""
    return st.dictionaries(st.sampled_from(keys) | st.text(max_size=5), JSON, max_size=6)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file to be read."""
    return tmp_path / "file"


@examples
@given(
    entry=entries(
        *("arch", "package", "suite", "append", "memory_mib", "machine", "cpu", "cpus", "nodes")
    ),
    rest=st.binary(max_size=20),
)
def test_catalogues(file: Path, entry: dict[str, Any], rest: bytes) -> None:
    """A catalogue, or why it is none."""
    wanted = {"arch": "arm64", "package": "linux-image-arm64", "suite": "sid", **entry}
    file.write_bytes(f"kernels.mine = {toml(wanted)}\n".encode("utf-8", "replace") + rest)
    try:
        known = catalogue.load(file)
    except CatalogueError as error:
        assert str(file) in str(error)  # noqa: PT017 it may be none
    else:
        assert known.resolve("mine")


@examples
@given(entry=entries("test", "bug", "releases", "architectures", "until"), rest=st.binary())
def test_known_issues(file: Path, entry: dict[str, Any], rest: bytes) -> None:
    """Issues, or why they are none."""
    whole = {"test": "ksmtests/*", "bug": "https://x", **entry}
    file.write_bytes(f"issue = [{toml(whole)}]\n".encode("utf-8", "replace") + rest)
    try:
        issues = known_issues.load(file)
    except KnownIssuesError as error:
        assert str(file) in str(error)  # noqa: PT017 it may be none
    else:
        assert issues[0].covers("ksmtests/test_it.py::test_it") in {True, False}


@pytest.mark.timeout(60)
def test_patterns_are_not_tried_in_all_ways() -> None:
    """A pattern of many stars is compared as fast as another."""
    issue = KnownIssue("*a" * 40, "https://x", releases=["*1" * 40])
    assert not issue.covers("a" * 39 + "b" * 200)
    assert not issue.is_of({"kernel_release": "1" * 39 + "2" * 200})


@examples
@given(content=st.binary() | st.text().map(str.encode))
@example(b"\x1f\x8b")
@example(b"CONFIG_KSM=\0y\n")
@example(b'CONFIG_X="\\')
def test_configurations(file: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    """A configuration, or why it is none; also from the command line."""
    file.write_bytes(content)
    try:
        configuration.read(file)
    except ConfigurationError as error:
        assert str(file) in str(error)  # noqa: PT017 it may be none
    assert kconfig.__main__.main(["check", str(file)]) in {
        kconfig.__main__.NOTHING_LACKS,
        kconfig.__main__.SOMETHING_LACKS,
        kconfig.__main__.NOT_CHECKED,
    }
    capsys.readouterr()


@examples
@given(
    words=st.lists(
        st.sampled_from(["list", "fetch", "--memory", "--cpus", "--catalogue", "--append", "7.2-*"])
        | ARGUMENT,
        max_size=4,
    )
)
def test_commands_on_guests(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A status, and nothing fetched for what is not asked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = [word for word in words if word not in {"fetch", "boot", "run", "shell", "clean"}]
    try:
        status = guests.__main__.main(words)
    except SystemExit as end:
        status = int(end.code or 0)
    assert status in {0, guests.__main__.FAILED, guests.__main__.USAGE}
    assert "Traceback" not in capsys.readouterr().err


GOOD: dict[str, Any] = {
    "test": "a.py::test_b",
    "names": ["a", "test_b"],
    **dict.fromkeys(("kernel", "kernel_release", "architecture", "configuration"), "x"),
    **dict.fromkeys(("directive", "reason", "start", "log"), "x"),
    "result": "pass",
    "duration": 1.0,
}
HEAD: dict[str, Any] = {"record": 1, "run": "ab", "start": "2026-01-01T00:00:00+00:00"}
WRONG = JSON | st.sampled_from(["\ud800", [], ["\udfff"], -1.0, 10**400, *TOTALS])


@examples
@given(
    head=st.dictionaries(st.sampled_from(list(HEAD)), WRONG, max_size=1),
    change=st.dictionaries(st.sampled_from([*GOOD, "fingerprint", "other"]), WRONG, max_size=2),
    end=st.just({"end": 0}) | st.dictionaries(st.sampled_from(["end", "test"]), WRONG),
    rest=st.binary(max_size=10),
)
@example(head={}, change={}, end={"end": 0}, rest=b"[" * 100_000 + b"\n")
def test_records(
    file: Path,
    capsys: pytest.CaptureFixture[str],
    head: dict[str, Any],
    change: dict[str, Any],
    end: dict[str, Any],
    rest: bytes,
) -> None:
    """A run that every report can be made of, or why it is none."""
    lines = [HEAD | head, GOOD | change, end]
    file.write_bytes("".join(f"{json.dumps(line)}\n" for line in lines).encode() + rest)
    try:
        run = read(file)
    except RecordError as error:
        assert str(file) in str(error)  # noqa: PT017 it may be none
        expected = 2
    else:
        assert kcidb(run, "lab")["tests"]
        assert tmt(run)[1:]
        assert list(lava(run))[1:]
        expected = 0
    for command in ("kcidb", "tmt", "lava"):
        assert reports.__main__.main([command, str(file)]) == expected
    capsys.readouterr()
