# SPDX-License-Identifier: GPL-2.0
"""`python -m reports html`: pages that are complete, and harmless whatever a record holds."""

import re
import shlex
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from plugins import elsewhere, evidence, kernel_log
from reports import charts, shown
from reports.__main__ import main
from reports.history import History
from reports.html import SECTION, again, page, sections
from reports.records import Outcome, Run
from tests.made_up_records import outcome, run, written

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b]0;\x00\u202e{{7*7}}"
VOID = {"meta", "link", "input", "img", "br"}
OPTIONAL = {"td", "th", "tr", "thead", "tbody", "dt", "dd", "option", "li", "html", "body", "head"}


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not [tag for tag in self.open if tag not in OPTIONAL]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it, as it is closed at once."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Whatever is open inside must need no end."""
        while (last := self.open.pop()) != tag:
            assert last in OPTIONAL, f"</{tag}> closes <{last}>"

    def handle_data(self, data: str) -> None:
        """Keep it."""
        self.text += data

    def links(self) -> list[str]:
        """What it refers to."""
        return [str(a[key]) for _, a in self.tags for key in ("href", "src") if key in a]


def site(directory: Path, *runs: Run) -> Path:
    """The pages of these runs."""
    files = [str(written(one, directory / f"{number}.jsonl")) for number, one in enumerate(runs)]
    assert main(["html", *files, "-o", str(directory / "site")]) == 0
    return directory / "site"


def pages(root: Path) -> dict[str, Page]:
    """All of them, by their names below the directory."""
    return {str(one.relative_to(root)): Page(one.read_text()) for one in root.rglob("*.html")}


ALL = [
    outcome(f"test_{result}", result, kernel, measured={"MiB_per_s": 2.5}, guest_seconds=1.5)
    for result in ("pass", "fail", "error", "skip", "xfail", "xpass")
    for kernel in ("7.2-arm64", "7.2-amd64")
]


def test_pages_of_what_is_no_plain_pass(tmp_path: Path) -> None:
    """Each with what it is about; every link leads somewhere in the directory."""
    root = site(tmp_path, run(*ALL))
    found = pages(root)
    cells = [one for name, one in found.items() if name.startswith("cells/")]
    assert len(cells) == 2 * 5
    assert sum("511 are too few" in one.text for one in cells) == 2 * 2
    for name, one in found.items():
        for link in one.links():
            target = (root / name).parent / link
            assert link in {"data:,", "#main"} or target.resolve().is_relative_to(root)
            assert link in {"data:,", "#main"} or target.is_file(), link


def test_the_index_tells_the_worst_first(tmp_path: Path) -> None:
    """How many failures, and where."""
    text = " ".join(pages(site(tmp_path, run(*ALL)))["index.html"].text.split())
    assert "4 failures on 2 of 2 kernels: 7.2-amd64 (2), 7.2-arm64 (2)" in text


def test_nothing_fails(tmp_path: Path) -> None:
    """As the index says."""
    text = pages(site(tmp_path, run(ALL[0])))["index.html"].text
    assert "Nothing fails." in text
    assert "What fails" not in text


def test_no_asset_is_elsewhere(tmp_path: Path) -> None:
    """And the only script is the one whose hash the page has."""
    for name, one in pages(site(tmp_path, run(*ALL))).items():
        assert not any(re.match(r"[a-z]+:|/", link) for link in one.links() if link != "data:,")
        scripts = [attributes for tag, attributes in one.tags if tag == "script"]
        assert scripts == ([{}] if name == "index.html" else [])
        (policy,) = [a["content"] for _, a in one.tags if "http-equiv" in a]
        assert str(policy).startswith("default-src 'none';")
        assert "unsafe" not in str(policy)


def hostile() -> list[Outcome]:
    """Whatever a guest can write, and more."""
    texts = ("kernel_release", "architecture", "configuration", "directive", "reason", "log")
    fields = dict.fromkeys((*texts, "fingerprint"), HOSTILE)
    return [
        outcome(f"../../../../test_{HOSTILE}{result}", result, f"../../{HOSTILE}", **fields)
        for result in ("pass", "fail", "skip", "xfail", "xpass")
    ]


def test_whatever_a_record_holds_is_text(tmp_path: Path) -> None:
    """No element, no attribute, no template and no sign that cannot be seen is made of it."""
    tests = [replace(one, measured={HOSTILE: 1.0}) for one in hostile()]
    root = site(tmp_path, run(*tests), run(*tests, day=2))
    found = pages(root)
    assert len(found) == 2 + 4
    for name, one in found.items():
        tags = [tag for tag, _ in one.tags]
        assert tags.count("script") == (name == "index.html")
        assert "img" not in tags
        assert not any(key.startswith("on") for _, attributes in one.tags for key in attributes)
        assert "alert(1)" in one.text
        assert "{{7*7}}" in one.text
        assert r"\x1b]0;\x00\u202e" in one.text
        assert one.text.replace("\n", "").replace("\t", "").isprintable()


