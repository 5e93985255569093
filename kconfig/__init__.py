# SPDX-License-Identifier: GPL-2.0
"""A kernel's configuration: where it lies, and what it says."""
