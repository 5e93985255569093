# SPDX-License-Identifier: GPL-2.0
"""Selecting tests by area."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OF_FRAMEWORK = {"network", "guest", "qa", "sabotage"}  # marks of tests/, of no area


def registered() -> dict[str, str]:
    """Area -> what it is, as `pytest --markers` says."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    lines = settings["tool"]["pytest"]["ini_options"]["markers"]
    found = dict(line.split(": ", 1) for line in lines)
    return {name: text for name, text in found.items() if name not in OF_FRAMEWORK}


def test_every_test_of_the_kernel_is_in_an_area() -> None:
    """None is out of reach of -m."""
    outside = f"not ({' or '.join(registered())})"
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", outside, "ksmtests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout
