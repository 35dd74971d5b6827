"""Derivatives by graph transformation: each is a graph again, so any order works.

While derivative nodes are made, equal nodes are shared with each other and with the graph that is
differentiated, constants fold and algebra simplifies; without this, orders above four explode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np

from staticgraph import tree
from staticgraph.errors import GradientError, ShapeError, gradient_line, user_frame
from staticgraph.ir import INPUT, Node, building, mark, postorder
from staticgraph.operands import as_tensor, cast, constant
from staticgraph.registry import FUNCTIONS
from staticgraph.rewrite import Builder
from staticgraph.tensor import Tensor
from staticgraph.types import is_complex, is_differentiable


class NotLinearError(GradientError):
    """A forward sweep met an op whose own gradient rule cannot be transposed."""


@overload
def grad(y: Tensor, xs: Tensor, cotangent: object = None) -> Tensor: ...
@overload
def grad(y: Tensor, xs: Any, cotangent: object = None) -> Any: ...
def grad(y: Tensor, xs: Any, cotangent: object = None) -> Any:
    """Gradient of `y` with respect to `xs`, as graph.

    `y` is a scalar, unless a cotangent of its shape is given. `xs` is a Tensor or a nesting of
    list, tuple and dict of Tensors of the graph, and the result has the same form. A tensor that
    `y` does not depend on has gradient zero. The gradient of x has its shape and dtype.

    Raises GradientError for non-scalar `y` without cotangent, for what is no tensor of the graph
    and for dtypes that have no derivative, ShapeError for a cotangent of another shape.
    """
    if not isinstance(y, Tensor):
        hint = (
            "; for the gradient of a sum, sg.ops.add_n(list)"
            if isinstance(y, (list, tuple))
            else ""
        )
        raise GradientError(f"grad: y must be a tensor, got {type(y).__name__}{hint}")
    if cotangent is None and y.size != 1:
        raise GradientError(
            f"grad: y is {y.type}, not a scalar; give cotangent= a tensor of shape {y.shape},"
            " or reduce y (for example y.sum())"
        )
    if cotangent is None:
        _needs_float("grad", y, "y")
        if isinstance(xs, Tensor) and xs.size == y.size == 1 and not is_complex(y.type.dtype):
            # Both sweeps cost the same here, but forward derivatives of shared nodes are shared, so
            # the order-n derivative of a scalar function grows as n^2 and not exponentially.
            _needs_float("grad", xs, "x")
            slope = _scalar_slope(y, xs)
            if slope is not None:
                return slope
        cotangent = constant(np.ones(y.shape), y.type.dtype)
    return _pulled("grad", [y], xs, [cotangent])


def _scalar_slope(y: Tensor, x: Tensor) -> Tensor | None:
    """dy/dx of one number by one, by a forward sweep; None where there is no such sweep."""
    try:
        slope = jvp(y, x, constant(np.ones(x.shape), x.type.dtype))
    except NotLinearError:
        return None
    return FUNCTIONS["reshape"](cast(slope, x.type.dtype), x.shape)


@overload
def vjp(ys: Any, xs: Tensor, cotangents: Any) -> Tensor: ...
@overload
def vjp(ys: Any, xs: Any, cotangents: Any) -> Any: ...
def vjp(ys: Any, xs: Any, cotangents: Any) -> Any:
    """Vector-Jacobian product: the sum over ys of cotangent times derivative, in the form of xs.

    `ys` and `cotangents` have one form; each cotangent has the shape of its y, and each result the
    shape and dtype of its x.

    Raises GradientError for forms that differ, for what is no tensor of the graph and for dtypes
    that have no derivative, ShapeError for a cotangent of another shape.
    """
    return _pulled("vjp", ys, xs, cotangents)


def _pulled(what: str, ys: Any, xs: Any, cotangents: Any) -> Any:
    y_list, _ = tree.flatten(ys)
    x_list, form = tree.flatten(xs)
    c_list, _ = tree.flatten(tree.aligned(cotangents, ys))
    if len(y_list) != len(c_list):
        raise GradientError(f"{what}: {len(y_list)} outputs but {len(c_list)} cotangents")
    for x in x_list:
        if not isinstance(x, Tensor):
            raise GradientError(f"{what}: xs must be tensors of the graph, got {type(x).__name__}")
        _needs_float(what, x, "x")
    seeds = []
    for y, c in zip(y_list, c_list, strict=True):
        _needs_float(what, y, "y")
        c = c if isinstance(c, Tensor) else as_tensor(c, y.type.dtype)
        if c.shape != y.shape:
            raise ShapeError(f"{what}: the cotangent of {y.type} must have its shape, got {c.type}")
        seeds.append((y, cast(c, y.type.dtype)))
    found = pullback(seeds, x_list)
    return tree.unflatten(
        form, [g if g is not None else _zeros(x) for g, x in zip(found, x_list, strict=True)]
    )


def _needs_float(what: str, t: object, role: str) -> None:
    if not isinstance(t, Tensor):
        raise GradientError(f"{what}: {role} must be a tensor of the graph, got {type(t).__name__}")
    if not is_differentiable(t.type.dtype):
        raise GradientError(
            f"{what}: {role} is {t.type}, and only floats have derivatives;"
            " cast it with .astype('float32')"
        )


def pullback(seeds: Sequence[tuple[Tensor, Tensor]], xs: Sequence[Tensor]) -> list[Tensor | None]:
    """The reverse sweep from (tensor, cotangent) pairs: what each of xs gets, None for nothing."""
    nodes = postorder([y for y, _ in seeds])
    wanted = set(xs)
    # Only nodes that lead to an x matter; the others would build dead gradients.
    active: set[Tensor] = set(xs)
    for node in nodes:
        if any(t in active for t in node.operands) and node.op.name != "stop_gradient":
            active.update(r for r in node.results if is_differentiable(r.type.dtype))
    builder = Builder(nodes)
    adjoint: dict[Tensor, list[Tensor]] = {}
    for y, c in seeds:
        adjoint.setdefault(y, []).append(c)
    final: dict[Tensor, Tensor] = {}
    by = user_frame()
    with building(where=gradient_line(None, by), hook=builder):
        for node in reversed(nodes):
            cotangents = [_total(adjoint.pop(r, None)) for r in node.results]
            for r, g in zip(node.results, cotangents, strict=True):
                if r in wanted and g is not None:
                    final[r] = g
            if all(g is None for g in cotangents) or not any(t in active for t in node.operands):
                continue
            with building(where=gradient_line(node.where, by)):
                pulled = node.op.vjp(node, cotangents)
            if len(pulled) != len(node.operands):
                raise GradientError(
                    f"{node.op.name}: its gradient rule returned {len(pulled)} values"
                    f" for {len(node.operands)} operands"
                )
            for t, g in zip(node.operands, pulled, strict=True):
                if g is None or t not in active:
                    continue
                if g.type != t.type:
                    raise GradientError(
                        f"{node.op.name}: gradient {g.type} for an operand {t.type}", node.where
                    )
                adjoint.setdefault(t, []).append(g)
        return [final.get(x) for x in xs]


def _total(parts: list[Tensor] | None) -> Tensor | None:
    if not parts:
        return None
    total = parts[0]
    for p in parts[1:]:
        total = FUNCTIONS["add"](total, p)
    return total


def _zeros(x: Tensor) -> Tensor:
    return FUNCTIONS["zeros"](x.shape, x.type.dtype)


@overload
def jvp(ys: Tensor, xs: Any, tangents: Any) -> Tensor: ...
@overload
def jvp(ys: Any, xs: Any, tangents: Any) -> Any: ...
def jvp(ys: Any, xs: Any, tangents: Any) -> Any:
    """Jacobian-vector product: derivative of `ys` along `tangents` of `xs`, in the form of `ys`.

    `xs` and `tangents` have one form; each tangent has the shape of its x, and each result the
    shape and dtype of its y. One sweep forward: its cost does not grow with the number of `ys`.

    Raises GradientError for forms that differ, for what is no tensor of the graph, for dtypes that
    have no derivative and for a custom gradient that is not linear in its cotangent, ShapeError for
    a tangent of another shape.
    """
    y_list, form = tree.flatten(ys)
    x_list, _ = tree.flatten(xs)
    t_list, _ = tree.flatten(tree.aligned(tangents, xs))
    for y in y_list:
        if not isinstance(y, Tensor):
            raise GradientError(f"jvp: y must be a tensor of the graph, got {type(y).__name__}")
    if len(x_list) != len(t_list):
        raise GradientError(f"jvp: {len(x_list)} tensors but {len(t_list)} tangents")
    start: dict[Tensor, Tensor] = {}
    for x, t in zip(x_list, t_list, strict=True):
        _needs_float("jvp", x, "x")
        t = t if isinstance(t, Tensor) else as_tensor(t, x.type.dtype)
        if t.shape != x.shape:
            raise ShapeError(f"jvp: the tangent of {x.type} must have its shape, got {t.type}")
        start[x] = cast(t, x.type.dtype)
    found = pushforward(y_list, start)
    return tree.unflatten(
        form, [t if t is not None else _zeros(y) for t, y in zip(found, y_list, strict=True)]
    )


def pushforward(ys: Sequence[Tensor], start: Mapping[Tensor, Tensor]) -> list[Tensor | None]:
    """The forward sweep from the tangents of some tensors: that of each of `ys`, None for zero."""
    nodes = postorder(ys)
    builder = Builder(nodes)
    tangent: dict[Tensor, Tensor | None] = dict(start)
    by = user_frame()
    with building(where=gradient_line(None, by), hook=builder):
        for node in nodes:
            if all(r in start for r in node.results):
                continue
            incoming = [tangent.get(t) for t in node.operands]
            if all(t is None for t in incoming):
                continue
            with building(where=gradient_line(node.where, by)):
                made = _push(node, incoming)
            for r, t in zip(node.results, made, strict=True):
                if r not in start:
                    tangent[r] = t
        return [tangent.get(y) if is_differentiable(y.type.dtype) else None for y in ys]


def _push(node: Node, incoming: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    if node.op.name == "stop_gradient":
        return [None] * len(node.results)
    made = node.op.jvp(node, incoming)
    if made is not NotImplemented:
        return made
    # The vjp is linear in its cotangent u, so its own vjp with respect to u is the jvp.
    from_inputs: list[Tensor | None] = []
    dummies = []
    since = mark()
    for r in node.results:
        if is_differentiable(r.type.dtype):
            u = Node(INPUT, (), {"name": "u", "type": r.type}, (r.type,), node.where).results[0]
            dummies.append(u)
            from_inputs.append(u)
        else:
            from_inputs.append(None)
    pulled = node.op.vjp(node, from_inputs)
    seeds = [
        (g, t) for g, t in zip(pulled, incoming, strict=True) if g is not None and t is not None
    ]
    if not seeds:
        return [None] * len(node.results)
    pushed = iter(pullback(seeds, dummies))
    tangents = [next(pushed) if u is not None else None for u in from_inputs]
    made = postorder([t for t in tangents if t is not None], lambda n: n.serial < since)
    if any(u.node in made for u in dummies):
        raise NotLinearError(
            f"jvp: the gradient rule of {node.op.name} is not linear in the cotangent, so it gives"
            " no derivative along a direction; use grad or vjp",
            node.where,
        )
    return tangents


@overload
def hvp(y: Tensor, xs: Tensor, vs: Any) -> Tensor: ...
@overload
def hvp(y: Tensor, xs: Any, vs: Any) -> Any: ...
def hvp(y: Tensor, xs: Any, vs: Any) -> Any:
    """Hessian of scalar `y` with respect to `xs` times `vs`, in the form of `xs`.

    `xs` and `vs` have one form and the same shapes, and so has the result. Forward over reverse;
    reverse over reverse where a custom gradient allows no forward sweep.

    Raises what `grad` and `jvp` raise.
    """
    slopes = grad(y, xs)
    try:
        return jvp(slopes, xs, vs)
    except NotLinearError:
        return vjp(slopes, xs, vs)


@overload
def jacobian(y: Tensor, x: Tensor) -> Tensor: ...
@overload
def jacobian(y: Tensor, x: Any) -> Any: ...
def jacobian(y: Tensor, x: Any) -> Any:
    """Derivative of every element of `y`: shape y.shape + x.shape, in the form of `x`.

    Rows come from one reverse sweep each, or columns from forward sweeps where x is smaller.

    Raises GradientError for what is no tensor of the graph and for dtypes that have no derivative.
    """
    x_list, form = tree.flatten(x)
    _needs_float("jacobian", y, "y")
    for item in x_list:
        _needs_float("jacobian", item, "x")
    return tree.unflatten(
        form, [FUNCTIONS["reshape"](_table(y, t), (*y.shape, *t.shape)) for t in x_list]
    )


def _table(y: Tensor, x: Tensor) -> Tensor:
    """The Jacobian with y, or x, as one axis: whichever needs fewer sweeps."""
    zeros, stack = FUNCTIONS["zeros"], FUNCTIONS["stack"]
    if y.size > x.size and not is_complex(y.type.dtype):
        try:
            columns = [jvp(y, x, _basis(x, k)) for k in range(x.size)]
            return stack(columns, -1) if columns else zeros((*y.shape, 0), y.type.dtype)
        except NotLinearError:
            pass  # rows it is
    rows = [grad(y, x, _basis(y, k)) for k in range(y.size)]
    return stack(rows, 0) if rows else zeros((0, *x.shape), y.type.dtype)


def _basis(t: Tensor, k: int) -> Tensor:
    e = np.zeros(t.size, t.type.dtype)
    e[k] = 1
    return constant(e.reshape(t.shape))


@overload
def hessian(y: Tensor, x: Tensor) -> Tensor: ...
@overload
def hessian(y: Tensor, x: Any) -> Any: ...
def hessian(y: Tensor, x: Any) -> Any:
    """Second derivatives of scalar `y`: shape x.shape + x.shape.

    Where `x` is a nesting, the result is one of that form, which holds one of that form in the
    place of each x: a block of shape x.shape + other.shape.

    Raises GradientError for `y` that is no scalar and for dtypes that have no derivative.
    """
    if not isinstance(y, Tensor) or y.size != 1:
        raise GradientError(
            f"hessian: y must be a scalar tensor, got {getattr(y, 'type', type(y).__name__)}"
        )
    x_list, form = tree.flatten(x)
    if len(x_list) == 1:
        return tree.unflatten(form, [jacobian(grad(y, x_list[0]), x_list[0])])
    first = grad(y, x_list)
    return tree.unflatten(
        form, [tree.unflatten(form, [jacobian(g, b) for b in x_list]) for g in first]
    )
