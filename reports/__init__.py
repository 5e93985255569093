# SPDX-License-Identifier: GPL-2.0
"""Results for those who gate kernels: runs as kselftest's, records for other systems."""
