# SPDX-License-Identifier: GPL-2.0
"""Where a test asks something of the kernel, and how a flaw gets in between.

Most requests go to another process through `Process.call`, so the flaw sits on the test's side of
it, and knows function and arguments; the process itself needs no change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mm import served
from mm.process import Process
from tests.sabotages.scene import ADDRESS_SPACE, Scene, Span, Wrap, Wraps
from uapi import io_uring, libc, userfaultfd
from uapi.libc import LONG_BYTES, PAGE_SIZE, lib

CALL = "mm.process.Process.call"
SET = "uapi.settings.Setting.__set__"

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Act:
    """Something a test asks of the kernel."""

    scene: Scene
    process: Process  # whose memory it is about
    span: Span  # the memory
    result: Any  # what the caller is told when all goes well
    perform: Callable[[], Any]
    on: Callable[[Span], Any]  # the same, over other memory
    call: Callable[..., Any]  # any other function in that process, not sabotaged


Flaw = Callable[[Act], Any]


@dataclass(frozen=True)
class _Shape:
    """How to read the arguments of a function called in a process."""

    address: int = 0  # its index
    length: Callable[[Arguments], int] = lambda arguments: int(arguments[1])
    result: Callable[[Arguments], Any] = lambda _: None


_SHAPES: dict[Callable[..., Any], _Shape] = {
    libc.madvise: _Shape(),
    libc.munmap: _Shape(),
    libc.mprotect: _Shape(),
    libc.mlock: _Shape(),
    io_uring.pin_pages: _Shape(result=lambda _: -1),
    libc.mremap: _Shape(result=lambda arguments: arguments[4] if arguments[4:] else arguments[0]),
    libc.punch_hole: _Shape(1, lambda arguments: arguments[2]),
    served.map_over: _Shape(result=lambda arguments: arguments[0]),
    served.load: _Shape(),
    served.store: _Shape(length=lambda arguments: len(arguments[1])),
    served.store_each: _Shape(length=lambda arguments: len(arguments[1]) * PAGE_SIZE),
    served.read_file_into: _Shape(2, lambda arguments: arguments[3], lambda args: args[3]),
    userfaultfd.write_protect: _Shape(1, lambda arguments: arguments[2]),
    userfaultfd.move: _Shape(2, lambda arguments: arguments[3], lambda args: args[3]),
}


def called(
    flaw: Flaw, *functions: Callable[..., Any], when: Callable[..., bool] = lambda *_: True
) -> Wraps:
    """The flaw, wherever a test calls one of `functions` in a process, with arguments `when`."""

    def wrap(scene: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(process: Process, function: Callable[..., Any], *arguments: Any) -> Any:
            if function not in functions or not when(*arguments):
                return original(process, function, *arguments)
            shape = _SHAPES[function]
            at = shape.address

            def on(span: Span) -> Any:
                return original(process, function, *arguments[:at], *span, *arguments[at + 2 :])

            act = Act(
                scene,
                process,
                (arguments[at], shape.length(arguments)),
                shape.result(arguments),
                partial(original, process, function, *arguments),
                on,
                partial(original, process),
            )
            return flaw(act)

        return replacement

    return {CALL: wrap}


Call = Callable[..., Any]  # any function in one process, not sabotaged


def intercepted(
    function: Callable[..., Any], instead: Callable[[Scene, Process, Call, Arguments], Any]
) -> Wraps:
    """What happens instead of `function` in a process."""

    def wrap(scene: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(process: Process, asked: Callable[..., Any], *arguments: Any) -> Any:
            call = partial(original, process)
            if asked is function:
                return instead(scene, process, call, arguments)
            return call(asked, *arguments)

        return replacement

    return {CALL: wrap}


def joined(*parts: Wraps) -> Wraps:
    """Several wraps, one around the other where they are of the same function."""
    result: dict[str, Wrap] = {}
    for part in parts:
        for target, wrap in part.items():
            result[target] = _around(wrap, result[target]) if target in result else wrap
    return result


def _around(outer: Wrap, inner: Wrap) -> Wrap:
    return lambda scene, original: outer(scene, inner(scene, original))


def advised(flaw: Flaw, *names: str) -> Wraps:
    """The flaw, in madvise(2) with one of these advices."""
    advices = {getattr(lib, name) for name in names}
    return called(flaw, libc.madvise, when=lambda _, __, advice: advice in advices)


@dataclass(frozen=True)
class _Reach:
    """How to read the arguments of a function that reaches into another process."""

    pid: Callable[[Arguments], int]  # 0: into none
    span: Callable[[Arguments], Span]
    result: Callable[[Arguments], Any]


def _process_of_fd(fd: int) -> int:
    """Whose /proc/PID/mem the descriptor is."""
    parts = Path(f"/proc/self/fd/{fd}").readlink().parts
    return int(parts[2]) if parts[1:2] == ("proc",) and parts[3:] == ("mem",) else 0


_REACHES = {
    "os.pwrite": _Reach(
        lambda arguments: _process_of_fd(arguments[0]),
        lambda arguments: (arguments[2], len(arguments[1])),
        lambda arguments: len(arguments[1]),
    ),
    "uapi.libc.process_vm_writev": _Reach(
        lambda arguments: int(arguments[0]),
        lambda arguments: (arguments[1], len(arguments[2])),
        lambda arguments: len(arguments[2]),
    ),
    "uapi.libc.ptrace": _Reach(
        lambda arguments: int(arguments[1]) if arguments[0] == lib.PTRACE_POKEDATA else 0,
        lambda arguments: (arguments[2], LONG_BYTES),
        lambda _: 0,
    ),
    "uapi.libc.move_pages": _Reach(
        lambda arguments: int(arguments[0]),
        lambda arguments: (arguments[1][0], len(arguments[1]) * PAGE_SIZE),
        lambda _: None,
    ),
    "pathlib.Path.write_text": _Reach(
        lambda arguments: int(arguments[0].parts[2]) if arguments[0].name == "clear_refs" else 0,
        lambda _: (0, ADDRESS_SPACE),
        lambda _: None,
    ),
}


def reached(flaw: Flaw, *targets: str) -> Wraps:
    """The flaw, in functions by which the test itself reaches into a process: see _REACHES."""

    def wrap_as(reach: _Reach) -> Wrap:
        def wrap(scene: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
            def replacement(*arguments: Any, **named: Any) -> Any:
                perform = partial(original, *arguments, **named)
                process = scene.process(reach.pid(arguments))
                if process is None:
                    return perform()
                span, result = reach.span(arguments), reach.result(arguments)
                return flaw(
                    Act(scene, process, span, result, perform, lambda _: perform(), process.call)
                )

            return replacement

        return wrap

    return {target: wrap_as(_REACHES[target]) for target in targets}


def method(flaw: Flaw, name: str) -> Wraps:
    """The flaw, in a method of the test's processes that concerns all of their memory."""

    def wrap(scene: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(process: Process) -> Any:
            perform = partial(original, process)
            if scene.process(process.pid) is None:
                return perform()
            span = (0, ADDRESS_SPACE)
            return flaw(Act(scene, process, span, 0, perform, lambda _: perform(), process.call))

        return replacement

    return {f"mm.process.Process.{name}": wrap}


Written = Callable[[Any], None]


def setting(name: str, change: Callable[[Scene, Any, Written], None]) -> Wraps:
    """What happens when the setting `name` is written: change(scene, value, write)."""

    def wrap(scene: Scene, original: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(descriptor: Any, directory: Any, value: Any) -> None:
            if descriptor.name == name:
                change(scene, value, partial(original, descriptor, directory))
            else:
                original(descriptor, directory, value)

        return replacement

    return {SET: wrap}
