# SPDX-License-Identifier: GPL-2.0
"""The C declarations behind `uapi._libc`, and their generator: `python -m uapi.build_libc`.

`_libc.py` is cffi's out-of-line ABI mode: pure Python, the same for every architecture, loaded
with `_cffi_backend` alone. The constants below are those of asm-generic; `tests/test_cdef.py`
compiles them against the machine's own headers.
"""

from pathlib import Path
from typing import NamedTuple

import cffi

GENERATED = Path(__file__).with_name("_libc.py")


class Constant(NamedTuple):
    """One `#define` of the kernel's user-space headers."""

    name: str
    value: int
    since: str  # release whose headers brought it; older headers may lack it


MMAN = (
    Constant("PROT_NONE", 0, "2.6"),
    Constant("PROT_READ", 1, "2.6"),
    Constant("PROT_WRITE", 2, "2.6"),
    Constant("PROT_EXEC", 4, "2.6"),
    Constant("MAP_SHARED", 0x01, "2.6"),
    Constant("MAP_PRIVATE", 0x02, "2.6"),
    Constant("MAP_FIXED", 0x10, "2.6"),
    Constant("MAP_DROPPABLE", 0x08, "6.11"),
    Constant("MAP_ANONYMOUS", 0x20, "2.6"),
    Constant("MAP_HUGETLB", 0x40000, "2.6.32"),
    Constant("MAP_FIXED_NOREPLACE", 0x100000, "4.17"),
    Constant("MREMAP_MAYMOVE", 1, "2.6"),
    Constant("MREMAP_FIXED", 2, "2.6"),
    Constant("MREMAP_DONTUNMAP", 4, "5.7"),
    Constant("MADV_SEQUENTIAL", 2, "2.6"),
    Constant("MADV_DONTNEED", 4, "2.6"),
    Constant("MADV_FREE", 8, "4.5"),
    Constant("MADV_DONTFORK", 10, "2.6"),
    Constant("MADV_DOFORK", 11, "2.6"),
    Constant("MADV_MERGEABLE", 12, "2.6.32"),
    Constant("MADV_UNMERGEABLE", 13, "2.6.32"),
    Constant("MADV_HUGEPAGE", 14, "2.6.38"),
    Constant("MADV_NOHUGEPAGE", 15, "2.6.38"),
    Constant("MADV_DONTDUMP", 16, "3.4"),
    Constant("MADV_WIPEONFORK", 18, "4.14"),
    Constant("MADV_KEEPONFORK", 19, "4.14"),
    Constant("MADV_COLD", 20, "5.4"),
    Constant("MADV_PAGEOUT", 21, "5.4"),
    Constant("MADV_POPULATE_READ", 22, "5.14"),
    Constant("MADV_POPULATE_WRITE", 23, "5.14"),
    Constant("MADV_COLLAPSE", 25, "6.1"),
    Constant("MADV_HWPOISON", 100, "2.6.32"),
    Constant("MADV_SOFT_OFFLINE", 101, "2.6.33"),
    Constant("MADV_GUARD_INSTALL", 102, "6.13"),
    Constant("MADV_GUARD_REMOVE", 103, "6.13"),
)
MEMPOLICY = (
    Constant("MPOL_MF_MOVE", 1 << 1, "2.6.18"),
    Constant("MPOL_MF_MOVE_ALL", 1 << 2, "2.6.18"),
)
PRCTL = (
    Constant("PR_SET_PDEATHSIG", 1, "2.6"),
    Constant("PR_SET_DUMPABLE", 4, "2.6"),
    Constant("PR_MCE_KILL", 33, "2.6.32"),
    Constant("PR_MCE_KILL_SET", 1, "2.6.32"),
    Constant("PR_MCE_KILL_LATE", 0, "2.6.32"),
    Constant("PR_MCE_KILL_EARLY", 1, "2.6.32"),
    Constant("PR_SET_MEMORY_MERGE", 67, "6.4"),
    Constant("PR_GET_MEMORY_MERGE", 68, "6.4"),
)
PTRACE = (
    Constant("PTRACE_POKEDATA", 5, "2.6"),
    Constant("PTRACE_DETACH", 17, "2.6"),
    Constant("PTRACE_SEIZE", 0x4206, "3.4"),
    Constant("PTRACE_INTERRUPT", 0x4207, "3.4"),
)
USERFAULTFD = (
    Constant("UFFD_API", 0xAA, "4.3"),
    Constant("UFFD_USER_MODE_ONLY", 1, "5.11"),
    Constant("UFFD_FEATURE_PAGEFAULT_FLAG_WP", 1 << 0, "5.7"),
    Constant("UFFD_FEATURE_MINOR_SHMEM", 1 << 10, "5.14"),
    Constant("UFFD_FEATURE_WP_UNPOPULATED", 1 << 13, "6.4"),
    Constant("UFFD_FEATURE_MOVE", 1 << 16, "6.8"),
    Constant("UFFDIO_REGISTER_MODE_MISSING", 1 << 0, "4.3"),
    Constant("UFFDIO_REGISTER_MODE_WP", 1 << 1, "5.7"),
    Constant("UFFDIO_REGISTER_MODE_MINOR", 1 << 2, "5.13"),
    Constant("UFFDIO_WRITEPROTECT_MODE_WP", 1 << 0, "5.7"),
    Constant("UFFD_EVENT_PAGEFAULT", 0x12, "4.3"),
    Constant("UFFD_PAGEFAULT_FLAG_WRITE", 1 << 0, "4.3"),
    Constant("UFFD_PAGEFAULT_FLAG_WP", 1 << 1, "5.7"),
    Constant("UFFDIO_API", 0xC018AA3F, "4.3"),
    Constant("UFFDIO_REGISTER", 0xC020AA00, "4.3"),
    Constant("UFFDIO_COPY", 0xC028AA03, "4.3"),
    Constant("UFFDIO_ZEROPAGE", 0xC020AA04, "4.3"),
    Constant("UFFDIO_WRITEPROTECT", 0xC018AA06, "5.7"),
    Constant("UFFDIO_MOVE", 0xC028AA05, "6.8"),
)
FALLOC = (
    Constant("FALLOC_FL_KEEP_SIZE", 0x01, "2.6.38"),
    Constant("FALLOC_FL_PUNCH_HOLE", 0x02, "2.6.38"),
)
IO_URING = (
    Constant("IORING_REGISTER_BUFFERS", 0, "5.1"),
    Constant("IORING_UNREGISTER_BUFFERS", 1, "5.1"),
    Constant("IORING_OFF_SQ_RING", 0, "5.1"),
    Constant("IORING_OFF_CQ_RING", 0x8000000, "5.1"),
    Constant("IORING_OFF_SQES", 0x10000000, "5.1"),
    Constant("IORING_ENTER_GETEVENTS", 1 << 0, "5.1"),
)
AUXVEC = (Constant("AT_HWCAP2", 26, "3.9"),)
SYSCALLS = (
    Constant("SYS_io_uring_setup", 425, "5.1"),
    Constant("SYS_io_uring_enter", 426, "5.1"),
    Constant("SYS_io_uring_register", 427, "5.1"),
    Constant("SYS_pidfd_getfd", 438, "5.6"),
    Constant("SYS_process_madvise", 440, "5.10"),
    Constant("SYS_mseal", 462, "6.10"),
)
HEADERS = {
    "sys/mman.h": (),
    "linux/mman.h": MMAN,
    "linux/mempolicy.h": MEMPOLICY,
    "sys/prctl.h": (),
    "linux/prctl.h": PRCTL,
    "sys/ptrace.h": (),
    "linux/ptrace.h": PTRACE,
    "linux/userfaultfd.h": USERFAULTFD,
    "fcntl.h": (),
    "linux/falloc.h": FALLOC,
    "linux/io_uring.h": IO_URING,
    "linux/auxvec.h": AUXVEC,
    "sys/auxv.h": (),
    "sys/swap.h": (),
    "sys/syscall.h": SYSCALLS,
    "sys/uio.h": (),
    "sys/ioctl.h": (),
    "unistd.h": (),
}
CONSTANTS = tuple(constant for group in HEADERS.values() for constant in group)

