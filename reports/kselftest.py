# SPDX-License-Identifier: GPL-2.0
"""`python3 -m reports.kselftest [PYTEST ARGUMENTS]`: run the suite as a kselftest.

Prints KTAP, and exits with what kselftest.h means by it: 0 passed, 1 failed, 4 skipped, which is
where no test could say anything, or nothing it needs is installed. Whatever else pytest exits with
is a failure: the runner takes its 2 for an expected one, and its 4, a usage error, for a skip.
"""

from __future__ import annotations  # an older Python comes as far as to be told so

import importlib.metadata
import importlib.util
import re
import sys

PASS, FAIL, SKIP = 0, 1, 4
OLDEST_PYTHON = (3, 11)
# Module -> what distributions call it, and the oldest version that will do.
PACKAGES: dict[str, tuple[str, tuple[int, ...]]] = {
    "pytest": ("python3-pytest", (7, 2)),
    "xdist": ("python3-pytest-xdist", (3, 0)),
    "_cffi_backend": ("python3-cffi", (1, 15)),
    "pyroute2": ("python3-pyroute2", (0, 7)),
}
DISTRIBUTIONS = {"xdist": "pytest-xdist", "_cffi_backend": "cffi"}  # where not the module's name


def missing() -> str:
    """What has to be installed, or a newer one of it; "" where nothing has."""
    if sys.version_info < OLDEST_PYTHON:
        return f"python3 is {_dotted(sys.version_info[:2])}, older than {_dotted(OLDEST_PYTHON)}"
    for module, (package, oldest) in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            return f"{package} is not installed for {sys.executable}"
        found = _version(DISTRIBUTIONS.get(module, module))
        if found and found < oldest:
            return f"{package} is {_dotted(found)}, older than {_dotted(oldest)}"
    return ""


def _version(distribution: str) -> tuple[int, ...]:
    """Major and minor; nothing where the package does not say."""
    try:
        text = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def skip(reason: str) -> int:
    """Say why not one test is run."""
    sys.stdout.write(f"KTAP version 1\n1..0 # SKIP {reason}\n")
    return SKIP


def main(argv: list[str]) -> int:
    """Run the suite; returns kselftest's exit status."""
    if reason := missing():
        return skip(reason)
    # Not before it is known to be there.
    from reports.running import run  # noqa: PLC0415

    return run(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
