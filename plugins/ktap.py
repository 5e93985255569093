# SPDX-License-Identifier: GPL-2.0
"""`--ktap`: results as the kernel's tools read them, KTAP version 1.

    kernel (where there are several) > module > class > test > parameters > subtests

Each level has its plan (Documentation/dev-tools/ktap.rst). A level is printed while its tests run;
what workers finish of another one meanwhile waits for its end. Every number of a plan gets its
line, in a run that is cut short, too: what was not begun is skipped, what was running is not ok.
"""

import io
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import pytest

from plugins.kernels import kernel_of
from plugins.known_issues import OF_RUN
from plugins.results import TERMINATED, TOTALS, Follower, Result, escaped, names, together

INDENT = "  "
VERSION = "KTAP version 1"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    parser.getgroup("reporting").addoption(
        "--ktap", action="store_true", help="print KTAP version 1 and nothing else"
    )


@dataclass
class Node:
    """A test, or a level of them."""

    children: dict[str, "Node"] = field(default_factory=dict)  # those whose line is to come
    done: list[Result] = field(default_factory=list)  # of children whose line is printed
    result: Result | None = None
    current: str = ""  # the child whose level is being printed
    opened: bool = False

    def add(self, path: Sequence[str]) -> "Node":
        """The node below this one."""
        node = self
        for name in path:
            node = node.children.setdefault(name, Node())
        return node

    def has_begun(self) -> bool:
        """Whether there is something to print of it."""
        return bool(self.result or self.opened) or any(
            child.has_begun() for child in self.children.values()
        )

    def size(self) -> int:
        """How many tests there are of it."""
        return sum(child.size() for child in self.children.values()) or 1

    def cut(self, result: Result) -> None:
        """Give what has no result this one, as a whole where nothing of it has begun."""
        if not self.has_begun():
            self.result = replace(result, tests=self.size())
            self.children.clear()
        for child in self.children.values():
            child.cut(result)


class Ktap(Follower):
    """The results of a run, in the process that has the terminal."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__()
        self._config = config
        self._out = sys.stdout
        self._root = Node()
        self._tests: dict[str, Node] = {}  # by node id
        self._totals = Counter[str]()

    # Printing

    def _print(self, depth: int, *lines: str) -> None:
        for line in lines:
            text = f"{INDENT * depth}{line}\n"
            encoding = self._out.encoding or "utf-8"
            self._out.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self._out.flush()

    def _comment(self, depth: int, text: str) -> None:
        self._print(depth, *(f"#   {line}".rstrip() for line in text.splitlines()))

    def _open(self, node: Node, depth: int) -> None:
        node.opened = True
        self._print(depth, VERSION)
        if depth == 0:
            self._comment(0, "\n".join(self._heading()))
        self._print(depth, f"1..{len(node.children)}")

    def _heading(self) -> Iterator[str]:
        found = self._config.hook.pytest_report_header(
            config=self._config, start_path=self._config.rootpath
        )
        for lines in found:
            yield from [lines] if isinstance(lines, str) else lines

    def _advance(self, node: Node, depth: int) -> bool:
        """Print what can be of an opened level; returns whether that is all of it."""
        while node.children:
            begun = (name for name, child in node.children.items() if child.has_begun())
            name = node.current or next(begun, "")
            if not name:
                return False
            node.current = name
            child = node.children[name]
            if child.result:
                self._totals[child.result.total] += child.result.tests
            elif not self._advanced_level(child, depth + 1):
                return False
            self._result(node, name, child.result or together(child.done), depth)
            del node.children[name]
            node.current = ""
        return True

    def _advanced_level(self, node: Node, depth: int) -> bool:
        if not node.opened:
            self._open(node, depth)
        return self._advance(node, depth)

    def _result(self, parent: Node, name: str, result: Result, depth: int) -> None:
        if result.subtests:
            below = Node(dict.fromkeys((str(n) for n in range(len(result.subtests))), Node()))
            self._open(below, depth + 1)
            for subname, one in result.subtests:
                self._result(below, subname, one, depth + 1)
        self._comment(depth, "\n".join(result.evidence))
        parent.done.append(result)
        self._print(depth, result.line(len(parent.done), escaped(name)))

    # What happens

    def _plan(self, nodeids: Sequence[str]) -> None:
        for nodeid in nodeids:
            self._tests[nodeid] = self._root.add(self._path(nodeid))
        self._open(self._root, 0)
        self._advance(self._root, 0)

    def _path(self, nodeid: str) -> list[str]:
        kernel, bare = kernel_of(self._config, nodeid)
        return [kernel, *names(bare)] if kernel else names(bare)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot be collected is a failed test."""
        if report.failed:
            error = Result(False, "ERROR", "cannot be collected", report.longreprtext.splitlines())
            self._root.add(self._path(report.nodeid or "collection")).result = error

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Print the plan."""
        if not self._config.pluginmanager.has_plugin("dsession"):
            self._plan([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Print the plan: all workers collect the same."""
        if not self._root.opened:
            self._plan(ids)

    def begun(self, nodeid: str) -> None:
        """Name the test, so that a kernel that dies with it says with which."""
        self._print(0, f"#  RUN  {escaped(nodeid)}")

    def ended(
        self,
        nodeid: str,
        reports: Sequence[pytest.TestReport],  # noqa: ARG002 - the result has it all
        result: Result,
    ) -> None:
        """Print what can be printed now."""
        self._tests[nodeid].result = result
        self._advance(self._root, 0)

    def pytest_internalerror(self, excrepr: object) -> None:
        """Show pytest's own error."""
        super().pytest_internalerror(excrepr)
        self._comment(0, str(excrepr))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Give every number of the plan its line."""
        super().pytest_sessionfinish(session)
        whole = "collected only" if self._config.option.collectonly else "the run ended early"
        why = self.why or whole
        for child in self._root.children.values():
            child.cut(Result(ok=True, directive="SKIP", reason=f"not run: {why}"))
        if not self._root.opened:
            self._open(self._root, 0)
        self._advance(self._root, 0)
        if not self._root.done:
            self._comment(0, "no test was selected")
        if known := self._config.pluginmanager.get_plugin(OF_RUN):
            self._comment(0, "\n".join(known.outdated()))
        totals = " ".join(f"{name}:{self._totals[name]}" for name in TOTALS)
        self._print(0, f"# Totals: {totals}")


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """End as for Ctrl-C: timeout(1), which runs every kselftest, then lets us say what was done."""
    pytest.exit(TERMINATED)


def _on_sigterm(do: Any) -> None:
    signal.signal(signal.SIGTERM, do)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Print in the place of pytest's own reporter."""
    told = config.option.help or config.option.version  # instead of a run
    if not config.option.ktap or told or hasattr(config, "workerinput"):
        return
    if config.getoption("dist", "no") == "each":
        raise pytest.UsageError("--ktap has one line for each test: it takes no --dist each")
    if reporter := config.pluginmanager.get_plugin("terminalreporter"):
        # pytest-xdist holds the reporter already, so that another one would not do.
        reporter._tw = type(reporter._tw)(io.StringIO())  # noqa: SLF001
    config.pluginmanager.register(Ktap(config), "ktap")
    config.add_cleanup(partial(_on_sigterm, signal.signal(signal.SIGTERM, _terminate)))
