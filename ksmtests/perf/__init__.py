# SPDX-License-Identifier: GPL-2.0
"""How long KSM takes: measurements, which assert nothing of time. `make perf` runs them."""
