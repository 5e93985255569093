# SPDX-License-Identifier: GPL-2.0
"""A guest that speaks the protocol as it likes gains nothing but failing its own tests."""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guests.frames import Decoder, Message, ProtocolError, encode
from plugins.remote import MalformedReport, rebuilt
from tests.malicious_agent import ATTACKS, ESCAPES, GOOD_HOST
from tests.test_guest_reports import GOOD, item
from tests.test_hostile_input import JSON
from tests.test_kernels import ROOT, checkout

pytest_plugins = "pytester"
__all__ = ["checkout", "item"]

AGENT = "tests.malicious_agent"
SUITE = """
def test_first(): pass
def test_second(): pass
"""


@pytest.mark.timeout(900)  # every attack costs two connections
def test_attacks(checkout: Path, pytester: pytest.Pytester) -> None:
    """Each costs a guest its own tests and nothing else, to the end of the run.

    Workers pass the reports on, which half of a surrogate pair would end; escape sequences are
    shown, not obeyed by a terminal; no file is made or changed.
    """
    ssh = checkout / "bin/ssh"
    ssh.write_text(f'#!/bin/sh\nexport PYTHONPATH={ROOT}\nexec {sys.executable} -m {AGENT} "$@"\n')
    (checkout / "suite/test_made_up.py").write_text(SUITE)
    before = files(checkout)
    names = [GOOD_HOST, *ATTACKS]
    done = pytester.runpytest_subprocess(
        "suite",
        *(f"--kernel=ssh:{name}" for name in names),
        *("-n", "2", "--junitxml=out.xml", "-rA", "-p", "no:cacheprovider"),
        timeout=800,
    )
    text = f"{done.stdout}\n{done.stderr}"
    assert "INTERNALERROR" not in text
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert failures(checkout / "out.xml") == {
        f"{test}[{name}]": name != GOOD_HOST
        for name in names
        for test in ("test_first", "test_second")
    }
    assert not {"\x1b", "\x9b", "\r", "\x07"} & set(text)
    assert ESCAPES.encode("unicode_escape").decode() in text
    assert files(checkout) - before == {"out.xml"}


def failures(file: Path) -> dict[str, bool]:
    """Which tests failed, by JUnit."""
    cases = ET.parse(file).iter("testcase")  # noqa: S314 - pytest wrote it
    return {
        case.attrib["name"]: any(child.tag in {"failure", "error"} for child in case)
        for case in cases
    }


def files(checkout: Path) -> set[str]:
    """What lies in a checkout and beside it, but for what pytester and Python make there."""
    paths = {path for path in checkout.parent.rglob("*") if "__pycache__" not in path.parts}
    made = re.compile(r"runpytest-|suite$|stdout$|stderr$")
    return {path.name for path in paths if not any(map(made.match, path.parts))}


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    change=st.dictionaries(
        st.sampled_from([*GOOD, "wasxfail", "keywords", "_report_type", "_subtest.context"]),
        JSON
        | st.sampled_from(["skipped", "failed", "setup"])
        | st.fixed_dictionaries({"reprcrash": JSON, "reprtraceback": JSON, "chain": JSON}),
        max_size=3,
    )
)
def test_forged_reports(item: pytest.Item, change: Message) -> None:
    """Reports, which every reporter can take, or MalformedReport."""
    try:
        report = rebuilt(item.config, {**GOOD, **change}, item, "7.2")
    except MalformedReport:
        return
    assert report.nodeid == item.nodeid
    assert isinstance(report.longreprtext, str)
    if report.skipped and not hasattr(report, "wasxfail"):
        assert isinstance(report.longrepr, tuple)
    item.config.hook.pytest_report_to_serializable(config=item.config, report=report)


@settings(deadline=None)
@given(data=st.lists(st.binary(max_size=40) | JSON.map(lambda v: json.dumps(v).encode())))
def test_any_bytes(data: list[bytes]) -> None:
    """Are messages, or ProtocolError; whatever arrives can be written."""
    decoder = Decoder()
    try:
        for piece in data:
            for message in decoder.feed(len(piece).to_bytes(4, "big") + piece):
                encode(message)
                str(message).encode()
    except ProtocolError:
        pass
