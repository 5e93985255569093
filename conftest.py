# SPDX-License-Identifier: GPL-2.0
"""The plugins of the suite."""

pytest_plugins = (
    "plugins.own_files",
    "plugins.requirements",
    "plugins.fixed_by",
    "plugins.kernels",
    "plugins.matrix",
    "plugins.mutant",
    "plugins.upstream_bug",
    "plugins.evidence",
    "plugins.explanations",
    "plugins.kernel_log",
    "plugins.kernel_leaks",
    "plugins.ksm",
    "plugins.processes",
    "plugins.khugepaged",
    "plugins.belongings",
    "plugins.taskstats",
    "plugins.stress",
    "plugins.trace",
    "plugins.time_limits",
    "plugins.kernel_facts",
    "plugins.known_issues",
    "plugins.junit",
    "plugins.ktap",
    "plugins.record",
)
