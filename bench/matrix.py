# SPDX-License-Identifier: GPL-2.0
"""`python -m bench.matrix`: the suite on every kernel, and one line of JSON about each at the end.

{"seconds", "same", "kernels": {NAME: {"passed", "failed", "lacks_fix", "skipped", "xfailed",
"boot_seconds", "seconds", "over_own"}}}; with `--runs`, `same` says whether all runs gave the same
table, and the times are of the last. `over_own` is a kernel's seconds over those of its boot, or
resume, and of its tests. `lacks_fix` counts what fails on a release that came before the fix the
test names. What pytest prints goes to the terminal meanwhile. Exits with 1 where anything else
failed or tables differ.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cli import ENDS_WITH_US

CHECKOUT = Path(__file__).resolve().parent.parent
COUNTS = ("passed", "failed", "lacks_fix", "skipped", "xfailed")
# A race of the kernel's own may be met or not: both are the expected outcome.
EXPECTED = ("xfailed", "xpassed")


def run(arguments: Sequence[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run pytest; its exit status, and the row of each kernel."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "matrix.json"
        pytest = (*ENDS_WITH_US, sys.executable, "-m", "pytest")
        command = [*pytest, "--matrix", str(file), *arguments]
        done = subprocess.run(command, cwd=CHECKOUT, check=False)
        written = file.read_text("utf-8") if file.exists() else ""
        rows: dict[str, dict[str, Any]] = json.loads(written)["kernels"] if written else {}
        return done.returncode, rows


def table(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    """What must be the same in every run."""
    return {
        name: {
            **{each: row[each] for each in COUNTS[:-1]},
            "xfailed": sum(row[each] for each in EXPECTED),
        }
        for name, row in rows.items()
    }


def times(row: dict[str, Any]) -> dict[str, float]:
    """How long a kernel took, s, and that as a ratio to what it could not do without."""
    own = row["boot_seconds"] + row["test_seconds"]
    return {
        "boot_seconds": row["boot_seconds"],
        "seconds": row["seconds"],
        "over_own": round(row["seconds"] / own, 3) if own else 0.0,
    }


def clean(status: int, rows: dict[str, dict[str, Any]]) -> bool:
    """Whether a run ended as it should, and nothing failed but for want of a named fix."""
    known = any(row["lacks_fix"] for row in rows.values())
    failed = any(row["failed"] for row in rows.values())
    return bool(rows) and status == (1 if known else 0) and not failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.matrix", description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--kernel", action="append", help="these only (repeatable); default all")
    parser.add_argument("pytest", nargs="*", default=["-n", "auto", "ksmtests"])
    options = parser.parse_args(arguments)
    words = [f"--kernel={word}" for word in options.kernel or ["all"]]
    began = time.monotonic()
    done = [run([*words, *options.pytest]) for _ in range(options.runs)]
    seconds = (time.monotonic() - began) / options.runs
    tables = [table(rows) for _, rows in done]
    same = all(each == tables[0] for each in tables)
    kernels = {
        name: {**{each: row[each] for each in COUNTS}, **times(row)}
        for name, row in done[-1][1].items()
    }
    result = {"seconds": round(seconds, 1), "same": same, "kernels": kernels}
    sys.stdout.write(json.dumps(result) + "\n")
    right = same and all(clean(*each) for each in done)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
