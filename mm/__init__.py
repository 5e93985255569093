# SPDX-License-Identifier: GPL-2.0
"""Address spaces under test: processes started for a test, and the regions of pages in them."""
