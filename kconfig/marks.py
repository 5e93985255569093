# SPDX-License-Identifier: GPL-2.0
"""Which tests need which features, read from the marks in their source."""

import ast
from collections.abc import Iterator
from pathlib import Path


class MarksError(Exception):
    """The tests are not where they should be, or are no Python."""


def tests_by_feature(directory: Path) -> dict[str, list[str]]:
    """The tests below `directory` that `needs(...)` marks, as `FILE::NAME`, by feature."""
    tests: dict[str, list[str]] = {}
    paths = sorted(directory.rglob("test_*.py"))
    if not paths:
        raise MarksError(f"there are no tests in {directory}")
    for path in paths:
        try:
            module = ast.parse(path.read_bytes(), str(path))
        except SyntaxError as error:
            raise MarksError(f"{path} is not understood: {error}") from error
        for name, feature in _needs(module.body, frozenset(_marks_of(module))):
            tests.setdefault(feature, []).append(f"{path.relative_to(directory.parent)}::{name}")
    return tests


def _marks_of(module: ast.Module) -> Iterator[str]:
    """The features of `pytestmark = ...`."""
    for statement in module.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "pytestmark"
            for target in statement.targets
        ):
            yield from _features(statement.value)


def _features(marks: ast.AST) -> Iterator[str]:
    """The strings in calls of `….needs(…)`."""
    for call in ast.walk(marks):
        match call:
            case ast.Call(func=ast.Attribute(attr="needs"), args=arguments):
                for argument in arguments:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        yield argument.value


def _needs(body: list[ast.stmt], inherited: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Each test function, and method of a test class, with each feature that it needs."""
    for statement in body:
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef):
            continue
        features = inherited.union(*map(_features, statement.decorator_list))
        if isinstance(statement, ast.ClassDef):
            for name, feature in _needs(statement.body, features):
                yield f"{statement.name}::{name}", feature
        elif statement.name.startswith("test"):
            yield from ((statement.name, feature) for feature in features)
