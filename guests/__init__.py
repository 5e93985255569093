# SPDX-License-Identifier: GPL-2.0
"""Kernels to run on: where they come from, how they are booted, and how they are talked to."""
