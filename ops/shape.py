"""Ops that show the same elements in another shape: reshape, transpose, broadcast, and the like."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import ShapeError
from staticgraph.ir import apply
from staticgraph.nest import Nest, axes, broadcast_index
from staticgraph.op import NestOp
from staticgraph.operands import as_tensor, normalize_axes, normalize_axis, tensor_argument
from staticgraph.registry import FUNCTIONS, public, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, as_shape, broadcast_shapes


def _int(value: int) -> s.Expr:
    return s.const(value, "int64")


def linear_index(index: Sequence[s.Expr], shape: Sequence[int]) -> s.Expr:
    """Row-major position of an index."""
    total = _int(0)
    for i, n in zip(index, shape, strict=True):
        total = total * n + i
    return total


def split_index(linear: s.Expr, shape: Sequence[int]) -> list[s.Expr]:
    """The index at a row-major position."""
    found: list[s.Expr] = []
    for k, n in enumerate(shape):
        inner = prod(shape[k + 1 :])
        i = linear // inner if inner != 1 else linear
        if k and n != 1:
            i = i % n
        found.append(_int(0) if n == 1 else i)
    return found


def reshape_index(
    index: Sequence[s.Expr], new: Sequence[int], old: Sequence[int]
) -> tuple[s.Expr, ...]:
    """Index into shape `old` of the element at `index` of shape `new`.

    Axes are matched in the smallest groups of equal size, so that only real merges and splits
    cost index arithmetic.
    """
    found: list[s.Expr] = []
    i = j = 0
    while i < len(new) or j < len(old):
        a, b = i, j
        size_new = size_old = 1
        while True:
            if size_new == size_old and (i > a or j > b):
                break
            if (size_new <= size_old and i < len(new)) or j >= len(old):
                size_new *= new[i]
                i += 1
            else:
                size_old *= old[j]
                j += 1
        group_new, group_old = new[a:i], old[b:j]
        real_new = [k for k, n in enumerate(group_new) if n != 1]
        real_old = [k for k, n in enumerate(group_old) if n != 1]
        part = [_int(0)] * len(group_old)
        if len(real_new) == 1 and len(real_old) == 1:
            part[real_old[0]] = index[a + real_new[0]]
        elif real_old:
            linear = linear_index(index[a:i], group_new)
            part = split_index(linear, group_old)
        found.extend(part)
    return tuple(found)


@register
class Reshape(NestOp):
    """The same elements in row-major order in another shape."""

    name = "reshape"

    def infer(self, x: TensorType, *, shape: tuple[int, ...]) -> TensorType:
        if prod(shape) != x.size:
            raise ShapeError(f"reshape: {x} has {x.size} elements, shape {shape} has {prod(shape)}")
        return TensorType(x.dtype, tuple(shape))

    def nest(self, types, out, **attrs: Any) -> Nest:
        (x,) = types
        if x.size == 0:
            return Nest(out.shape, s.const(0, x.dtype))
        index = reshape_index(axes(out.ndim), out.shape, x.shape)
        return Nest(out.shape, s.load(0, index, x.dtype))

    def vjp(self, node, cotangents):
        return [reshape(cotangents[0], node.operands[0].shape)]

    def jvp(self, node, tangents):
        return [reshape(tangents[0], node.attrs["shape"])]

    def simplify(self, node):
        x = node.operands[0]
        if x.shape == node.attrs["shape"]:
            return [x]
        if x.node.op.name == "reshape":
            return [reshape(x.node.operands[0], node.attrs["shape"])]
        return None


@public
def reshape(x: object, shape: object) -> Tensor:
    """The elements of x in row-major order in `shape`; one size may be -1.

    Shapes: `shape`, of as many elements as x. Dtypes: any.
    Gradient: g in the shape of x.
    Raises ShapeError for another number of elements or a second -1.
    Source: BHG 10.13; BPR 4.
    """
    t = tensor_argument("reshape", x)
    sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)  # type: ignore[arg-type]
    if sum(1 for n in sizes if n == -1) > 1:
        raise ShapeError(f"reshape: only one size may be -1, got {sizes}")
    if -1 in sizes:
        rest = prod(n for n in sizes if n != -1)
        if rest == 0 or t.size % rest:
            raise ShapeError(
                f"reshape: {t.type} has {t.size} elements, which shape {sizes} does not divide"
            )
        sizes = tuple(t.size // rest if n == -1 else n for n in sizes)
    sizes = as_shape(sizes)
    return t if sizes == t.shape else apply(Reshape, t, shape=sizes)


@register
class Transpose(NestOp):
    """result axis k is operand axis axes[k]."""

    name = "transpose"

    def infer(self, x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
        if sorted(axes) != list(range(x.ndim)):
            raise ShapeError(
                f"transpose: axes {axes} are not a permutation of the {x.ndim} axes of {x}"
            )
        return TensorType(x.dtype, tuple(x.shape[a] for a in axes))

    def nest(self, types, out, *, axes: tuple[int, ...]) -> Nest:
        index = [_int(0)] * len(axes)
        for k, a in enumerate(axes):
            index[a] = s.axis(k)
        return Nest(out.shape, s.load(0, index, out.dtype))

    def vjp(self, node, cotangents):
        return [transpose(cotangents[0], tuple(int(i) for i in np.argsort(node.attrs["axes"])))]

    def jvp(self, node, tangents):
        return [transpose(tangents[0], node.attrs["axes"])]

    def simplify(self, node):
        x, order = node.operands[0], node.attrs["axes"]
        if order == tuple(range(len(order))):
            return [x]
        if x.node.op is self:
            inner = x.node.attrs["axes"]
            return [transpose(x.node.operands[0], tuple(inner[a] for a in order))]
        moved = [a for a in order if x.shape[a] != 1]
        if moved == sorted(moved):
            return [reshape(x, node.results[0].shape)]
        return None


@public
def transpose(x: object, axes: object = None) -> Tensor:
    """The axes of x in another order, reversed by default: axis k of the result is axes[k] of x.

    Shapes: the sizes of x in that order. Dtypes: any.
    Gradient: g with its axes in the inverse order.
    Raises ShapeError for axes that are no permutation.
    Source: BHG 10.6.
    """
    t = tensor_argument("transpose", x)
    order = tuple(reversed(range(t.ndim))) if axes is None else tuple(axes)  # type: ignore[call-overload]
    order = tuple(normalize_axis("transpose", a, t.ndim) for a in order)
    return t if order == tuple(range(t.ndim)) else apply(Transpose, t, axes=order)


@public
def permute_dims(x: object, axes: object) -> Tensor:
    """`transpose` under its array API name: its shapes, dtypes, gradient, errors. BHG 10.6."""
    return transpose(x, axes)


@public
def swapaxes(x: object, axis1: int, axis2: int) -> Tensor:
    """Two axes of x swapped.

    Shapes: that of x with two sizes swapped. Dtypes: any.
    Gradient: g with the same axes swapped.
    Raises ShapeError for an axis that x has not.
    """
    t = tensor_argument("swapaxes", x)
    order = list(range(t.ndim))
    a, b = normalize_axis("swapaxes", axis1, t.ndim), normalize_axis("swapaxes", axis2, t.ndim)
    order[a], order[b] = order[b], order[a]
    return transpose(t, order)


@public
def moveaxis(x: object, source: int, destination: int) -> Tensor:
    """One axis of x moved to another place; the others keep their order.

    Shapes: the sizes of x in that order. Dtypes: any.
    Gradient: g with the axis moved back.
    Raises ShapeError for an axis that x has not.
    """
    t = tensor_argument("moveaxis", x)
    a, b = (
        normalize_axis("moveaxis", source, t.ndim),
        normalize_axis("moveaxis", destination, t.ndim),
    )
    order = [k for k in range(t.ndim) if k != a]
    order.insert(b, a)
    return transpose(t, order)


@register
class BroadcastTo(NestOp):
    """The operand repeated along new axes and axes of size 1."""

    name = "broadcast_to"

    def infer(self, x: TensorType, *, shape: tuple[int, ...]) -> TensorType:
        if broadcast_shapes(x.shape, shape) != tuple(shape):
            raise ShapeError(f"broadcast_to: {x} does not broadcast to {tuple(shape)}")
        return TensorType(x.dtype, tuple(shape))

    def nest(self, types, out, **attrs: Any) -> Nest:
        (x,) = types
        return Nest(out.shape, s.load(0, broadcast_index(x.shape, axes(out.ndim)), x.dtype))

    def vjp(self, node, cotangents):
        return [sum_to(cotangents[0], node.operands[0].shape)]

    def jvp(self, node, tangents):
        return [broadcast_to(tangents[0], node.attrs["shape"])]

    def simplify(self, node):
        x = node.operands[0]
        if x.shape == node.attrs["shape"]:
            return [x]
        if x.node.op is self:
            return [broadcast_to(x.node.operands[0], node.attrs["shape"])]
        if x.size == node.results[0].type.size:
            return [reshape(x, node.attrs["shape"])]
        return None


@public
def broadcast_to(x: object, shape: object) -> Tensor:
    """x repeated along new axes and axes of size 1, by NumPy's rules.

    Shapes: `shape`, to which that of x broadcasts. Dtypes: any.
    Gradient: g summed over the axes that were added or stretched.
    Raises ShapeError where x does not broadcast to `shape`.
    Source: BHG 10.7.
    """
    t, sizes = tensor_argument("broadcast_to", x), as_shape(shape)
    return t if sizes == t.shape else apply(BroadcastTo, t, shape=sizes)


@public
def sum_to(x: object, shape: object) -> Tensor:
    """Sum over the axes that broadcasting from `shape` to the shape of x added or stretched.

    Shapes: `shape`, which must broadcast to that of x. Dtypes: numbers.
    Gradient: g broadcast.
    Raises ShapeError where `shape` does not broadcast to x.
    Source: catalogue 0, 8 (unb).
    """
    from_ops = as_tensor(x)
    sizes = as_shape(shape)
    if from_ops.shape == sizes:
        return from_ops
    lead = from_ops.ndim - len(sizes)
    if broadcast_shapes(sizes, from_ops.shape) != from_ops.shape:
        raise ShapeError(f"sum_to: {sizes} does not broadcast to {from_ops.type}")
    over = tuple(range(lead)) + tuple(
        lead + k for k, n in enumerate(sizes) if n == 1 and from_ops.shape[lead + k] != 1
    )
    return reshape(FUNCTIONS["sum"](from_ops, axis=over), sizes)


@public
def expand_dims(x: object, axis: int | tuple[int, ...] = 0) -> Tensor:
    """New axes of size 1 at the given places of the result.

    Shapes: that of x with those axes. Dtypes: any.
    Gradient: g in the shape of x.
    Raises ShapeError for a place out of range or named twice.
    """
    t = tensor_argument("expand_dims", x)
    places = axis if isinstance(axis, (tuple, list)) else (axis,)
    new = {normalize_axis("expand_dims", a, t.ndim + len(places)) for a in places}
    if len(new) != len(places):
        raise ShapeError(f"expand_dims: axis {axis!r} names an axis twice")
    old = iter(t.shape)
    return reshape(t, tuple(1 if k in new else next(old) for k in range(t.ndim + len(new))))


@public
def squeeze(x: object, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Drop axes of size 1: all, or those given.

    Shapes: that of x without those axes. Dtypes: any.
    Gradient: g in the shape of x.
    Raises ShapeError for an axis that x has not or of another size than 1.
    """
    t = tensor_argument("squeeze", x)
    over = (
        tuple(k for k, n in enumerate(t.shape) if n == 1)
        if axis is None
        else normalize_axes("squeeze", axis, t.ndim)
    )
    for a in over:
        if t.shape[a] != 1:
            raise ShapeError(f"squeeze: axis {a} of {t.type} has size {t.shape[a]}, not 1")
    return reshape(t, tuple(n for k, n in enumerate(t.shape) if k not in over))


@public
def flatten(x: object) -> Tensor:
    """All elements in row-major order on one axis.

    Shapes: (number of elements,). Dtypes: any.
    Gradient: g in the shape of x.
    Raises GraphTypeError for what is no tensor.
    Source: BPR 4.
    """
    t = tensor_argument("flatten", x)
    return reshape(t, (t.size,))
