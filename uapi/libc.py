# SPDX-License-Identifier: GPL-2.0
"""System calls through the C library: an error becomes an OSError that names call and arguments.

Addresses are plain integers, so that they can be passed between processes. Lengths are bytes.
"""

import mmap as stdlib_mmap
import os
import platform
from typing import Any

from uapi import _libc
from uapi.syscalls import syscall_number

ffi: Any = _libc.ffi
lib: Any = ffi.dlopen(None)

PAGE_SIZE = stdlib_mmap.PAGESIZE  # bytes
MAP_FAILED = int(ffi.cast("uintptr_t", -1))
# Not in the headers of all alike: arch/powerpc/include/uapi/asm/mman.h has its own.
MAP_NORESERVE = 0x40 if platform.machine().startswith("ppc") else 0x4000
LONG_BYTES = int(ffi.sizeof("long"))

_ADVICE_NAMES = {getattr(lib, name): name for name in dir(lib) if name.startswith("MADV_")}


def failure(call: str) -> OSError:
    """The OSError for errno as the last call left it."""
    return OSError(ffi.errno, f"{call}: {os.strerror(ffi.errno)}")


def pointer(address: int) -> Any:
    """A `void *` of `address`, for a call or a memory access in this process."""
    return ffi.cast("void *", address)


def _long(value: int) -> Any:
    """A variadic argument: C promotes nothing for us."""
    return ffi.cast("unsigned long", value)


def mmap(
    length: int,
    prot: int = lib.PROT_READ | lib.PROT_WRITE,
    flags: int = lib.MAP_PRIVATE | lib.MAP_ANONYMOUS,
    address: int = 0,
    fd: int = -1,
    offset: int = 0,
) -> int:
    """mmap(2); returns the address."""
    mapped = int(
        ffi.cast("uintptr_t", lib.mmap64(pointer(address), length, prot, flags, fd, offset))
    )
    if mapped == MAP_FAILED:
        raise failure(f"mmap({address:#x}, {length}, {prot:#x}, {flags:#x}, {fd}, {offset})")
    return mapped


def munmap(address: int, length: int) -> None:
    """munmap(2)."""
    if lib.munmap(pointer(address), length):
        raise failure(f"munmap({address:#x}, {length})")


def sbrk(increment: int) -> int:
    """sbrk(3): grow the heap by so many bytes; returns where it ended before."""
    before = int(ffi.cast("uintptr_t", lib.sbrk(increment)))
    if before == MAP_FAILED:
        raise failure(f"sbrk({increment})")
    return before


def mremap(
    address: int, old_length: int, new_length: int, flags: int = 0, new_address: int = 0
) -> int:
    """mremap(2); returns the address after the call."""
    moved = int(
        ffi.cast(
            "uintptr_t",
            lib.mremap(pointer(address), old_length, new_length, flags, pointer(new_address)),
        )
    )
    if moved == MAP_FAILED:
        raise failure(
            f"mremap({address:#x}, {old_length}, {new_length}, {flags:#x}, {new_address:#x})"
        )
    return moved


def mprotect(address: int, length: int, prot: int) -> None:
    """mprotect(2)."""
    if lib.mprotect(pointer(address), length, prot):
        raise failure(f"mprotect({address:#x}, {length}, {prot:#x})")


def mlock(address: int, length: int) -> None:
    """mlock(2)."""
    if lib.mlock(pointer(address), length):
        raise failure(f"mlock({address:#x}, {length})")


def munlock(address: int, length: int) -> None:
    """munlock(2)."""
    if lib.munlock(pointer(address), length):
        raise failure(f"munlock({address:#x}, {length})")


def mseal(address: int, length: int) -> None:
    """mseal(2) (Linux 6.10)."""
    if lib.syscall(lib.SYS_mseal, _long(address), _long(length), _long(0)):
        raise failure(f"mseal({address:#x}, {length})")


def madvise(address: int, length: int, advice: int) -> None:
    """madvise(2)."""
    if lib.madvise(pointer(address), length, advice):
        name = _ADVICE_NAMES.get(advice, str(advice))
        raise failure(f"madvise({address:#x}, {length}, {name})")


