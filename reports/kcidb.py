# SPDX-License-Identifier: GPL-2.0
"""A run as KCIDB takes it (kcidb-io, schema 5.3).

An expected failure is a FAIL with an incident of a known issue: which bugs of the kernel are known
is for KCIDB to keep, and what the test saw is not for us to hide.
"""

import hashlib
import re
from typing import Any

from reports.paths import dotted
from reports.records import Outcome, Run

SCHEMA = {"major": 5, "minor": 3}
STATUS = {
    "pass": "PASS",
    "xpass": "PASS",
    "fail": "FAIL",
    "xfail": "FAIL",
    "error": "ERROR",
    "skip": "SKIP",
}
ORIGIN = re.compile(r"[a-z0-9_]+")
LONGEST_EXCERPT = 16384  # characters


def kcidb(run: Run, origin: str, build: str = "") -> dict[str, Any]:
    """The run's JSON. `build` is the id of the tested build, where that is reported elsewhere.

    Otherwise a build and a checkout are made up of what the kernel says of itself.
    """
    data: dict[str, Any] = {"version": SCHEMA}
    if not build:
        kernels = {_kernel(test): test for test in run.tests}
        data["checkouts"] = [
            {"id": f"{origin}:{release}", "origin": origin, "comment": f"Linux {release}"}
            for release in sorted({test.kernel_release for test in kernels.values()})
        ]
        data["builds"] = [_build(test, origin) for test in kernels.values()]
    data["tests"] = [
        _test(test, f"{origin}:{run.run}-{number}", origin, build or f"{origin}:{_kernel(test)}")
        for number, test in enumerate(run.tests)
    ]
    known = [
        (test, result["id"])
        for test, result in zip(run.tests, data["tests"], strict=True)
        if test.result == "xfail"
    ]
    if known:
        data["issues"] = [_issue(reason, origin) for reason in sorted({t.reason for t, _ in known})]
        data["incidents"] = [
            {
                "id": f"{result}-incident",
                "origin": origin,
                "issue_id": _issue_id(test.reason, origin),
                "issue_version": 1,
                "test_id": result,
                "present": True,
            }
            for test, result in known
        ]
    return data


def _kernel(test: Outcome) -> str:
    """One kernel's name among all others."""
    return f"{test.kernel_release}-{test.architecture}"


def _build(test: Outcome, origin: str) -> dict[str, Any]:
    return {
        "id": f"{origin}:{_kernel(test)}",
        "origin": origin,
        "checkout_id": f"{origin}:{test.kernel_release}",
        "architecture": re.sub(r"[^a-z0-9_]", "_", test.architecture.lower()),
        "config_name": test.configuration,
    }


def _test(test: Outcome, name: str, origin: str, build: str) -> dict[str, Any]:
    where = (
        f"Linux {test.kernel_release}, {test.architecture}, "
        f"configuration {test.configuration or 'not found'}"
    )
    data = {
        "id": name,
        "origin": origin,
        "build_id": build,
        "path": dotted(test.names),
        "status": STATUS[test.result],
        "start_time": test.start,
        "duration": test.duration,
        "environment": {
            "comment": where,
            "misc": {
                "kernel_release": test.kernel_release,
                "architecture": test.architecture,
                "configuration": test.configuration,
            },
        },
    }
    if test.reason:
        data["comment"] = test.reason.replace("\0", "")
    if test.log:
        data["log_excerpt"] = _excerpt(test.log.replace("\0", ""))
    return data


def _excerpt(log: str) -> str:
    """A log without its middle where it is too long."""
    if len(log) <= LONGEST_EXCERPT:
        return log
    gap = "\n[...]\n"
    half = (LONGEST_EXCERPT - len(gap)) // 2
    return f"{log[:half]}{gap}{log[-half:]}"


def _issue_id(reason: str, origin: str) -> str:
    return f"{origin}:{hashlib.sha256(reason.encode()).hexdigest()[:16]}"


def _issue(reason: str, origin: str) -> dict[str, Any]:
    link = re.search(r"https?://\S+", reason)
    return {
        "id": _issue_id(reason, origin),
        "version": 1,
        "origin": origin,
        "report_subject": reason,
        "culprit": {"code": True, "tool": False, "harness": False},
        **({"report_url": link[0]} if link else {}),
    }
