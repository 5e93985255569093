# SPDX-License-Identifier: GPL-2.0
"""How long to wait on a machine that may be busy: deadlines grow with its load."""

import os

FACTOR = "KSMTESTS_PATIENCE"  # environment: multiplies every deadline
MOST = 8.0  # a load above that many processes for each processor changes nothing more


class PatienceError(Exception):
    """The factor is not a number above 0."""


def scaled(seconds: float) -> float:
    """A deadline that is `seconds` on an idle machine. Raises PatienceError."""
    load = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    return seconds * min(max(load, 1.0), MOST) * _factor()


def _factor() -> float:
    text = os.environ.get(FACTOR, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise PatienceError(
            f"{FACTOR}={text}: it multiplies deadlines and must be a number above 0"
        )
    return factor
