# SPDX-License-Identifier: GPL-2.0
"""The tests of the kernel, one module per behaviour of KSM."""
