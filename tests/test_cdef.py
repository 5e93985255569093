# SPDX-License-Identifier: GPL-2.0
"""The C declarations of `uapi.build_libc` against headers: the machine's own, and the newest ones.

What the ABI-mode module believes is turned into static assertions, one to a line, which the C
compiler then disputes: a claim that is false, or about something the headers do not have.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import arch
from guests.debian import Package, fetch
from uapi import _libc, build_libc
from uapi.build_libc import CONSTANTS, FUNCTIONS, HEADERS
from uapi.libc import ffi, lib
from uapi.syscalls import NUMBERS, syscall_number

STRUCTS = ffi.list_types()[1]
STRUCTS_SINCE = {
    "struct uffdio_writeprotect": "5.7",
    "struct uffdio_move": "6.8",
    "struct io_sqring_offsets.user_addr": "6.5",  # resv2 before
    "struct io_cqring_offsets.user_addr": "6.5",
}  # the others are older
COMPILER = tuple(shlex.split(os.environ.get("CC", "cc")))
ERROR = re.compile(r"^(\S+?):(\d+):(?:\d+:)? (?:fatal )?error: (.*)$", re.MULTILINE)
DISPUTED = "static assert"  # gcc: "static assertion failed"; clang: "static assertion failed due…"
ANY_HOST = ("__x86_64__", "__i386__", "__aarch64__", "__arm__", "__riscv", "__s390x__")

needs_compiler = pytest.mark.skipif(
    shutil.which(COMPILER[0]) is None,
    reason=f"no C compiler {COMPILER[0]!r}: install gcc, or name one in CC",
)


class Claim(NamedTuple):
    """Something that must hold in C."""

    subject: str
    expression: str
    since: str  # release whose headers brought the subject


class Target(NamedTuple):
    """How the headers of an architecture are read by a compiler for any other."""

    triplet: str  # Debian's directory of its asm/
    defines: tuple[str, ...]


TARGETS = {
    "x86_64": Target("x86_64-linux-gnu", ("__x86_64__",)),
    "i686": Target("i386-linux-gnu", ("__i386__",)),
    "aarch64": Target("aarch64-linux-gnu", ("__aarch64__",)),
    "armv7l": Target("arm-linux-gnueabihf", ("__arm__", "__ARM_EABI__")),
    "riscv64": Target("riscv64-linux-gnu", ("__riscv", "__riscv_xlen=64")),
    "s390x": Target("s390x-linux-gnu", ("__s390__", "__s390x__")),
    "ppc64le": Target(
        "powerpc64le-linux-gnu", ("__powerpc__", "__powerpc64__", "__LITTLE_ENDIAN__")
    ),
}


def constant_claims() -> list[Claim]:
    """Each constant has the value the module gives it."""
    return [
        Claim(constant.name, f"{constant.name} == {getattr(lib, constant.name)}", constant.since)
        for constant in CONSTANTS
    ]


def struct_claims() -> list[Claim]:
    """Each struct has the size, and each field the place and size, that the module computes."""
    claims = []
    for name in STRUCTS:
        struct = f"struct {name}"
        since = STRUCTS_SINCE.get(struct, "2.6")
        claims.append(Claim(struct, f"sizeof({struct}) == {ffi.sizeof(struct)}", since))
        for field, place in ffi.typeof(struct).fields:
            subject = f"{struct}.{field}"
            offset = f"__builtin_offsetof({struct}, {field}) == {place.offset}"
            size = f"sizeof((({struct} *)0)->{field}) == {ffi.sizeof(place.type)}"
            field_since = STRUCTS_SINCE.get(subject, since)
            claims.append(Claim(subject, f"{offset} && {size}", field_since))
    return claims


def run_compiler(source: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Compile a source given on standard input."""
    return subprocess.run(
        [*COMPILER, "-x", "c", *options, "-"],
        input=source,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )


def disputes(claims: list[Claim], preamble: str, *options: str) -> dict[Claim, str]:
    """The claims that the compiler objects to, and how it does; the first objection to each.

    Raises AssertionError if it objects to anything else.
    """
    lines = [f'_Static_assert({claim.expression}, "");' for claim in claims]
    source = "\n".join([preamble, '#line 1 "claims"', *lines, ""])
    done = run_compiler(source, "-fsyntax-only", *options)
    errors = ERROR.findall(done.stderr)
    assert bool(errors) == bool(done.returncode), done.stderr
    foreign = [error for error in errors if error[0] != "claims"]
    assert not foreign, f"the headers or declarations do not compile:\n{done.stderr}"
    return {claims[int(line) - 1]: text for _, line, text in reversed(errors)}


def complaints(
    claims: list[Claim], release: tuple[int, ...], preamble: str, *options: str
) -> list[str]:
    """What is false, and what is missing though these headers are not older than it."""
    return [
        f"{claim.subject} (since {claim.since}): {claim.expression}: {objection}"
        for claim, objection in disputes(claims, preamble, *options).items()
        if DISPUTED in objection or numbers(claim.since) <= release
    ]


def numbers(release: str) -> tuple[int, ...]:
    """(6, 8) of 6.8."""
    return tuple(int(number) for number in release.split("."))


def headers_release(*options: str) -> tuple[int, ...]:
    """LINUX_VERSION_CODE, as numbers."""
    done = run_compiler("#include <linux/version.h>\nLINUX_VERSION_CODE\n", "-E", "-P", *options)
    assert done.returncode == 0, done.stderr
    code = int(done.stdout.split()[-1])
    return code >> 16, code >> 8 & 0xFF, code & 0xFF