def test_files_are_in_the_directory(tmp_path: Path) -> None:
    """Whatever tests and kernels are called."""
    directory = tmp_path / "a/b/c/d"
    directory.mkdir(parents=True)
    root = site(directory, run(*hostile()))
    made = {path for path in tmp_path.rglob("*") if path.is_file() and root not in path.parents}
    assert made == {directory / "0.jsonl"}
    names = [path.name for path in (root / "cells").iterdir()]
    assert len(names) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9-]{,100}\.html", name) for name in names)


def test_names_of_files_differ() -> None:
    """As cells do, whatever their letters."""
    tests = [outcome(f"test_a[{sign}]", "fail", kernel) for sign in "/-" for kernel in ("k/", "k-")]
    cells = History.of([run(*tests)]).cells.values()
    assert len({page(cell) for cell in cells}) == 4


def test_kernels_are_in_the_order_of_their_releases() -> None:
    """Whichever of them is done first, and whatever the others are called."""
    names = ["6.1-arm64", "6.1-armhf", "6.12-arm64", "6.12-arm64-16k", "7.2-arm64", "host-²", "x86"]
    tests = [outcome("test_it", kernel=name) for name in reversed(names)]
    assert History.of([run(*tests)]).kernels == names


def test_times_are_shown_to_the_second() -> None:
    """With their distance from UTC, as runs may be of several machines."""
    assert shown.moment("2026-03-04T05:06:07.890123+01:00") == "2026-03-04 05:06:07+01:00"


def test_long_texts_lose_their_middle(tmp_path: Path) -> None:
    """A page is not as long as a guest wants it."""
    long = "x" * 10_000_000
    fields = {"reason": long, "log": long, "fingerprint": long, "kernel_release": long}
    root = site(tmp_path, run(outcome("test_it", "fail", **fields)))
    assert sum(path.stat().st_size for path in root.rglob("*.html")) < 10 * shown.LONGEST_TEXT


def test_signs_that_cannot_be_seen_are_spelled() -> None:
    """Those that no file can have, too."""
    assert shown.block("a\tb\n\x1b[2J\u202e\ud800\xa0ä") == "a\tb\n\\x1b[2J\\u202e\\ud800\\xa0ä"
    assert shown.line("one\ntwo") == "one"


def test_the_parts_of_a_log_are_told_apart() -> None:
    """The titles are those of the plugins."""
    for title in (evidence.SECTION, kernel_log.SECTION, elsewhere.CONSOLE, "Captured stdout call"):
        assert SECTION.match(f"{title}:")
    log = "E   too few\nKSM evidence:\nsettings: run 1\n\nconsole of the guest:\n[1.0] a\n[1.1] b"
    assert sections(log) == [
        ("traceback", "E   too few"),
        ("KSM evidence", "settings: run 1"),
        ("console of the guest", "[1.0] a\n[1.1] b"),
    ]
    assert sections("") == []


@pytest.mark.parametrize(
    ("test", "kernel", "words"),
    [
        ("test_it", "", ["ksmtests/test_a.py::test_it"]),
        ("test_it[a b]", "", ["ksmtests/test_a.py::test_it[a b]"]),
        ("test_it", "linux", ["--kernel=/src/linux", "ksmtests/test_a.py::test_it[linux]"]),
        ("test_it[1]", "linux", ["--kernel=/src/linux", "ksmtests/test_a.py::test_it[1-linux]"]),
        ("test_it", "7.2-s390x", ["--kernel=7.2-s390x", "ksmtests/test_a.py::test_it[7.2-s390x]"]),
    ],
)
def test_the_command_runs_just_that_again(test: str, kernel: str, words: list[str]) -> None:
    """On the kernel as it was named."""
    one = replace(run(), again={"linux": ["--kernel=/src/linux"]})
    command = again(one, outcome(test, kernel=kernel))
    assert shlex.split(command) == ["python", "-m", "pytest", *words]


