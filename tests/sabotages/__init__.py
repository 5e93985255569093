# SPDX-License-Identifier: GPL-2.0
"""Bugs a running kernel is made to look as if it had, one at a time: `-p tests.sabotage`."""
