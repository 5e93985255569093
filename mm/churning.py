# SPDX-License-Identifier: GPL-2.0
"""A process that changes its mergeable memory at random, and knows what it must hold.

Runs in a process under test, like `mm.served`. Several of them with the same contents merge with
each other, while each of them writes, unmerges, discards, moves, unmaps and forks.
"""

import os
import random
import signal
from collections.abc import Sequence

from uapi import libc
from uapi.libc import PAGE_SIZE, ffi, lib, pointer

BLOCK = 8  # pages of a mapping
BLOCKS = 6  # mappings at a time
ZEROS = bytes(16)


class Corrupted(AssertionError):
    """A page does not hold what was last written to it."""


class Block:
    """A mapping, and the pattern each of its pages is filled with."""

    def __init__(self, address: int, patterns: list[bytes]) -> None:
        self.address = address
        self.patterns = patterns

    def page(self, number: int) -> object:
        """The bytes of a page, to be read and assigned."""
        return ffi.buffer(pointer(self.address + number * PAGE_SIZE), PAGE_SIZE)

    def check(self, what: str) -> None:
        """Compare every byte. Raises Corrupted."""
        for number, pattern in enumerate(self.patterns):
            found = bytes(self.page(number))  # type: ignore[call-overload]
            if found != pattern * (PAGE_SIZE // len(pattern)):
                raise Corrupted(
                    f"page {number} at {self.address:#x} of {os.getpid()} {what}: expected "
                    f"{pattern.hex()} all over, found {found[:32].hex()}…{found[-32:].hex()}"
                )


class Churner:
    """The state of one process."""

    def __init__(self, seed: int, contents: Sequence[bytes]) -> None:
        self._random = random.Random(seed)  # noqa: S311 repeatable, not secret
        self._contents = [*contents, ZEROS]
        self.blocks = [self._map() for _ in range(BLOCKS)]

    def _map(self) -> Block:
        address = libc.mmap(BLOCK * PAGE_SIZE)
        block = Block(address, [ZEROS] * BLOCK)
        libc.madvise(address, BLOCK * PAGE_SIZE, lib.MADV_MERGEABLE)
        for number in range(BLOCK):
            self._write(block, number)
        return block

    def _write(self, block: Block, number: int) -> None:
        pattern = self._random.choice(self._contents)
        block.page(number)[:] = pattern * (PAGE_SIZE // 16)  # type: ignore[index]
        block.patterns[number] = pattern

    def _span(self, block: Block) -> tuple[int, int]:
        first = self._random.randrange(BLOCK)
        pages = self._random.randint(1, BLOCK - first)
        return block.address + first * PAGE_SIZE, pages * PAGE_SIZE

    def write(self, block: Block) -> None:
        """New content for some pages."""
        for number in self._random.sample(range(BLOCK), 3):
            self._write(block, number)

    def unmerge(self, block: Block) -> None:
        """Take a part out, and put it back."""
        span = self._span(block)
        libc.madvise(*span, lib.MADV_UNMERGEABLE)
        block.check("after MADV_UNMERGEABLE")
        libc.madvise(*span, lib.MADV_MERGEABLE)

    def discard(self, block: Block) -> None:
        """Pages that are zeros from now on."""
        address, length = self._span(block)
        libc.madvise(address, length, lib.MADV_DONTNEED)
        first = (address - block.address) // PAGE_SIZE
        for number in range(first, first + length // PAGE_SIZE):
            block.patterns[number] = ZEROS

    def move(self, block: Block) -> None:
        """The same pages elsewhere."""
        length = BLOCK * PAGE_SIZE
        target = libc.mmap(length, lib.PROT_NONE)
        flags = lib.MREMAP_MAYMOVE | lib.MREMAP_FIXED
        block.address = libc.mremap(block.address, length, length, flags, target)

    def replace(self, block: Block) -> None:
        """Another mapping for this one."""
        libc.munmap(block.address, BLOCK * PAGE_SIZE)
        self.blocks[self.blocks.index(block)] = self._map()

    def fork(self, block: Block) -> None:
        """A child that finds its parent's content, writes to it, and ends in one way or another."""
        end = self._random.choice((0, signal.SIGKILL, signal.SIGSEGV))
        pid = os.fork()
        if not pid:
            self._live_and_die(block, end)
        self.write(block)
        _, status = os.waitpid(pid, 0)
        if os.waitstatus_to_exitcode(status) != -end:
            raise Corrupted(f"child {pid} of {os.getpid()} found other content: {status:#x}")

    def _live_and_die(self, block: Block, end: int) -> None:
        try:
            for each in self.blocks:
                each.check("in a child")
            self.write(block)
            for each in self.blocks:
                each.check("after a child wrote to it")
        except Corrupted as error:
            os.write(2, f"{error}\n".encode())
            os._exit(1)
        if end == signal.SIGSEGV:
            libc.munmap(block.address, PAGE_SIZE)
            block.page(0)[:] = bytes(PAGE_SIZE)  # type: ignore[index]
        if end:
            os.kill(os.getpid(), end)
        os._exit(0)

    def run(self, rounds: int) -> None:
        """Change memory so many times. Raises Corrupted."""
        changes = (self.write, self.write, self.unmerge, self.discard, self.move, self.replace)
        for number in range(rounds):
            block = self._random.choice(self.blocks)
            if number % 16 == 15:
                self.fork(block)
            else:
                self._random.choice(changes)(block)
            self._random.choice(self.blocks).check("in passing")
        self.check()

    def check(self) -> None:
        """Compare all there is. Raises Corrupted."""
        for block in self.blocks:
            block.check("at rest")


_churners: list[Churner] = []


def churn(seed: int, contents: list[bytes], rounds: int) -> list[int]:
    """Map memory, change it so many times; the addresses of its mappings of BLOCK pages."""
    churner = Churner(seed, contents)
    _churners.append(churner)
    churner.run(rounds)
    return [block.address for block in churner.blocks]


def check() -> None:
    """Compare all memory that `churn` has left. Raises Corrupted."""
    for churner in _churners:
        churner.check()
