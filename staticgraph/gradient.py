"""Derivatives by graph transformation: each is a graph again, so any order works.

While derivative nodes are made, equal nodes are shared with each other and with the graph that is
differentiated, constants fold and algebra simplifies; without this, orders above four explode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from staticgraph import tree
from staticgraph.errors import GradientError, ShapeError, gradient_line, user_frame
from staticgraph.ir import FUNCTIONS, INPUT, Node, Tensor, building, postorder
from staticgraph.op import as_tensor, cast, constant
from staticgraph.rewrite import Builder
from staticgraph.types import is_complex, is_differentiable


def grad(y: Tensor, xs: Any, cotangent: object = None) -> Any:
    """Gradient of `y` with respect to `xs`, as graph.

    `y` is a scalar, unless a cotangent of its shape is given. `xs` is a Tensor or a nesting of
    list, tuple and dict of Tensors of the graph, and the result has the same form. A tensor that
    `y` does not depend on has gradient zero. Raises GradientError for non-scalar `y` without
    cotangent and for dtypes that have no derivative.
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
            one = constant(np.ones(xs.shape), xs.type.dtype)
            return FUNCTIONS["reshape"](cast(jvp(y, xs, one), xs.type.dtype), xs.shape)
        cotangent = constant(np.ones(y.shape), y.type.dtype)
    return vjp([y], xs, [cotangent])


def vjp(ys: Any, xs: Any, cotangents: Any) -> Any:
    """Vector-Jacobian product: the sum over ys of cotangent times derivative, in the form of xs."""
    y_list, _ = tree.flatten(ys)
    x_list, form = tree.flatten(xs)
    c_list, _ = tree.flatten(cotangents)
    if len(y_list) != len(c_list):
        raise GradientError(f"vjp: {len(y_list)} outputs but {len(c_list)} cotangents")
    for x in x_list:
        if not isinstance(x, Tensor):
            raise GradientError(f"grad: xs must be tensors of the graph, got {type(x).__name__}")
        _needs_float("grad", x, "x")
    seeds = []
    for y, c in zip(y_list, c_list, strict=True):
        _needs_float("grad", y, "y")
        c = c if isinstance(c, Tensor) else as_tensor(c, y.type.dtype)
        if c.shape != y.shape:
            raise ShapeError(f"grad: the cotangent of {y.type} must have its shape, got {c.type}")
        seeds.append((y, cast(c, y.type.dtype)))
    found = pullback(seeds, x_list)
    return tree.unflatten(
        form, [g if g is not None else _zeros(x) for g, x in zip(found, x_list, strict=True)]
    )


def _needs_float(what: str, t: Tensor, role: str) -> None:
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


def jvp(ys: Any, xs: Any, tangents: Any) -> Any:
    """Jacobian-vector product: derivative of `ys` along `tangents` of `xs`, in the form of `ys`."""
    y_list, form = tree.flatten(ys)
    x_list, _ = tree.flatten(xs)
    t_list, _ = tree.flatten(tangents)
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
    return [next(pushed) if u is not None else None for u in from_inputs]


def hvp(y: Tensor, xs: Any, vs: Any) -> Any:
    """Hessian of scalar y with respect to xs times vs, forward over reverse, in the form of xs."""
    return jvp(grad(y, xs), xs, vs)


def jacobian(y: Tensor, x: Any) -> Any:
    """Derivative of every element of `y`: shape y.shape + x.shape, in the form of `x`.

    Rows come from one reverse sweep each, or columns from forward sweeps where x is smaller.
    """
    x_list, form = tree.flatten(x)
    reshape, stack = FUNCTIONS["reshape"], FUNCTIONS["stack"]
    found = []
    for item in x_list:
        _needs_float("jacobian", y, "y")
        _needs_float("jacobian", item, "x")
        if y.size <= item.size or is_complex(y.type.dtype):
            rows = [grad(y, item, _basis(y, k)) for k in range(y.size)]
            table = stack(rows, 0) if rows else FUNCTIONS["zeros"]((0, *item.shape), y.type.dtype)
            found.append(reshape(table, (*y.shape, *item.shape)))
        else:
            columns = [jvp(y, item, _basis(item, k)) for k in range(item.size)]
            table = (
                stack(columns, -1) if columns else FUNCTIONS["zeros"]((*y.shape, 0), y.type.dtype)
            )
            found.append(reshape(table, (*y.shape, *item.shape)))
    return tree.unflatten(form, found)


def _basis(t: Tensor, k: int) -> Tensor:
    e = np.zeros(t.size, t.type.dtype)
    e[k] = 1
    return constant(e.reshape(t.shape))


def hessian(y: Tensor, x: Any) -> Any:
    """Second derivatives of scalar `y`: shape x.shape + x.shape."""
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
