# SPDX-License-Identifier: GPL-2.0
"""A kernel's configuration: where it lies, what it says, and what it should say."""


class ConfigurationError(Exception):
    """A configuration is not where it was said to be, or cannot be read."""
