"""The function of the user's that a line stands in: 'mlp.py:Net.loss'."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePath

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def scope(file: str, line: int) -> str:
    """The innermost function or class around a line; the file's name alone outside of all."""
    name = PurePath(file).name
    around = [s for s in _scopes(file) if s[0] <= line <= s[1]]
    return f"{name}:{max(around)[2]}" if around else name


@lru_cache(maxsize=64)
def _scopes(file: str) -> tuple[tuple[int, int, str], ...]:
    """(first line, last line, qualified name) of all functions and classes of a file."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return ()  # a graph read from text, a notebook's cell, a file that has gone
    return tuple(_within(tree, ""))


def _within(node: ast.AST, prefix: str) -> Iterator[tuple[int, int, str]]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, _SCOPES):
            name = prefix + inner.name
            first = min([inner.lineno, *(d.lineno for d in inner.decorator_list)])
            yield first, inner.end_lineno or inner.lineno, name
            yield from _within(inner, f"{name}.")
        else:
            yield from _within(inner, prefix)
