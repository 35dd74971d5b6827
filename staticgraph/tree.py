"""Nestings of list, tuple and dict: flatten to a list of leaves, and back.

The walkers are plain functions: a closure that calls itself is a reference cycle, and would keep
every array of a call alive until the garbage collector runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

LEAF = "*"


def flatten(value: Any) -> tuple[list[Any], Any]:
    """Leaves in order, and the form that `unflatten` needs. None is an empty nesting."""
    leaves: list[Any] = []
    return leaves, _walk(value, leaves)


def _walk(v: Any, leaves: list[Any]) -> Any:
    if v is None:
        return None
    if isinstance(v, dict):
        return (dict, tuple((k, _walk(v[k], leaves)) for k in v))
    if isinstance(v, tuple) and hasattr(v, "_fields"):
        return (type(v), tuple(_walk(i, leaves) for i in v))
    if isinstance(v, (list, tuple)):
        return (list if isinstance(v, list) else tuple, tuple(_walk(i, leaves) for i in v))
    leaves.append(v)
    return LEAF


def unflatten(form: Any, leaves: list[Any] | tuple[Any, ...]) -> Any:
    """The nesting of a form with other leaves."""
    return _build(form, iter(leaves))


def _build(form: Any, leaves: Iterator[Any]) -> Any:
    if form is None:
        return None
    if isinstance(form, str):
        return next(leaves)
    kind, parts = form
    if kind is dict:
        return {k: _build(p, leaves) for k, p in parts}
    values = [_build(p, leaves) for p in parts]
    return kind(*values) if hasattr(kind, "_fields") else kind(values)


def map(function: Callable[[Any], Any], value: Any) -> Any:
    """The same nesting with `function` applied to each leaf."""
    leaves, form = flatten(value)
    return unflatten(form, [function(v) for v in leaves])


def aligned(value: Any, like: Any) -> Any:
    """The nesting with the keys of its dicts in the order that `like` has them."""
    if isinstance(value, dict) and isinstance(like, dict) and value.keys() == like.keys():
        return {k: aligned(value[k], like[k]) for k in like}
    if type(value) is type(like) and isinstance(value, (list, tuple)) and len(value) == len(like):
        items = [aligned(v, u) for v, u in zip(value, like, strict=True)]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def show(value: Any, leaf: Callable[[Any], str]) -> str:
    """'(f32[3], {a: f32[]})': a nesting with each leaf as text."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {show(v, leaf)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(show(v, leaf) for v in value)
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return "None" if value is None else leaf(value)
