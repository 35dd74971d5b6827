"""Local rewriting while nodes are made: share equal nodes, fold constants, simplify algebra.

Gradients are built through a `Builder`; the passes `cse`, `fold` and `simplify` use its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from staticgraph import scalar as s
from staticgraph.ir import CONSTANT, INPUT, VARIABLE, Node, apply, scalar_of
from staticgraph.nest import evaluate
from staticgraph.op import Elementwise, NestOp
from staticgraph.operands import constant
from staticgraph.registry import FUNCTIONS
from staticgraph.tensor import Tensor
from staticgraph.types import is_float

#: results above this many elements stay symbolic: a constant is data that must be stored
FOLD_LIMIT = 1 << 14
_MOVES = (
    "reshape",
    "transpose",
    "broadcast_to",
    "slice",
    "unslice",
    "flip",
    "concat",
    "pad",
    "iota",
)


class Builder:
    """Hook for `ir.building`: offers existing or simpler tensors in place of a new node."""

    def __init__(self, known: Iterable[Node] = ()):
        self.table: dict[tuple, Node] = {}
        for node in known:
            if node.op is not INPUT and node.op.pure:
                self.table.setdefault(node.key(), node)

    def __call__(self, node: Node) -> Sequence[Tensor] | None:
        if node.op in (INPUT, VARIABLE) or not node.op.pure:
            return None
        key = node.key()
        known = self.table.get(key)
        if known is not None:
            return known.results
        made = fold(node) or node.op.simplify(node) or collect(node)
        if made is None:
            self.table[key] = node
            return None
        return made


def rewritten(node: Node, rule: Callable[[Node], Sequence[Tensor] | None]) -> Sequence[Tensor]:
    """The results of a node after applying a rule as often as it fires (each time simpler)."""
    results: Sequence[Tensor] = node.results
    for _ in range(8):
        first = results[0].node if results else node
        if len(results) != len(first.results) or any(
            a is not b for a, b in zip(results, first.results, strict=True)
        ):
            return results
        made = rule(first) if first.op.pure and first.op not in (INPUT, VARIABLE) else None
        if made is None:
            return results
        results = made
    return results


def fold(node: Node) -> Sequence[Tensor] | None:
    """The constant a node computes, where NumPy leaves the kernels no other bits to choose."""
    if len(node.results) != 1 or not node.operands:
        return None
    if isinstance(node.op, Elementwise) and node.results[0].size != 1:
        values = [uniform_value(t) for t in node.operands]
        if all(v is not None for v in values) and is_exact(node):
            scalars = [
                constant(v, t.type.dtype) for v, t in zip(values, node.operands, strict=True)
            ]
            single = apply(node.op, *scalars, **node.attrs)
            (single,) = fold(single.node) or [single]
            return [FUNCTIONS["broadcast_to"](single, node.results[0].shape)]
    if node.results[0].size > FOLD_LIMIT:
        return None
    if any(t.node.op is not CONSTANT for t in node.operands) or not is_exact(node):
        return None
    if (
        node.op.name in ("broadcast_to", "transpose", "slice", "flip", "iota")
        and node.results[0].size > 64
    ):
        return None  # readers map the index themselves; a copy would be one more array to keep
    values = [t.node.attrs["value"] for t in node.operands]
    types = [t.type for t in node.operands]
    nest = node.op.nest(types, node.results[0].type, **node.attrs)  # type: ignore[attr-defined]
    return [constant(evaluate(nest, values))]


def is_exact(node: Node) -> bool:
    """Whether IEEE arithmetic leaves one possible result."""
    op = node.op
    if isinstance(op, Elementwise) and op.name != "stop_gradient":
        e = op.expr([t.type for t in node.operands], node.attrs)
        return all(
            x.name not in s.PRIMS or s.PRIMS[x.name].exact for x in s.postorder([e])
        ) and not any(x.dtype.startswith("complex") for x in s.postorder([e]))
    if isinstance(op, NestOp) and op.name in _MOVES:
        return True
    if op.name in ("sum", "prod", "max", "min", "any", "all"):
        return op.name not in ("sum", "prod") or not node.results[0].type.dtype.startswith(
            ("float", "complex")
        )
    return False


def collect(node: Node) -> Sequence[Tensor] | None:
    """Constant factors to the front, like terms together: what keeps high orders small.

    This chooses the order of rounding, so it serves where derivatives define the arithmetic and
    is no pass over the user's own expressions.
    """
    name, result = node.op.name, node.results[0]
    if name not in ("add", "subtract", "multiply", "negative") or not is_float(result.type.dtype):
        return None
    if name == "multiply":
        (a, x), (b, y) = (_factor(t) for t in node.operands)
        if (
            (a, b) == (1.0, 1.0)
            or (x is node.operands[0] and b == 1.0)
            or (y is node.operands[1] and a == 1.0)
        ):
            return None
        if x is None or y is None:
            rest = x if y is None else y
            if rest is None or rest is (node.operands[1] if x is None else node.operands[0]):
                return None
            return [_scaled(a * b, rest, result)]
        return [_scaled(a * b, FUNCTIONS["multiply"](x, y), result)]
    if name == "negative":
        a, x = _factor(node.operands[0])
        return [_scaled(-a, x, result)] if x is not None and a != 1.0 else None
    terms: dict[Tensor, float] = {}
    pending = [(1.0, node.operands[0]), (1.0 if name == "add" else -1.0, node.operands[1])]
    merged = False
    budget = 24
    while pending:
        sign, t = pending.pop(0)
        a, x = _factor(t)
        if x is None or x.shape != result.shape:
            return None
        if x.node.op.name in ("add", "subtract") and budget and a in (1.0, -1.0):
            budget -= 1
            second = 1.0 if x.node.op.name == "add" else -1.0
            pending[:0] = [(sign * a, x.node.operands[0]), (sign * a * second, x.node.operands[1])]
            continue
        merged |= x in terms
        terms[x] = terms.get(x, 0.0) + sign * a
    if not merged:
        return None
    kept = [(a, x) for x, a in terms.items() if a != 0.0]
    total: Tensor | None = None
    for a, x in kept:
        if total is None:
            total = _scaled(a, x, result)
        elif a == -1.0:
            total = FUNCTIONS["subtract"](total, x)
        else:
            total = FUNCTIONS["add"](total, _scaled(a, x, result))
    return [total] if total is not None and total.shape == result.shape else None


def _factor(t: Tensor) -> tuple[float, Tensor | None]:
    """(c, x) with t = c x; x is None for a constant."""
    if t.node.op.name == "negative":
        a, x = _factor(t.node.operands[0])
        return -a, x
    value = scalar_of(t) if t.shape == () else None
    if value is not None:
        return float(value), None
    if t.node.op.name == "multiply":
        for c, x in (t.node.operands, t.node.operands[::-1]):
            value = scalar_of(c) if c.shape == () else None
            if value is not None and x.shape == t.shape:
                a, inner = _factor(x)
                return (float(value) * a, inner) if inner is not None else (1.0, t)
    return 1.0, t


def _scaled(a: float, x: Tensor, like: Tensor) -> Tensor:
    if a == 1.0:
        return x
    if a == -1.0:
        return FUNCTIONS["negative"](x)
    return FUNCTIONS["multiply"](constant(a, like.type.dtype), x)


def uniform_value(t: Tensor) -> object | None:
    """The one value of a tensor whose elements are all equal and known, else None."""
    while t.node.op.name in ("broadcast_to", "reshape"):
        t = t.node.operands[0]
    if t.node.op is not CONSTANT:
        return None
    value: np.ndarray = t.node.attrs["value"]
    if not 0 < value.size <= FOLD_LIMIT or not (value == value.flat[0]).all():
        return None
    if value.dtype.kind == "f" and np.signbit(value).any() != np.signbit(value).all():
        return None  # 0.0 == -0.0, but what is divided by them differs
    return value.flat[0].item()