def test_runs_are_compared(tmp_path: Path) -> None:
    """In the order they began in; what passes again has a page for what it was."""
    first = run(outcome("test_it", "fail"), outcome("test_more"), day=1)
    second = run(outcome("test_it"), outcome("test_more"), day=2)
    root = site(tmp_path, second, first)
    index = pages(root)["index.html"]
    assert "did not fail in the run before" not in index.text
    (row,) = re.findall(r"<tr><th scope=\"row\">test_it.*?</tr>", (root / "index.html").read_text())
    assert 'class="pass changed"' in row
    assert [a.get("class") for tag, a in index.tags if tag == "td" and a.get("data-result")] == [
        *("pass changed", "pass")
    ]
    (cell,) = (root / "cells").iterdir()
    assert "2026-01-01" in Page(cell.read_text()).text


def test_without_a_datum_there_is_no_chart(tmp_path: Path) -> None:
    """No boot and no measurement is made up."""
    times = pages(site(tmp_path, run(outcome("test_it"))))["times.html"].text
    assert "Until a guest was ready" not in times
    assert "Measured" not in times


def test_times_are_of_the_last_run(tmp_path: Path) -> None:
    """With those of the runs before beside them."""
    runs = [run(*(replace(one, guest_seconds=day) for one in ALL), day=day) for day in (1, 2)]
    times = (site(tmp_path, *runs) / "times.html").read_text()
    assert "Until a guest was ready" in times
    assert "over 2 runs, up to 2 s" in times
    assert "Measured: MiB/s" in times


def test_a_line_has_a_gap_where_a_run_has_no_value() -> None:
    """Three values with one missing between them are no line."""
    tags = Page(charts.line([("a", 1.0), ("b", None), ("c", 2.0), ("d", 3.0)], "s")).tags
    assert [a["class"] for tag, a in tags if tag == "circle"] == 3 * ["mark"]
    assert [a["class"] for tag, a in tags if tag == "line"] == ["axis", "path"]


@pytest.mark.parametrize("value", [0.0, 1e-9, 1.0, 1e9])
def test_scales_hold_any_duration(value: float) -> None:
    """Within their width."""
    scale = charts.LogScale([value, 3.0])
    assert charts.MARGIN <= scale.at(value) <= charts.WIDTH - charts.MARGIN
    for svg in (
        scale.axis(),
        charts.LogScale([value]).dots([("a", value)]),
        charts.bar(value, 0, ""),
    ):
        assert "nan" not in svg
        assert "inf" not in svg


def test_a_directory_of_something_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report may be written again, and has nothing of the last one."""
    record = written(run(*ALL), tmp_path / "a")
    (tmp_path / "cells").mkdir()
    assert main(["html", str(record), "-o", str(tmp_path)]) == 2
    assert f"{tmp_path} has files that are no report" in capsys.readouterr().err
    assert not (tmp_path / "index.html").exists()
    root = site(tmp_path, run(*ALL))
    site(tmp_path, run(ALL[0]))
    assert list((root / "cells").iterdir()) == []


def test_bad_input_is_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file and the line are named."""
    record = written(run(ALL[0]), tmp_path / "a")
    record.write_text(record.read_text() + "{\n")
    assert main(["html", str(record), "-o", str(tmp_path / "site")]) == 2
    assert capsys.readouterr().err.startswith(f"{record}, line 4: ")
    assert not (tmp_path / "site").exists()


def test_what_lacks_a_fix_fails_apart(tmp_path: Path) -> None:
    """The verdict tells both."""
    old = outcome("test_old", "fail", lacks=["mm/ksm: count again"])
    index = pages(site(tmp_path, run(old, outcome("test_it", "fail"))))["index.html"]
    text = " ".join(index.text.split())
    assert "1 failure on 1 of 1 kernel: host-arm64 (1). 1 for want of a named fix." in text
    assert 'may lack "mm/ksm: count again"' in text
    text = pages(site(tmp_path, run(old)))["index.html"].text
    assert "Nothing fails otherwise. 1 for want of a named fix." in " ".join(text.split())


def test_new_failures_are_counted(tmp_path: Path) -> None:
    """Those of tests that failed before are not."""
    first = run(outcome("test_it"), outcome("test_more", "fail"), day=1)
    second = run(outcome("test_it", "fail"), outcome("test_more", "error"), day=2)
    text = " ".join(pages(site(tmp_path, first, second))["index.html"].text.split())
    assert "2 failures on 1 of 1 kernel: host-arm64 (2). 1 did not fail in the run before." in text


def test_what_has_to_be_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where only what the tests need is there."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "reports.html")
    record = written(run(ALL[0]), tmp_path / "a")
    assert main(["html", str(record), "-o", str(tmp_path / "site")]) == 2
    assert capsys.readouterr().err.startswith("jinja2 is not installed: ")
