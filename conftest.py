# SPDX-License-Identifier: GPL-2.0
"""The plugins of the suite."""

pytest_plugins = (
    "plugins.requirements",
    "plugins.kernels",
    "plugins.matrix",
    "plugins.upstream_bug",
    "plugins.fixed_by",
    "plugins.evidence",
    "plugins.kernel_log",
    "plugins.ksm",
    "plugins.processes",
    "plugins.khugepaged",
    "plugins.taskstats",
)
