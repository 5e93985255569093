# SPDX-License-Identifier: GPL-2.0
"""Bugs to inject into a kernel, and the runs that show which of them the tests notice."""
