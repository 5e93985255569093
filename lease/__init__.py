# SPDX-License-Identifier: GPL-2.0
"""Who may use and change the kernel's one KSM, and how it is put back afterwards."""
