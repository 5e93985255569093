# SPDX-License-Identifier: GPL-2.0
"""The checkout under test: what of it is sent to where it is run."""

from pathlib import Path

RARE = ("tests", "bench")


def checkout_files(checkout: Path) -> list[Path]:
    """The suite's files in a checkout: top-level packages, and what lies beside them.

    Compiled modules go along: they are good where the Python is the same, by the times of files.
    Those of packages that are mostly run here would cost every guest more than they save a few.
    """
    beside = [path for path in checkout.iterdir() if path.suffix in {".py", ".toml"}]
    inside = [
        path for package in checkout.glob("*/__init__.py") for path in package.parent.rglob("*")
    ]
    return sorted(path for path in beside + inside if path.is_file() and not _is_rare(path))


def _is_rare(path: Path) -> bool:
    return path.suffix == ".pyc" and path.parent.parent.name in RARE
