# SPDX-License-Identifier: GPL-2.0
"""x86, 32 and 64 bits (arch/x86/Kconfig)."""

from arch import Arch

ARCH = Arch("x86", machines=("x86_64", "i686", "i586"))
