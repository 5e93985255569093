# SPDX-License-Identifier: GPL-2.0
"""From the words a user names kernels with to the kernels: catalogued ones, and ones of their own.

A word is a name, a group or a glob of the catalogue, or the path of a kernel's image or of the tree
it is built in.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from guests.catalogue import Catalogue, CatalogueError
from guests.kernel import Kernel
from guests.local import LocalKernel, find, name_of


def resolve(
    words: Sequence[str],
    catalogue: Catalogue,
    *,
    append: str = "",
    memory_mib: int | None = None,
    cpus: int | None = None,
    nodes: int | None = None,
) -> list[Kernel]:
    """The kernels of all words, each once, in the words' order; their names differ.

    `append` is added to a kernel's own command line; the others replace what it says. Raises
    CatalogueError for a word that names nothing, a kernel that cannot be a guest, and numbers
    below 1.
    """
    kernels = dict.fromkeys(kernel for word in words for kernel in _of(word, catalogue))
    try:
        return [
            replace(
                kernel,
                append=f"{kernel.append} {append}".strip(),
                memory_mib=kernel.memory_mib if memory_mib is None else memory_mib,
                cpus=kernel.cpus if cpus is None else cpus,
                nodes=kernel.nodes if nodes is None else nodes,
            )
            for kernel in _told_apart(list(kernels))
        ]
    except ValueError as error:
        raise CatalogueError(str(error)) from error


def _of(word: str, catalogue: Catalogue) -> Sequence[Kernel]:
    if "/" in word:
        return [find(Path(word))]
    try:
        return catalogue.resolve(word)
    except CatalogueError:
        try:
            there = Path(word).exists()
        except OSError:  # a name that no file can have
            there = False
        if there:
            return [find(Path(word))]
        raise


def _told_apart(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Kernels of one's own whose name is taken get one of more of their path."""
    taken = {kernel.name for kernel in kernels if not isinstance(kernel, LocalKernel)}
    named: list[Kernel] = []
    for kernel in kernels:
        if isinstance(kernel, LocalKernel):
            name = next(name for name in _names(kernel.path) if name not in taken)
            taken.add(name)
            named.append(replace(kernel, name=name))
        else:
            named.append(kernel)
    return named


def _names(path: Path) -> Iterator[str]:
    yield from (name_of(path, parts) for parts in range(1, len(path.parts)))
    yield from (f"{name_of(path, 1)}-{number}" for number in itertools.count(2))
