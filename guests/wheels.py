# SPDX-License-Identifier: GPL-2.0
"""Pure-Python packages of the running interpreter, for guests to have in the same versions."""

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement  # pytest itself needs it

WANTED = ("pytest", "pytest-timeout", "pyroute2")


class NotInstalledError(Exception):
    """This interpreter lacks a package that guests need, or has it in a form they cannot use."""


def closure(wanted: tuple[str, ...] = WANTED) -> list[Distribution]:
    """The packages and what they require, by name. Raises NotInstalledError."""
    found: dict[str, Distribution] = {}
    queue = list(wanted)
    while queue:
        name = queue.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError as error:
            if name in wanted:
                raise NotInstalledError(
                    f"guests need {name}, which is not installed here: pip install {name}"
                ) from error
            continue  # required on other systems or by older Pythons only
        if package.name not in found:
            found[package.name] = package
            queue += _requirements(package)
    return [found[name] for name in sorted(found, key=str.lower)]


def _requirements(package: Distribution) -> list[str]:
    wanted = [Requirement(line) for line in package.requires or ()]
    return [one.name for one in wanted if not one.marker or one.marker.evaluate({"extra": ""})]


def files(package: Distribution) -> dict[str, Path]:
    """Installed files by their path below site-packages. Raises NotInstalledError.

    Commands, compiled files and caches are left out.
    """
    named = {
        str(path): Path(str(path.locate()))
        for path in package.files or ()
        if not str(path).startswith(("..", "/")) and "__pycache__" not in path.parts
    }
    compiled = [name for name in named if name.endswith(".so")]
    if compiled or not any(name.endswith(".py") for name in named):
        raise NotInstalledError(
            f"{package.name} {package.version} cannot be copied into guests, "
            + (f"{compiled[0]} is made for this machine" if compiled else "it lists no files")
            + ": install it from a pure-Python wheel"
        )
    return named
