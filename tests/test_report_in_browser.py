# SPDX-License-Identifier: GPL-2.0
"""The pages of `python -m reports html` in Chromium, from files, with no server."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from reports.__main__ import main
from tests.made_up_records import outcome, run, written

DEADLINE_S = 30
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
pytestmark = [
    pytest.mark.qa,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="chromium and chromium-driver are not installed"
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs on two kernels."""
    directory = tmp_path_factory.mktemp("report")
    kernels = ("7.2-arm64", "7.2-amd64")
    before = [outcome(f"test_{n}", kernel=kernel) for n in range(4) for kernel in kernels]
    now = [
        outcome("test_0", kernel="7.2-arm64"),
        outcome("test_0", "fail", "7.2-amd64", log="E   one <b>too</b> few"),
        outcome("test_1", "skip", "7.2-arm64", reason="too cold"),
        outcome("test_1", "skip", "7.2-amd64", reason="too hot"),
        outcome("test_2", "xfail", "7.2-arm64"),
        *before[-2:],
    ]
    files = [
        str(written(run(*tests, day=day), directory / f"{day}.jsonl"))
        for day, tests in ((1, before), (2, now))
    ]
    assert main(["html", *files, "-o", str(directory / "site")]) == 0
    return directory / "site"


@pytest.fixture(params=["light", "dark"])
def browser(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A browser of its own, which has had nothing to complain of at its end."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in (*OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        scheme = {"name": "prefers-color-scheme", "value": request.param}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
        assert driver.get_log("browser") == []  # type: ignore[no-untyped-call]
    finally:
        driver.quit()


def rows(browser: webdriver.Chrome) -> list[str]:
    """The names of the tests that are shown."""
    found = browser.find_elements("css selector", "#matrix tbody tr:not(.module)")
    return [row.find_element("tag name", "th").text for row in found if row.is_displayed()]


def choose(browser: webdriver.Chrome, name: str, label: str) -> None:
    """Choose in one of the filters."""
    for option in browser.find_elements("css selector", f"select[name={name}] option"):
        if option.text == label:
            option.click()
            return
    raise LookupError(label)


def background(browser: webdriver.Chrome) -> int:
    """How bright the page is, the sum of its colours."""
    colour = browser.find_element("tag name", "body").value_of_css_property("background-color")
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3])


def test_filters(browser: webdriver.Chrome, site: Path) -> None:
    """Each shows what it says, and so does the address that one passes on."""
    browser.get((site / "index.html").as_uri())
    tests = [f"test_{n}" for n in range(4)]
    assert rows(browser) == tests
    for name, label, expected in [
        ("show", "failed", tests[:1]),
        ("show", "changed", tests[:3]),
        ("show", "expected failures", tests[2:3]),
        ("show", "skipped", tests[1:2]),
        ("kernel", "7.2-amd64", tests[1:2]),
        ("reason", "too cold (1)", []),
        ("kernel", "7.2-arm64", tests[1:2]),
    ]:
        choose(browser, name, label)
        assert rows(browser) == expected, (name, label)
    assert browser.find_element("id", "count").text == "1 of 4 tests"
    address = browser.current_url
    browser.get("about:blank")
    browser.get(address)
    assert rows(browser) == tests[1:2]
    browser.find_element("css selector", "button[type=reset]").click()
    WebDriverWait(browser, DEADLINE_S).until(lambda _: rows(browser) == tests)


def test_a_cell_is_opened_by_keys_alone(browser: webdriver.Chrome, site: Path) -> None:
    """From the first link on; it shows what the guest said as text."""
    browser.get((site / "index.html").as_uri())
    for _ in range(50):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if browser.switch_to.active_element.text == "fail":
            break
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    heading = WebDriverWait(browser, DEADLINE_S).until(
        lambda driver: "/cells/" in driver.current_url and driver.find_element("tag name", "h1")
    )
    assert heading.text == "fail ksmtests/test_a.py::test_0 on 7.2-amd64"
    assert "one <b>too</b> few" in browser.find_element("tag name", "main").text


def test_pages_are_light_or_dark(
    browser: webdriver.Chrome, site: Path, request: pytest.FixtureRequest
) -> None:
    """As the reader prefers; the style sheet is found, and charts have a size."""
    for page in ("index.html", "times.html", next((site / "cells").iterdir())):
        browser.get((site / page).as_uri())
        is_light = background(browser) > 3 * 128
        assert is_light == ("[light]" in request.node.name)
        for svg in browser.find_elements("tag name", "svg"):
            assert svg.size["width"] > 100
            assert svg.size["height"] > 10


def test_a_page_needs_no_script(site: Path, browser: webdriver.Chrome) -> None:
    """Without it all tests are there, and filters that would do nothing are not."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get((site / "index.html").as_uri())
    assert len(rows(browser)) == 4
    assert not browser.find_element("id", "filters").is_displayed()