STRUCTS = """
struct iovec { void *iov_base; size_t iov_len; };
struct uffdio_api { uint64_t api; uint64_t features; uint64_t ioctls; };
struct uffdio_range { uint64_t start; uint64_t len; };
struct uffdio_register { struct uffdio_range range; uint64_t mode; uint64_t ioctls; };
struct uffdio_writeprotect { struct uffdio_range range; uint64_t mode; };
struct uffdio_copy { uint64_t dst; uint64_t src; uint64_t len; uint64_t mode; int64_t copy; };
struct uffdio_zeropage { struct uffdio_range range; uint64_t mode; int64_t zeropage; };
struct uffdio_move { uint64_t dst; uint64_t src; uint64_t len; uint64_t mode; int64_t move; };
struct io_sqring_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1; uint64_t user_addr;
};
struct io_cqring_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1; uint64_t user_addr;
};
struct io_uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    struct io_sqring_offsets sq_off; struct io_cqring_offsets cq_off;
};
"""

# mmap64: off_t is 32 bits wide where long is, and loff_t is not.
FUNCTIONS = """
void *mmap64(void *addr, size_t length, int prot, int flags, int fd, int64_t offset);
int munmap(void *addr, size_t length);
void *mremap(void *old_address, size_t old_size, size_t new_size, int flags, ...);
int mprotect(void *addr, size_t len, int prot);
int mlock(const void *addr, size_t len);
int munlock(const void *addr, size_t len);
void *sbrk(intptr_t increment);
int madvise(void *addr, size_t length, int advice);
int prctl(int option, ...);
long ptrace(unsigned int request, ...);
int ioctl(int fd, unsigned long request, ...);
long syscall(long number, ...);
ssize_t process_vm_writev(int pid, const struct iovec *local_iov, unsigned long liovcnt,
                          const struct iovec *remote_iov, unsigned long riovcnt,
                          unsigned long flags);
ssize_t process_vm_readv(int pid, const struct iovec *local_iov, unsigned long liovcnt,
                         const struct iovec *remote_iov, unsigned long riovcnt,
                         unsigned long flags);
ssize_t vmsplice(int fd, const struct iovec *iov, size_t nr_segs, unsigned int flags);
int fallocate64(int fd, int mode, int64_t offset, int64_t len);
ssize_t read(int fd, void *buf, size_t count);
ssize_t write(int fd, const void *buf, size_t count);
unsigned long getauxval(unsigned long type);
int swapon(const char *path, int swapflags);
int swapoff(const char *path);
"""

CDEF = STRUCTS + FUNCTIONS + "".join(f"#define {c.name} {c.value}\n" for c in CONSTANTS)


def generate(target: Path) -> None:
    """Write the pure-Python module to `target`."""
    ffi = cffi.FFI()
    ffi.cdef(CDEF)
    ffi.set_source("uapi._libc", None)
    ffi.emit_python_code(str(target))


if __name__ == "__main__":
    generate(GENERATED)
