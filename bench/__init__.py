# SPDX-License-Identifier: GPL-2.0
"""Comparison of this suite's speed with the kernel's own C test of KSM: `python -m bench`."""
