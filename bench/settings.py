# SPDX-License-Identifier: GPL-2.0
"""KSM's settings, saved before a program that leaves them changed and put back after it."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/kernel/mm/ksm")

# Cannot be written while pages are shared (EBUSY, mm/ksm.c).
NEED_UNMERGE = frozenset(("max_page_sharing", "merge_across_nodes"))
# Cannot be written while an advisor is active (EINVAL, mm/ksm.c): the advisor sets it.
SET_BY_ADVISOR = "pages_to_scan"


class SettingsError(Exception):
    """Some settings could not be put back; the message says which and what they were."""


@dataclass(frozen=True)
class Settings:
    """Values of every writable file in a directory like /sys/kernel/mm/ksm."""

    directory: Path
    values: dict[str, str]

    @classmethod
    def save(cls, directory: Path = SYSFS) -> "Settings":
        """Read the settings as they are now."""
        writable = (path for path in directory.iterdir() if path.stat().st_mode & stat.S_IWUSR)
        return cls(directory, {path.name: _value(path) for path in sorted(writable)})

    def restore(self) -> None:
        """Put back each setting that changed since. Raises SettingsError when any resists."""
        now = Settings.save(self.directory).values
        changed = {name: value for name, value in self.values.items() if now.get(name) != value}
        if not changed:
            return
        failures = []
        for name, value in self._writes(changed):
            try:
                (self.directory / name).write_text(value, encoding="ascii")
            except OSError as error:
                failures.append(f"{name} = {value}: {error.strerror}")
        if failures:
            raise SettingsError("KSM's settings were not all restored: " + "; ".join(failures))

    def _writes(self, changed: dict[str, str]) -> Iterator[tuple[str, str]]:
        """Yield what to write, in an order the kernel accepts."""
        yield "run", "2" if NEED_UNMERGE & changed.keys() else "0"
        advisor = self.values.get("advisor_mode", "none")
        if "advisor_mode" in self.values:
            yield "advisor_mode", "none"
        for name, value in changed.items():
            if name not in ("run", "advisor_mode", SET_BY_ADVISOR):
                yield name, value
        if advisor == "none" and SET_BY_ADVISOR in self.values:
            yield SET_BY_ADVISOR, self.values[SET_BY_ADVISOR]
        if advisor != "none":
            yield "advisor_mode", advisor
        yield "run", self.values["run"]


def _value(path: Path) -> str:
    """Return a file's value; of a choice like `none [scan-time]` it is what stands in brackets."""
    text = path.read_text(encoding="ascii").strip()
    before, opening, rest = text.partition("[")
    return rest.partition("]")[0] if opening else before


@contextmanager
def restored(settings: Settings) -> Iterator[None]:
    """Restore `settings` at the end of a with block, however it ends."""
    try:
        yield
    finally:
        settings.restore()