def process_madvise(pidfd: int, address: int, length: int, advice: int) -> int:
    """process_madvise(2) over one range; returns the bytes advised."""
    vector = ffi.new("struct iovec[1]", [(pointer(address), length)])
    advised = lib.syscall(
        lib.SYS_process_madvise, _long(pidfd), vector, _long(1), _long(advice), _long(0)
    )
    if advised < 0:
        name = _ADVICE_NAMES.get(advice, str(advice))
        raise failure(f"process_madvise({pidfd}, [{address:#x}+{length}], {name})")
    return int(advised)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2); returns what the call returns."""
    result = lib.prctl(option, _long(arg2), _long(arg3), _long(arg4), _long(arg5))
    if result < 0:
        raise failure(f"prctl({option}, {arg2}, {arg3}, {arg4}, {arg5})")
    return int(result)


def set_memory_merge(enable: int) -> None:
    """PR_SET_MEMORY_MERGE (Linux 6.4)."""
    prctl(lib.PR_SET_MEMORY_MERGE, enable)


def get_memory_merge() -> int:
    """PR_GET_MEMORY_MERGE (Linux 6.4): 0 or 1."""
    return prctl(lib.PR_GET_MEMORY_MERGE)


def process_vm_writev(pid: int, address: int, data: bytes) -> int:
    """process_vm_writev(2) of `data` to `address` in `pid`; returns the bytes written."""
    buffer = ffi.from_buffer(data)
    local = ffi.new("struct iovec[1]", [(buffer, len(data))])
    remote = ffi.new("struct iovec[1]", [(pointer(address), len(data))])
    written = lib.process_vm_writev(pid, local, 1, remote, 1, 0)
    if written < 0:
        raise failure(f"process_vm_writev({pid}, {address:#x}, {len(data)} bytes)")
    return int(written)


def process_vm_readv(pid: int, address: int, length: int) -> bytes:
    """process_vm_readv(2) of `length` bytes at `address` in `pid`."""
    buffer = ffi.new("char[]", length)
    local = ffi.new("struct iovec[1]", [(buffer, length)])
    remote = ffi.new("struct iovec[1]", [(pointer(address), length)])
    got = lib.process_vm_readv(pid, local, 1, remote, 1, 0)
    if got < 0:
        raise failure(f"process_vm_readv({pid}, {address:#x}, {length} bytes)")
    return bytes(ffi.buffer(buffer, got))


def vmsplice(fd: int, address: int, length: int) -> int:
    """vmsplice(2) of memory into a pipe, which holds its pages from then on; returns the bytes."""
    vector = ffi.new("struct iovec[1]", [(pointer(address), length)])
    spliced = lib.vmsplice(fd, vector, 1, 0)
    if spliced < 0:
        raise failure(f"vmsplice({fd}, [{address:#x}+{length}])")
    return int(spliced)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2) (Linux 5.6): a descriptor of our own for another process's `fd`."""
    got = lib.syscall(lib.SYS_pidfd_getfd, _long(pidfd), _long(fd), _long(0))
    if got < 0:
        raise failure(f"pidfd_getfd({pidfd}, {fd})")
    return int(got)


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    """ptrace(2) for requests that return no data through errno."""
    result = lib.ptrace(request, ffi.cast("int", pid), pointer(address), pointer(data))
    if result < 0:
        raise failure(f"ptrace({request:#x}, {pid}, {address:#x}, {data:#x})")
    return int(result)


def read_into(fd: int, address: int, length: int) -> int:
    """read(2) straight into this process's memory; returns the bytes read."""
    got = lib.read(fd, pointer(address), length)
    if got < 0:
        raise failure(f"read({fd}, {address:#x}, {length})")
    return int(got)


def write_from(fd: int, address: int, length: int) -> int:
    """write(2) straight from this process's memory; returns the bytes written."""
    put = lib.write(fd, pointer(address), length)
    if put < 0:
        raise failure(f"write({fd}, {address:#x}, {length})")
    return int(put)


def move_pages(pid: int, addresses: list[int], node: int | None, flags: int = 0) -> list[int]:
    """move_pages(2) of each address to a NUMA node; returns a node or -errno for each.

    Where the kernel gives up on a page it says nothing of it: ask again with no node, which moves
    none.
    """
    count = len(addresses)
    pages = ffi.new("void *[]", [pointer(address) for address in addresses])
    nodes = ffi.NULL if node is None else ffi.new("int[]", [node] * count)
    statuses = ffi.new("int[]", count)
    number = syscall_number("move_pages")
    moved = lib.syscall(number, _long(pid), _long(count), pages, nodes, statuses, _long(flags))
    if moved < 0:
        raise failure(f"move_pages({pid}, {count} pages, node {node}, {flags:#x})")
    return list(statuses)


def migrate_pages(pid: int, source: int, destination: int) -> int:
    """migrate_pages(2) of what a process has on one NUMA node to another; how many stayed."""
    bits = 8 * LONG_BYTES
    masks = [
        ffi.new(
            "unsigned long[]", [(1 << node % bits) * (node // bits == word) for word in range(16)]
        )
        for node in (source, destination)
    ]
    number = syscall_number("migrate_pages")
    # One bit less than there are: the kernel takes the number for one too many.
    stayed = lib.syscall(number, _long(pid), _long(16 * bits + 1), *masks)
    if stayed < 0:
        raise failure(f"migrate_pages({pid}, node {source}, node {destination})")
    return int(stayed)


def pkey_alloc() -> int:
    """pkey_alloc(2) without restrictions; returns the key."""
    key = lib.syscall(syscall_number("pkey_alloc"), _long(0), _long(0))
    if key < 0:
        raise failure("pkey_alloc(0, 0)")
    return int(key)


def pkey_free(key: int) -> None:
    """pkey_free(2)."""
    if lib.syscall(syscall_number("pkey_free"), _long(key)):
        raise failure(f"pkey_free({key})")


def auxiliary_value(kind: int) -> int:
    """getauxval(3): what the kernel told this process at exec; 0 where it told nothing."""
    return int(lib.getauxval(kind))


def punch_hole(fd: int, offset: int, length: int) -> None:
    """fallocate(2) with FALLOC_FL_PUNCH_HOLE; offset and length in bytes."""
    mode = lib.FALLOC_FL_PUNCH_HOLE | lib.FALLOC_FL_KEEP_SIZE
    if lib.fallocate64(fd, mode, offset, length):
        raise failure(f"fallocate({fd}, PUNCH_HOLE, {offset}, {length})")


def ioctl(fd: int, request: int, argument: Any) -> int:
    """ioctl(2) with a pointer argument."""
    result = lib.ioctl(fd, _long(request), argument)
    if result < 0:
        raise failure(f"ioctl({fd}, {request:#x})")
    return int(result)
