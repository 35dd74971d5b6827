"""The ops of pooling over windows of some axes; the geometry is that of convolution.

The gradient of a maximum goes to its first place in the window. That place is a node of its own
(`max_pool_index`, the row-major offset in the window), and both directions through it are nests
over windows: `pool_pick` reads there, `pool_put` adds there. `sum_pool` and its adjoint pair alike.
Nothing is scattered, so gradients are parallel and deterministic.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.nest import Nest, axes, identity
from staticgraph.op import NestOp
from staticgraph.operands import tensor_argument
from staticgraph.ops.shape import linear_index
from staticgraph.ops.window import (
    Ints,
    Offset,
    covering,
    meeting,
    per_axis,
    per_side,
    window_nest,
)
from staticgraph.registry import public, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, is_bool, is_complex, is_differentiable

Attrs = dict[str, Any]


def _resized(x: TensorType, size: Ints, last: int, dtype: str | None = None) -> TensorType:
    end = x.ndim - last
    return TensorType(dtype or x.dtype, (*x.shape[: end - len(size)], *size, *x.shape[end:]))


def _size(t: Tensor, attrs: Attrs) -> Ints:
    """The spatial size of a tensor."""
    end = t.ndim - attrs.get("last", 0)
    return t.shape[end - len(attrs["kernel"]) : end]


def _covering(x: TensorType, y: TensorType, *, kernel, stride, low, dilation, size, last=0):
    """For a nest over x: how many windows of y may hold an element, and the j-th of them."""
    index, a, b = axes(x.ndim), x.ndim - len(kernel) - last, x.ndim - last
    geometry = dict(kernel=kernel, stride=stride, low=low, dilation=dilation)
    count, found = covering(x.shape[a:b], y.shape[a:b], index[a:b], **geometry)

    def at(j: Offset) -> tuple[tuple[s.Expr, ...], s.Expr, list[s.Expr | int]]:
        windows, inside, offset = found(j)
        return (*index[:a], *windows, *index[b:]), inside, offset

    return count, at


def _number(offset: Offset, kernel: Ints) -> s.Expr:
    """A kernel offset as one row-major number."""
    return s.cast(linear_index(offset, kernel), "int32")


@register
class MaxPool(NestOp):
    """y[o] = max over k of x[o stride - low + k dilation]; what lies outside x does not count."""

    name = "max_pool"

    def infer(self, x: TensorType, *, kernel, stride, low, dilation, size, last=0) -> TensorType:
        if is_complex(x.dtype) or is_bool(x.dtype):
            raise GraphTypeError(f"max_pool: needs real numbers, got {x}")
        return _resized(x, size, last)

    def nest(self, types, out, **attrs: Any) -> Nest:
        (x,) = types
        at, lowest = meeting(x, out, **attrs), identity("max", x.dtype)

        def body(offset: Offset) -> s.Expr:
            index, inside = at(offset)
            return s.load(0, index, x.dtype, inside, lowest)

        return window_nest(out.shape, attrs["kernel"], "max", body)

    def vjp(self, node, cotangents):
        x, y = node.operands[0], node.results[0]
        place = apply(MaxPoolIndex, x, y, **node.attrs)
        back = {**node.attrs, "size": _size(x, node.attrs)}
        return [apply(PoolPut, cotangents[0], place, **back)]

    def jvp(self, node, tangents):
        place = apply(MaxPoolIndex, node.operands[0], node.results[0], **node.attrs)
        return [apply(PoolPick, tangents[0], place, **node.attrs)]


@register
class MaxPoolIndex(NestOp):
    """The first row-major offset in each window of x where the maximum y is (nan is greatest)."""

    name = "max_pool_index"

    def infer(self, x: TensorType, y: TensorType, *, kernel, stride, low, dilation, size, last=0):
        return _resized(x, size, last, "int32")

    def nest(self, types, out, **attrs: Any) -> Nest:
        x, y = types
        at, best = meeting(x, out, **attrs), s.load(1, axes(out.ndim), y.dtype)
        nowhere = s.const(prod(attrs["kernel"]), "int32")

        def body(offset: Offset) -> s.Expr:
            index, inside = at(offset)
            value = s.load(0, index, x.dtype, inside)
            found = s.call("equal", value, best)
            if is_differentiable(x.dtype):
                found = s.call("logical_or", found, s.call("isnan", value))
            found = s.call("logical_and", inside, found)
            return s.where(found, _number(offset, attrs["kernel"]), nowhere)

        return window_nest(out.shape, attrs["kernel"], "min", body)

    def vjp(self, node, cotangents):
        return [None, None]

    def jvp(self, node, tangents):
        return [None]


@register
class PoolPick(NestOp):
    """y[o] = x at offset place[o] of window o."""

    name = "pool_pick"

    def infer(
        self, x: TensorType, place: TensorType, *, kernel, stride, low, dilation, size, last=0
    ):
        return _resized(x, size, last)

    def nest(self, types, out, **attrs: Any) -> Nest:
        x, place = types
        at, chosen = meeting(x, out, **attrs), s.load(1, axes(out.ndim), place.dtype)

        def body(offset: Offset) -> s.Expr:
            index, inside = at(offset)
            here = s.call("equal", chosen, _number(offset, attrs["kernel"]))
            return s.where(here, s.load(0, index, x.dtype, inside), s.const(0, x.dtype))

        return window_nest(out.shape, attrs["kernel"], "sum", body)

    def vjp(self, node, cotangents):
        x, place = node.operands
        back = {**node.attrs, "size": _size(x, node.attrs)}
        return [apply(PoolPut, cotangents[0], place, **back), None]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], node.operands[1], **node.attrs)]


@register
class PoolPut(NestOp):
    """The adjoint of pool_pick: x[i] = sum of y[o] over the windows o whose place is i."""

    name = "pool_put"

    def infer(
        self, y: TensorType, place: TensorType, *, kernel, stride, low, dilation, size, last=0
    ):
        return _resized(y, size, last)

    def nest(self, types, out, **attrs: Any) -> Nest:
        y, place = types
        count, at = _covering(out, y, **attrs)

        def body(j: Offset) -> s.Expr:
            index, inside, offset = at(j)
            chosen = s.load(1, index, place.dtype, inside, -1)
            here = s.call("equal", chosen, _number(offset, attrs["kernel"]))
            return s.where(here, s.load(0, index, y.dtype, inside), s.const(0, y.dtype))

        return window_nest(out.shape, count, "sum", body)

    def vjp(self, node, cotangents):
        y, place = node.operands
        there = {**node.attrs, "size": _size(y, node.attrs)}
        return [apply(PoolPick, cotangents[0], place, **there), None]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], node.operands[1], **node.attrs)]


@register
class SumPool(NestOp):
    """y[o] = sum over k of x[o stride - low + k dilation]."""

    name = "sum_pool"

    def infer(self, x: TensorType, *, kernel, stride, low, dilation, size, last=0) -> TensorType:
        if is_bool(x.dtype):
            raise GraphTypeError(f"sum_pool: needs numbers, got {x}")
        return _resized(x, size, last)

    def nest(self, types, out, **attrs: Any) -> Nest:
        (x,) = types
        at = meeting(x, out, **attrs)

        def body(offset: Offset) -> s.Expr:
            index, inside = at(offset)
            return s.load(0, index, x.dtype, inside)

        return window_nest(out.shape, attrs["kernel"], "sum", body)

    def vjp(self, node, cotangents):
        back = {**node.attrs, "size": _size(node.operands[0], node.attrs)}
        return [apply(SumPoolAdjoint, cotangents[0], **back)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]


@register
class SumPoolAdjoint(NestOp):
    """The adjoint of sum_pool: x[i] = sum of y[o] over the windows o that cover i."""

    name = "sum_pool_adjoint"

    def infer(self, y: TensorType, *, kernel, stride, low, dilation, size, last=0) -> TensorType:
        return _resized(y, size, last)

    def nest(self, types, out, **attrs: Any) -> Nest:
        (y,) = types
        count, at = _covering(out, y, **attrs)

        def body(j: Offset) -> s.Expr:
            index, inside, _ = at(j)
            return s.load(0, index, y.dtype, inside)

        return window_nest(out.shape, count, "sum", body)

    def vjp(self, node, cotangents):
        there = {**node.attrs, "size": _size(node.operands[0], node.attrs)}
        return [apply(SumPool, cotangents[0], **there)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]


# ---------------------------------------------------------------------------- geometry


def _places(n: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int, ceil: bool):
    """Number of windows on an axis of n elements."""
    span = n + sum(pads) - dilation * (kernel - 1) - 1
    places = (-(-span // stride) if ceil else span // stride) + 1
    # A last window that would begin in the padding after the axis is dropped.
    return places - 1 if ceil and (places - 1) * stride >= n + pads[0] else places


def _all_filled(first: np.ndarray, n: int, kernel: int, dilation: int) -> bool:
    """Whether each window that begins at `first` holds one of n elements at least."""
    offset = np.maximum(-(first // dilation), 0)
    return bool(((offset < kernel) & (first + offset * dilation < n)).all())


def windows(
    op: str,
    spatial: Ints,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    dilation: object = 1,
    ceil_mode: bool = False,
) -> tuple[Attrs, Ints]:
    """Attributes of a pooling op over axes of these sizes, and the padding after each axis."""
    rank = len(spatial)
    kernel = per_axis(op, "kernel_size", kernel_size, rank, 1)
    strides = kernel if stride is None else per_axis(op, "stride", stride, rank, 1)
    dilations = per_axis(op, "dilation", dilation, rank, 1)
    low, high = per_side(op, padding, spatial, kernel, strides, dilations)
    size = []
    for n, k, t, d, lo, hi in zip(spatial, kernel, strides, dilations, low, high, strict=True):
        places = _places(n, k, t, (lo, hi), d, ceil_mode)
        if not _all_filled(np.arange(places) * t - lo, n, k, d):
            raise ShapeError(f"{op}: padding {padding!r} leaves windows without an element of x")
        size.append(places)
    if min(size) < 1:
        raise ShapeError(
            f"{op}: kernel {kernel} with padding {padding!r} does not fit size {spatial}"
        )
    attrs = dict(kernel=kernel, stride=strides, low=low, dilation=dilations, size=tuple(size))
    return attrs, high


def image(op: str, x: object, channel_last: bool = False) -> tuple[Tensor, Ints]:
    """x (N, C, spatial...), or (N, spatial..., C), and its spatial size."""
    t = tensor_argument(op, x)
    if t.ndim < 3:
        layout = "(N, spatial..., C)" if channel_last else "(N, C, spatial...)"
        raise ShapeError(f"{op}: needs x {layout}, got {t.type}")
    return t, t.shape[1:-1] if channel_last else t.shape[2:]


def layout(attrs: Attrs, channel_last: bool) -> Attrs:
    """The attributes with the axes that follow the windowed ones."""
    return {**attrs, "last": 1} if channel_last else attrs


@public
def pool_output_size(
    size: object,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    dilation: object = 1,
    ceil_mode: bool = False,
) -> Ints:
    """The number of windows on each axis of spatial `size`, as a tuple of ints.

    floor((n + padding before and after - dilation (kernel - 1) - 1) / stride) + 1; `ceil_mode`
    rounds up, but drops a last window that would begin in the padding after the axis. Raises
    ShapeError where the kernel does not fit. Catalogue 4 (pooling_shape.h).
    """
    sizes = (size,) if isinstance(size, (int, np.integer)) else size
    spatial = per_axis("pool_output_size", "size", sizes, len(sizes), 1)  # type: ignore[arg-type]
    given = (kernel_size, stride, padding, dilation, ceil_mode)
    return windows("pool_output_size", spatial, *given)[0]["size"]
