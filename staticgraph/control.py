"""`cond`: two graphs as one node, of which a call runs one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from staticgraph import closure, tree
from staticgraph.closure import Derived
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.interpret import run
from staticgraph.ir import Graph, Node, Op, apply, building
from staticgraph.operands import as_tensor, common_dtype, is_scalar
from staticgraph.registry import FUNCTIONS, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, is_bool

SIDES = ("then", "orelse")


@register
class Cond(Op):
    """The results of `then` where the first operand is true, else those of `orelse`.

    Both bodies are closed and have the other operands as inputs. Derivatives are conds whose
    branches are the derivatives of the branches.
    """

    name = "cond"
    bodies = SIDES

    def infer(
        self, pred: TensorType, *types: TensorType, then: Graph, orelse: Graph
    ) -> tuple[TensorType, ...]:
        if pred != TensorType("bool", ()):
            raise GraphTypeError(f"cond: the predicate must be b1[], got {pred}")
        results = tuple(t.type for t in then.outputs)
        for body in (then, orelse):
            if tuple(t.type for t in body.inputs) != types:
                raise GraphTypeError("cond: operands and inputs of a branch differ in type")
            if tuple(t.type for t in body.outputs) != results:
                raise GraphTypeError("cond: the results of the branches differ in type")
        return results

    def reference(
        self,
        operands: Sequence[np.ndarray],
        types: Sequence[TensorType],
        *,
        then: Graph,
        orelse: Graph,
    ) -> list[np.ndarray]:
        return run(then if operands[0] else orelse, operands[1:])

    def vjp(self, node: Node, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        sides = [closure.body_vjp(node.attrs[side], cotangents) for side in SIDES]
        return [None, *_derived(node, sides, [t.type for t in node.operands[1:]])]

    def jvp(self, node: Node, tangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        sides = [closure.body_jvp(node.attrs[side], tangents[1:]) for side in SIDES]
        return _derived(node, sides, node.types)


@register
class Nothing(Op):
    """A value that nobody reads: what one branch gives where only the other one has something."""

    name = "nothing"

    def infer(self, *, type: TensorType) -> TensorType:
        return type

    def reference(
        self, operands: Sequence[np.ndarray], types: Sequence[TensorType], *, type: TensorType
    ) -> list[np.ndarray]:
        return [np.zeros(type.shape, type.dtype)]

    def vjp(self, node: Node, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        return []


def _derived(
    node: Node, sides: Sequence[Derived], like: Sequence[TensorType]
) -> list[Tensor | None]:
    """A cond of what was derived from each branch.

    None stays where both branches have nothing; where one has, the other one gives zeros.
    """
    kept = [k for k in range(len(like)) if any(d.results[k] is not None for d in sides)]
    if not kept:
        return [None] * len(like)
    bodies = []
    for name, d in zip(SIDES, sides, strict=True):
        with building(hook=closure.isolated, where=node.where):
            full = [
                closure.zeros(t) if r is None else r for r, t in zip(d.results, like, strict=True)
            ]
        bodies.append(replace(d, results=full).graph(node.attrs[name], kept))
    results = make(node.operands[0], [*node.operands[1:], *sides[0].operands], *bodies)
    places = dict(zip(kept, results, strict=True))
    return [places.get(k) for k in range(len(like))]


def make(
    pred: Tensor, operands: Sequence[Tensor], then: Graph, orelse: Graph
) -> tuple[Tensor, ...]:
    """The results of a cond, without the operands that neither branch reads."""
    read = closure.inputs_read(then) | closure.inputs_read(orelse)
    kept = [k for k in range(len(operands)) if then.inputs[k] in read or orelse.inputs[k] in read]
    bodies = [Graph([b.inputs[k] for k in kept], b.outputs) for b in (then, orelse)]
    return apply(Cond, pred, *(operands[k] for k in kept), then=bodies[0], orelse=bodies[1])


def cond(pred: object, then_fn: Callable, else_fn: Callable, *operands: Any) -> Any:
    """`then_fn(*operands)` where `pred` is true, else `else_fn(*operands)`; only one of them runs.

    Both return the same nesting of tensors of the same shapes and dtypes, which is what comes back.
    They may read tensors from outside, and operands may be nestings. `pred` is a bool tensor of
    size 1; a Python bool decides while building. Any order of derivative is a cond again.

    Raises GraphTypeError and ShapeError for another `pred`, for branches that return no tensors,
    and for branches whose results differ in form, dtype or shape.
    """
    args = tree.map(lambda v: v if is_scalar(v) else as_tensor(v), operands)
    if isinstance(pred, (bool, np.bool_)):
        function = then_fn if pred else else_fn
        _, value = closure.trace("cond", function, args)
        leaves, form = closure.leaves_of("cond", function, value)
        return tree.unflatten(form, [as_tensor(v) for v in leaves])
    chosen = _predicate(pred)
    since, first = closure.trace("cond", then_fn, args)
    _, second = closure.trace("cond", else_fn, args)
    lefts, form = closure.leaves_of("cond", then_fn, first)
    rights, other = closure.leaves_of("cond", else_fn, tree.aligned(second, first))
    pairs = [_alike(a, b) for a, b in zip(lefts, rights, strict=True)] if form == other else []
    if form != other or any(a.type != b.type for a, b in pairs):
        raise _mismatch((then_fn, first), (else_fn, second))
    if not pairs:
        return tree.unflatten(form, [])
    captured, bodies = closure.close([[a for a, _ in pairs], [b for _, b in pairs]], since)
    return tree.unflatten(form, list(make(chosen, captured, *bodies)))


def _predicate(pred: object) -> Tensor:
    """A bool tensor of shape () from what a user gave."""
    if not isinstance(pred, Tensor) and not isinstance(pred, np.ndarray):
        raise GraphTypeError(
            f"cond: pred must be a bool tensor or a Python bool, got {type(pred).__name__}"
        )
    t = as_tensor(pred)
    if not is_bool(t.type.dtype):
        raise GraphTypeError(
            f"cond: pred must be a bool, got {t.type}; compare it, for example pred != 0"
        )
    if t.size != 1:
        raise ShapeError(
            f"cond: pred must be one bool, got {t.type}; reduce it with sg.ops.any or sg.ops.all,"
            " or choose element by element with sg.ops.where"
        )
    return FUNCTIONS["reshape"](t, ())


def _alike(a: Any, b: Any) -> list[Tensor]:
    """Two results as tensors; a Python number takes the dtype of the tensor it meets."""
    dtype = common_dtype("cond", [a, b]) if is_scalar(a) or is_scalar(b) else None
    with building(hook=closure.isolated):
        return [as_tensor(v, dtype if is_scalar(v) else None) for v in (a, b)]


def _mismatch(*branches: tuple[Callable, Any]) -> ShapeError | GraphTypeError:
    given = [f"{closure.name_of(f)} returns {tree.show(v, _type)}" for f, v in branches]
    shapes = [tree.show(v, lambda t: str(as_tensor(t).shape)) for _, v in branches]
    kind = ShapeError if shapes[0] != shapes[1] else GraphTypeError
    return kind(
        "cond: both branches must return the same structure, shapes and dtypes; "
        + " and ".join(given)
    )


def _type(value: Any) -> str:
    return str(as_tensor(value).type)
