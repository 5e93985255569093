# SPDX-License-Identifier: GPL-2.0
"""pytest plugins, one module per concern."""
