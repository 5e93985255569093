# SPDX-License-Identifier: GPL-2.0
"""`--junitxml`: kernels and reasons are in it, and it is what Jenkins takes.

Jenkins's schema is the copy in pytest's own source distribution, which it tests itself by.
"""

import platform
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import xmlschema

from arch import current
from tests.test_records import SUITE

pytest_plugins = ("pytester", "tests.made_up_suite")

SCHEMA = "testing/example_scripts/junit-10.xsd"
Run = Callable[..., pytest.RunResult]
WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])


def properties(file: Path) -> list[tuple[str, str]]:
    """Those of the suite; no test may have one."""
    (suite,) = ET.parse(file).getroot()  # noqa: S314 - pytest wrote it
    assert not list(suite.iterfind("testcase/properties"))
    return [(one.attrib["name"], one.attrib["value"]) for one in suite.iterfind("properties/")]


@WORKERS
def test_the_kernel_and_reasons_are_there(
    run: Run, checkout: Path, workers: tuple[str, ...]
) -> None:
    """Each of them once."""
    run(SUITE, "--junitxml=junit.xml", *workers)
    found = properties(checkout / "junit.xml")
    assert len(found) == len(set(found))
    names = sorted(name for name, _ in found)
    assert names == ["architecture", "configuration", "kernel_release", "skip_reason"]
    assert ("kernel_release", platform.release()) in found
    assert ("architecture", current().name) in found
    assert ("skip_reason", "too cold") in found


def test_each_kernel_is_there(run: Run, checkout: Path) -> None:
    """Of several."""
    boards = ("--kernel=ssh:root@r6.1.77-amd64", "--kernel=ssh:root@r6.12.5")
    run(SUITE, "--junitxml=junit.xml", *boards)
    found = properties(checkout / "junit.xml")
    assert {value for name, value in found if name == "kernel_release"} == {
        "6.1.77-amd64",
        "6.12.5",
    }


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> xmlschema.XMLSchema:
    """Jenkins's schema."""
    place = tmp_path_factory.mktemp("pytest-source")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    asked = ["--no-binary=pytest", f"pytest=={pytest.__version__}"]
    subprocess.run([*pip, *asked], cwd=place, check=True, timeout=300)
    (source,) = place.glob("pytest-*.tar.gz")
    with tarfile.open(source) as tar:
        file = tar.extractfile(f"pytest-{pytest.__version__}/{SCHEMA}")
        assert file
        return xmlschema.XMLSchema(file.read().decode())


@pytest.mark.qa
@pytest.mark.network
def test_jenkins_takes_it(run: Run, checkout: Path, schema: xmlschema.XMLSchema) -> None:
    """Every kind of result, of several kernels; what it would not take is noticed."""
    boards = ("--kernel=ssh:root@r6.1.77-amd64", "--kernel=ssh:root@r6.12.5")
    run(SUITE, "--junitxml=junit.xml", *boards)
    file = checkout / "junit.xml"
    schema.validate(file)
    file.write_text(file.read_text().replace("<testcase ", "<testcase kernel='6.1' ", 1))
    assert not schema.is_valid(file)
