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
        values = _values(module)
        everywhere = frozenset(_features(values.get("pytestmark"), values))
        for name, feature in _needs(module.body, everywhere, values):
            tests.setdefault(feature, []).append(f"{path.relative_to(directory.parent)}::{name}")
    return tests


def _values(module: ast.Module) -> dict[str, ast.expr]:
    """What the module's own names stand for."""
    return {
        target.id: statement.value
        for statement in module.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def _features(marks: ast.AST | None, values: dict[str, ast.expr]) -> Iterator[str]:
    """The strings in calls of `….needs(…)`, also where a name stands for them."""
    for node in ast.walk(marks) if marks else ():
        match node:
            case ast.Call(func=ast.Attribute(attr="needs"), args=arguments):
                for argument in arguments:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        yield argument.value
            case ast.Name(id=name) if name in values:
                others = {each: value for each, value in values.items() if each != name}
                yield from _features(values[name], others)


def _needs(
    body: list[ast.stmt], inherited: frozenset[str], values: dict[str, ast.expr]
) -> Iterator[tuple[str, str]]:
    """Each test function, and method of a test class, with each feature that it needs."""
    for statement in body:
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef):
            continue
        features = inherited.union(*(_features(each, values) for each in statement.decorator_list))
        if isinstance(statement, ast.ClassDef):
            for name, feature in _needs(statement.body, features, values):
                yield f"{statement.name}::{name}", feature
        elif statement.name.startswith("test"):
            yield from ((statement.name, feature) for feature in features)
