# SPDX-License-Identifier: GPL-2.0
"""What the kernel offers to user space, one module per interface."""
