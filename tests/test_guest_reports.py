# SPDX-License-Identifier: GPL-2.0
"""Reports that a guest sends: it is not trusted, and can do no more than fail its own tests."""

from typing import Any

import pytest

from plugins.remote import MalformedReport, rebuilt

pytest_plugins = "pytester"

GOOD = {
    "nodeid": "suite/test_it.py::test_it",
    "outcome": "passed",
    "when": "call",
    "longrepr": None,
    "duration": 0.1,
    "start": 1.0,
    "stop": 1.1,
    "sections": [["Captured stdout call", "x"]],
    "user_properties": [["colour", "blue"]],
    "$report_type": "TestReport",
}


@pytest.fixture
def item(pytester: pytest.Pytester) -> pytest.Item:
    """A test of this run."""
    pytester.mkpydir("suite")
    (pytester.path / "suite/test_it.py").write_text(
        "import pytest\n@pytest.mark.parametrize('k', ['7.2'])\ndef test_it(k): pass\n"
    )
    items, _ = pytester.inline_genitems("suite")
    return items[0]


def test_a_report_becomes_one_of_this_run(item: pytest.Item) -> None:
    """Id, place and keywords are ours."""
    report = rebuilt(item.config, {**GOOD, "keywords": {"x": 1}, "toterminal": 3}, item, "7.2")
    assert (report.nodeid, report.location) == (item.nodeid, item.location)
    assert "x" not in report.keywords
    assert report.sections == [("Captured stdout call", "x")]
    assert callable(report.toterminal)


@pytest.mark.parametrize(
    "change",
    [
        {"nodeid": "suite/test_it.py::test_other"},
        {"outcome": "splendid"},
        {"when": "never"},
        {"longrepr": 7},
        {"longrepr": {"reprcrash": 1, "reprtraceback": 2}},
        {"longrepr": {"reprcrash": None, "reprtraceback": {"reprentries": [{}]}, "chain": None}},
        {"outcome": "skipped", "longrepr": ["file", "no line", "reason"]},
        {"sections": [["title"]]},
        {"sections": "x"},
        {"user_properties": [7]},
        {"duration": "long"},
        {"wasxfail": 3},
        {"$report_type": "CollectReport"},
        {"$report_type": "Nonsense"},
        {"_report_type": "SubTestReport", "_subtest.context": {"nonsense": 1}},
    ],
)
def test_a_forged_report_is_refused(change: dict[str, Any], item: pytest.Item) -> None:
    """It loses the guest, and does not harm the run."""
    with pytest.raises(MalformedReport):
        rebuilt(item.config, {**GOOD, **change}, item, "7.2")