def includes(headers: Iterable[str]) -> str:
    """Include each header."""
    return "".join(f"#include <{header}>\n" for header in headers)


def c_library() -> str:
    """The machine's headers of kernel and C library, then our declarations of its functions."""
    return "#define _GNU_SOURCE\n" + includes(("stdint.h", "stddef.h", *HEADERS)) + FUNCTIONS


@cache
def newest_headers() -> Path:
    """The kernel's headers for all architectures, from Debian's newest package of them."""
    return fetch(Package("linux-libc-dev", "sid")) / "usr/include"


def reading(machine: str, headers: Path) -> list[str]:
    """Compiler options to read the kernel's headers, and nothing else, as on `machine`."""
    target = TARGETS[machine]
    options = ["-nostdinc", *(f"-U{name}" for name in ANY_HOST)]
    options += [f"-D{define}" for define in target.defines]
    for directory in (headers / target.triplet, headers):
        options += ["-isystem", str(directory)]
    return options


def kernel_alone() -> str:
    """The kernel's own headers; they have the C library's names for two things in other places."""
    linux = [header for header in HEADERS if header.startswith("linux/")]
    calls = [constant.name for constant in CONSTANTS if constant.name.startswith("SYS_")]
    names = "".join(f"#define {name} {name.replace('SYS_', '__NR_')}\n" for name in calls)
    return includes((*linux, "linux/uio.h", "asm/unistd.h")) + names


def test_generated_module_is_up_to_date(tmp_path: Path) -> None:
    """`python -m uapi.build_libc` would change nothing."""
    build_libc.generate(tmp_path / "_libc.py")
    assert Path(_libc.__file__).read_text() == (tmp_path / "_libc.py").read_text()


@needs_compiler
def test_declarations_agree_with_the_machine_s_headers() -> None:
    """Constants, layouts and prototypes; what is missing is newer than the headers."""
    claims = constant_claims() + struct_claims()
    found = complaints(claims, headers_release(), c_library())
    assert not found, "\n".join(found)


@needs_compiler
@pytest.mark.parametrize(
    ("expression", "since"),
    [
        ("MADV_MERGEABLE == 13", "99.0"),
        ("sizeof(struct iovec) == 3", "99.0"),
        ("MADV_TELEPORT == 1", "2.6"),
        ("sizeof(struct uffdio_teleport) == 8", "2.6"),
        ("__builtin_offsetof(struct iovec, iov_teleport) == 0", "2.6"),
    ],
)
def test_false_and_missing_are_noticed(expression: str, since: str) -> None:
    """A false claim always is, a missing thing where the headers should have it."""
    claims = [*constant_claims(), Claim("the flaw", expression, since)]
    (complaint,) = complaints(claims, headers_release(), c_library())
    assert complaint.startswith(f"the flaw (since {since}): {expression}: ")


@needs_compiler
def test_what_is_newer_than_the_headers_may_be_missing() -> None:
    """Only a name, and only if its release is newer."""
    newer = [Claim("MADV_TELEPORT", "MADV_TELEPORT == 1", "99.0")]
    assert complaints(newer, headers_release(), c_library()) == []


@needs_compiler
def test_other_errors_are_not_taken_for_missing() -> None:
    """A prototype that contradicts the C library's stops everything."""
    with pytest.raises(AssertionError, match="do not compile"):
        disputes([], c_library() + "long madvise(void *address);\n")


@needs_compiler
@pytest.mark.network
@pytest.mark.parametrize("machine", TARGETS)
def test_declarations_agree_with_the_newest_headers(machine: str) -> None:
    """The same values serve every architecture, and the newest headers lack none of them.

    The compiler is that of this machine, so only what has a fixed width is laid out as there.
    """
    fixed = [claim for claim in struct_claims() if not claim.subject.startswith("struct iovec")]
    options = reading(machine, newest_headers())
    objections = disputes(constant_claims() + fixed, kernel_alone(), *options)
    assert not objections, "\n".join(f"{claim}: {text}" for claim, text in objections.items())


@needs_compiler
@pytest.mark.network
@pytest.mark.parametrize("machine", TARGETS)
def test_system_call_numbers_agree_with_the_newest_headers(machine: str) -> None:
    """Numbers by `uname -m`, which differ between architectures."""
    claims = [
        Claim(name, f"__NR_{name} == {syscall_number(name, machine, bits=64)}", "2.6")
        for name in NUMBERS
    ]
    options = reading(machine, newest_headers())
    assert not disputes(claims, kernel_alone(), *options)


def test_every_architecture_is_compared() -> None:
    """A new module of `arch/` needs an entry in TARGETS."""
    assert {arch.current(machine).name for machine in TARGETS} == {
        known.name for known in arch.architectures()
    }


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(("kernel", "program"), [("x86_64", "i686"), ("aarch64", "armv7l")])
def test_32_bit_program_on_a_64_bit_kernel_has_its_own_numbers(
    name: str, kernel: str, program: str
) -> None:
    """`uname -m` names the kernel there."""
    assert syscall_number(name, kernel, bits=32) == syscall_number(name, program, bits=32)


def test_machines_of_an_architecture_have_the_same_numbers() -> None:
    """No name of a machine in `arch/` is forgotten in the tables."""
    for known in arch.architectures():
        for name in NUMBERS:
            assert len({syscall_number(name, machine, 64) for machine in known.machines}) == 1
