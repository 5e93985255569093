# SPDX-License-Identifier: GPL-2.0
"""What was measured of guests: times in seconds, their medians, and their ratios to vng's."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import vng
from bench.compare import BenchError
from bench.watched import Watched
from guests.kernel import Kernel

AIM = 0.5  # at most: resume over vng, on vng's architecture


@dataclass(frozen=True)
class Times:
    """One run's, in seconds."""

    first: float
    end: float


@dataclass
class Row:
    """What was measured of a kernel."""

    kernel: Kernel
    cold: Times | None = None
    boot: list[Times] = field(default_factory=list)
    resume: list[Times] = field(default_factory=list)
    vng: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """What the JSON line holds."""
        found: dict[str, Any] = {"kernel": self.kernel.name}
        if self.cold:
            found["cold"] = _figures(self.cold)
        boot, resume, yardstick = median(self.boot), median(self.resume), self.yardstick()
        return {
            **found,
            "boot": _figures(boot),
            "resume": _figures(resume),
            "vng": round(yardstick, 2),
            "resume_over_vng": ratio(resume.first, yardstick),
            "boot_over_vng": ratio(boot.first, yardstick),
        }

    def yardstick(self) -> float:
        """Seconds vng took."""
        return statistics.median(self.vng)


def _figures(times: Times) -> dict[str, float]:
    return {"first": round(times.first, 2), "end": round(times.end, 2)}


def median(runs: Sequence[Times]) -> Times:
    """Of the first results and of the ends, each for itself."""
    return Times(
        statistics.median(run.first for run in runs), statistics.median(run.end for run in runs)
    )


def ratio(ours_s: float, theirs_s: float) -> float:
    """To three significant digits."""
    return float(f"{ours_s / theirs_s:.3g}")


def times(run: Watched) -> Times:
    """Of a run of the test, which must pass. Raises BenchError with the end of its output."""
    if run.timed_out:
        raise BenchError(f"the test took longer than {run.end_s:.0f} s:\n{run.tail}")
    if run.exit_code:
        raise BenchError(f"pytest gave {run.exit_code}:\n{run.tail}")
    if run.first_s is None:
        raise BenchError(f"no test passed:\n{run.tail}")
    return Times(run.first_s, run.end_s)


def line(run: Times) -> str:
    """About one run."""
    return f"first {run.first:7.2f} s  end {run.end:7.2f} s"


def table(rows: Sequence[Row]) -> list[str]:
    """The lines about all kernels: medians in seconds, and ratios of first results to vng's."""
    lines = [
        f"{'':14} {'cold':>15} {'boot':>15} {'resume':>15} {'vng':>7} {'boot':>7} {'resume':>7}",
        f"{'kernel':14}"
        + f" {'first':>7} {'end':>7}" * 3
        + f" {'end':>7} {'/ vng':>7} {'/ vng':>7}",
    ]
    for row in rows:
        kinds = (row.cold, median(row.boot), median(row.resume))
        cells = "".join(_cells(kind) for kind in kinds)
        figures = row.figures()
        lines.append(
            f"{row.kernel.name:14}{cells} {row.yardstick():7.2f} "
            f"{figures['boot_over_vng']:7g} {figures['resume_over_vng']:7g}"
            f"{_verdict(row, figures['resume_over_vng'])}"
        )
    return lines


def _cells(run: Times | None) -> str:
    return f" {run.first:7.2f} {run.end:7.2f}" if run else f" {'-':>7} {'-':>7}"


def _verdict(row: Row, value: float) -> str:
    if row.kernel.arch != vng.ARCH:
        return ""
    return f"  (aim <= {AIM:g}: {'met' if value <= AIM else 'missed'})"
