"""Nest: the meaning of an op as a loop nest around one scalar expression.

Axes 0..n-1 run over the result, axes n.. over what is reduced. Loads inside the body name the
operand and its index; NumPy evaluates nests here, code generation prints the same data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from staticgraph import scalar as s
from staticgraph.primitives import PRIMS
from staticgraph.scalar import Expr

# name: (NumPy reduction, identity for a dtype)
COMBINERS = {
    "sum": np.add.reduce,
    "prod": np.multiply.reduce,
    "max": np.maximum.reduce,
    "min": np.minimum.reduce,
    "any": np.logical_or.reduce,
    "all": np.logical_and.reduce,
}


def identity(combine: str, dtype: str) -> object:
    """The value a reduction starts from."""
    if combine in ("sum", "any"):
        return False if dtype == "bool" else 0
    if combine in ("prod", "all"):
        return True if dtype == "bool" else 1
    if dtype == "bool":
        return combine == "min"
    if dtype.startswith("float"):
        return -np.inf if combine == "max" else np.inf
    info = np.iinfo(dtype)
    return int(info.min if combine == "max" else info.max)


@dataclass(frozen=True)
class Nest:
    """result[axes] = combine over reduced axes of body."""

    shape: tuple[int, ...]
    body: Expr
    reduced: tuple[int, ...] = ()
    combine: str | None = None

    @property
    def axes(self) -> tuple[int, ...]:
        return (*self.shape, *self.reduced)


def axes(n: int) -> tuple[Expr, ...]:
    """The first n loop indices."""
    return tuple(s.axis(k) for k in range(n))


def broadcast_index(shape: tuple[int, ...], index: Sequence[Expr]) -> tuple[Expr, ...]:
    """Index of an operand of `shape` where the broadcast result is at `index`."""
    tail = index[len(index) - len(shape) :]
    return tuple(s.const(0, "int64") if n == 1 else i for n, i in zip(shape, tail, strict=True))


def evaluate(nest: Nest, operands: Sequence[np.ndarray]) -> np.ndarray:
    """The nest by NumPy, over the whole index space at once: slow, plain, the oracle."""
    rank = len(nest.axes)
    grid = [
        np.arange(n, dtype=np.int64).reshape([-1 if k == j else 1 for j in range(rank)])
        for k, n in enumerate(nest.axes)
    ]
    with np.errstate(all="ignore"):
        value = np.broadcast_to(_value(nest.body, grid, operands), nest.axes)
    if nest.combine:
        over = tuple(range(len(nest.shape), rank))
        init = identity(nest.combine, nest.body.dtype)
        value = COMBINERS[nest.combine](value, axis=over, dtype=value.dtype, initial=init)
    return np.ascontiguousarray(value, dtype=nest.body.dtype).reshape(nest.shape)


def _value(root: Expr, grid: Sequence[np.ndarray], operands: Sequence[np.ndarray]) -> np.ndarray:
    memo: dict[int, np.ndarray] = {}
    for e in s.postorder([root]):
        args = [memo[id(a)] for a in e.args]
        if e.name == "axis":
            v = grid[e.value]  # type: ignore[index]
        elif e.name == "const":
            v = np.array(e.value, e.dtype)
        elif e.name == "cast":
            v = astype(args[0], e.dtype)
        elif e.name == "load":
            v = _load(e, args, operands)
        else:
            v = np.asarray(PRIMS[e.name].numpy(*args)).astype(e.dtype, copy=False)
        memo[id(e)] = v
    return memo[id(root)]


def _load(e: Expr, args: list[np.ndarray], operands: Sequence[np.ndarray]) -> np.ndarray:
    array = operands[e.value[0]]  # type: ignore[index]
    if not s.is_guarded(e):
        return array[tuple(args)]
    *index, guard = args
    if array.size == 0:
        return np.broadcast_to(
            np.array(e.value[1], e.dtype), np.broadcast_shapes(*(a.shape for a in args))
        )  # type: ignore[index]
    inside = tuple(np.clip(i, 0, n - 1) for i, n in zip(index, array.shape, strict=True))
    return np.where(guard, array[inside], np.array(e.value[1], e.dtype))  # type: ignore[index]


def astype(array: np.ndarray, dtype: str) -> np.ndarray:
    """NumPy's astype without its warnings."""
    with np.errstate(all="ignore"):
        if array.dtype.kind == "c" and not dtype.startswith("complex"):
            array = array.real
        return np.asarray(array).astype(dtype)
