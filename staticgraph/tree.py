"""Nestings of list, tuple and dict: flatten to a list of leaves, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LEAF = "*"


def flatten(value: Any) -> tuple[list[Any], Any]:
    """Leaves in order, and the form that `unflatten` needs. None is an empty nesting."""
    leaves: list[Any] = []

    def walk(v: Any) -> Any:
        if v is None:
            return None
        if isinstance(v, dict):
            return (dict, tuple((k, walk(v[k])) for k in v))
        if isinstance(v, tuple) and hasattr(v, "_fields"):
            return (type(v), tuple(walk(i) for i in v))
        if isinstance(v, (list, tuple)):
            return (list if isinstance(v, list) else tuple, tuple(walk(i) for i in v))
        leaves.append(v)
        return LEAF

    return leaves, walk(value)


def unflatten(form: Any, leaves: list[Any] | tuple[Any, ...]) -> Any:
    """The nesting of a form with other leaves."""
    items = iter(leaves)

    def build(f: Any) -> Any:
        if f is None:
            return None
        if isinstance(f, str):
            return next(items)
        kind, parts = f
        if kind is dict:
            return {k: build(p) for k, p in parts}
        values = [build(p) for p in parts]
        return kind(*values) if hasattr(kind, "_fields") else kind(values)

    return build(form)


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
