"""Pooling over windows of the last axes; the geometry is that of convolution.

The gradient of a maximum goes to its first place in the window. That place is a node of its own
(`max_pool_index`, the row-major offset in the window), and both directions through it are nests
over windows: `pool_pick` reads there, `pool_put` adds there. `sum_pool` and its adjoint pair alike.
Nothing is scattered, so gradients are parallel and deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import FUNCTIONS, Tensor, apply
from staticgraph.nest import Nest, axes, identity
from staticgraph.op import NestOp, cast, constant, public, register, tensor_argument
from staticgraph.ops.conv import Ints, meet, of_rank, per_axis, per_side
from staticgraph.ops.shape import linear_index
from staticgraph.types import DEFAULT_FLOAT, TensorType, is_bool, is_complex, is_differentiable

#: windows (or windows over one element) up to this size are written out, so that pooling is
#: elementwise: it fuses, and vectorises along the last axis
_UNROLLED = 64

Offset = Sequence[s.Expr | int]


def _resized(x: TensorType, size: Ints, dtype: str | None = None) -> TensorType:
    return TensorType(dtype or x.dtype, (*x.shape[: x.ndim - len(size)], *size))


def _size(t: Tensor, attrs: dict[str, Any]) -> Ints:
    """The spatial size of a tensor."""
    return t.shape[t.ndim - len(attrs["kernel"]) :]


def _nest(shape: Ints, over: Ints, combine: str, body: Callable[[Offset], s.Expr]) -> Nest:
    """The body combined over all offsets in `over`."""
    if prod(over) > _UNROLLED:
        return Nest(shape, body([s.axis(len(shape) + k) for k in range(len(over))]), over, combine)
    name = {"sum": "add", "max": "maximum", "min": "minimum"}[combine]
    terms = [body([int(k) for k in offset]) for offset in np.ndindex(*over)]
    return Nest(shape, reduce(lambda a, b: s.call(name, a, b), terms))


def _meeting(x: TensorType, y: TensorType, *, kernel, stride, low, dilation, size):
    """For a nest over windows y: index into x and whether it is inside, by kernel offset."""
    rank = len(kernel)
    index = axes(y.ndim)
    sizes = list(zip(x.shape[-rank:], kernel, y.shape[-rank:], strict=True))

    def at(offset: Offset) -> tuple[tuple[s.Expr, ...], s.Expr]:
        found, inside = meet(index[-rank:], offset, sizes, stride, low, dilation)
        return (*index[:-rank], *found), inside

    return at


def _covering(x: TensorType, y: TensorType, *, kernel, stride, low, dilation, size):
    """For a nest over x: how many windows may cover an element, and for the j-th of them its
    index in y, whether it exists, and at which kernel offset the element is in it.

    Without dilation window (i + low) // stride - j has it at offset (i + low) % stride + j stride;
    with dilation j runs over the kernel offsets, and not every one belongs to a window.
    """
    rank = len(kernel)
    index = axes(x.ndim)
    each = list(
        zip(
            index[-rank:],
            x.shape[-rank:],
            kernel,
            stride,
            low,
            dilation,
            y.shape[-rank:],
            strict=True,
        )
    )
    count = tuple(
        k if d > 1 else -(-k // t) for k, t, d in zip(kernel, stride, dilation, strict=True)
    )

    def at(offset: Offset) -> tuple[tuple[s.Expr, ...], s.Expr, list[s.Expr | int]]:
        windows, offsets, tests = [], [], []
        for j, c, (i, n, k, t, lo, d, out) in zip(offset, count, each, strict=True):
            first, last = (j, j) if isinstance(j, int) else (0, c - 1)
            if d == 1:
                way, inner = i + lo, (i + lo) % t + j * t if t > 1 else j
                o, least, most = way // t - j, lo // t - last, (n - 1 + lo) // t - first
                if last * t + t > k:
                    tests.append(inner < k)
            else:
                way, inner = i - j * d + lo, j
                o, least, most = way // t, lo - last * d, (n - 1 + lo - first * d) // t
                tests.append(s.call("equal", way % t, 0))
            if least < 0:
                tests.append(o >= 0)
            if most >= out:
                tests.append(o < out)
            windows.append(o)
            offsets.append(inner)
        inside = reduce(lambda a, b: s.call("logical_and", a, b), tests, s.const(True, "bool"))
        return (*index[:-rank], *windows), inside, offsets

    return count, at


def _number(offset: Offset, kernel: Ints) -> s.Expr:
    """A kernel offset as one row-major number."""
    return s.cast(linear_index(offset, kernel), "int32")


@register
class MaxPool(NestOp):
    """y[o] = max over k of x[o stride - low + k dilation]; what lies outside x does not count."""

    name = "max_pool"

    def infer(self, x: TensorType, *, kernel, stride, low, dilation, size) -> TensorType:
        if is_complex(x.dtype) or is_bool(x.dtype):
            raise GraphTypeError(f"max_pool: needs real numbers, got {x}")
        return _resized(x, size)

    def nest(self, types, out, **attrs: Any) -> Nest:
        (x,) = types
        at, lowest = _meeting(x, out, **attrs), identity("max", x.dtype)

        def body(offset: Offset) -> s.Expr:
            index, inside = at(offset)
            return s.load(0, index, x.dtype, inside, lowest)

        return _nest(out.shape, attrs["kernel"], "max", body)

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

    def infer(self, x: TensorType, y: TensorType, *, kernel, stride, low, dilation, size):
        return _resized(x, size, "int32")

    def nest(self, types, out, **attrs: Any) -> Nest:
        x, y = types
        at, best = _meeting(x, out, **attrs), s.load(1, axes(out.ndim), y.dtype)
        nowhere = s.const(prod(attrs["kernel"]), "int32")

        def body(offset: Offset) -> s.Expr:
            index, inside = at(offset)
            value = s.load(0, index, x.dtype, inside)
            found = s.call("equal", value, best)
            if is_differentiable(x.dtype):
                found = s.call("logical_or", found, s.call("isnan", value))
            found = s.call("logical_and", inside, found)
            return s.where(found, _number(offset, attrs["kernel"]), nowhere)

        return _nest(out.shape, attrs["kernel"], "min", body)

    def vjp(self, node, cotangents):
        return [None, None]

    def jvp(self, node, tangents):
        return [None]


@register
class PoolPick(NestOp):
    """y[o] = x at offset place[o] of window o."""

    name = "pool_pick"

    def infer(self, x: TensorType, place: TensorType, *, kernel, stride, low, dilation, size):
        return _resized(x, size)

    def nest(self, types, out, **attrs: Any) -> Nest:
        x, place = types
        at, chosen = _meeting(x, out, **attrs), s.load(1, axes(out.ndim), place.dtype)

        def body(offset: Offset) -> s.Expr:
            index, inside = at(offset)
            here = s.call("equal", chosen, _number(offset, attrs["kernel"]))
            return s.where(here, s.load(0, index, x.dtype, inside), s.const(0, x.dtype))

        return _nest(out.shape, attrs["kernel"], "sum", body)

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

    def infer(self, y: TensorType, place: TensorType, *, kernel, stride, low, dilation, size):
        return _resized(y, size)

    def nest(self, types, out, **attrs: Any) -> Nest:
        y, place = types
        count, at = _covering(out, y, **attrs)

        def body(j: Offset) -> s.Expr:
            index, inside, offset = at(j)
            chosen = s.load(1, index, place.dtype, inside, -1)
            here = s.call("equal", chosen, _number(offset, attrs["kernel"]))
            return s.where(here, s.load(0, index, y.dtype, inside), s.const(0, y.dtype))

        return _nest(out.shape, count, "sum", body)

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

    def infer(self, x: TensorType, *, kernel, stride, low, dilation, size) -> TensorType:
        if is_bool(x.dtype):
            raise GraphTypeError(f"sum_pool: needs numbers, got {x}")
        return _resized(x, size)

    def nest(self, types, out, **attrs: Any) -> Nest:
        (x,) = types
        at = _meeting(x, out, **attrs)

        def body(offset: Offset) -> s.Expr:
            index, inside = at(offset)
            return s.load(0, index, x.dtype, inside)

        return _nest(out.shape, attrs["kernel"], "sum", body)

    def vjp(self, node, cotangents):
        back = {**node.attrs, "size": _size(node.operands[0], node.attrs)}
        return [apply(SumPoolAdjoint, cotangents[0], **back)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]


@register
class SumPoolAdjoint(NestOp):
    """The adjoint of sum_pool: x[i] = sum of y[o] over the windows o that cover i."""

    name = "sum_pool_adjoint"

    def infer(self, y: TensorType, *, kernel, stride, low, dilation, size) -> TensorType:
        return _resized(y, size)

    def nest(self, types, out, **attrs: Any) -> Nest:
        (y,) = types
        count, at = _covering(out, y, **attrs)

        def body(j: Offset) -> s.Expr:
            index, inside, _ = at(j)
            return s.load(0, index, y.dtype, inside)

        return _nest(out.shape, count, "sum", body)

    def vjp(self, node, cotangents):
        there = {**node.attrs, "size": _size(node.operands[0], node.attrs)}
        return [apply(SumPool, cotangents[0], **there)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]


# ---------------------------------------------------------------------------- public functions


def _geometry(
    op: str,
    x: Tensor,
    kernel_size: object,
    stride: object,
    padding: object,
    dilation: object,
    ceil_mode: bool,
) -> tuple[dict[str, Ints], Ints]:
    """Attributes of a pooling op, and the padding after each axis."""
    if x.ndim < 3:
        raise ShapeError(f"{op}: needs x (N, C, spatial...), got {x.type}")
    rank, spatial = x.ndim - 2, x.shape[2:]
    kernel = per_axis(op, "kernel_size", kernel_size, rank, 1)
    strides = kernel if stride is None else per_axis(op, "stride", stride, rank, 1)
    dilations = per_axis(op, "dilation", dilation, rank, 1)
    low, high = per_side(op, padding, spatial, kernel, strides, dilations)
    size = []
    for n, k, t, d, lo, hi in zip(spatial, kernel, strides, dilations, low, high, strict=True):
        reach = d * (k - 1)
        if max(lo, hi) > reach:
            raise ShapeError(f"{op}: padding {padding!r} leaves windows without an element of x")
        span = n + lo + hi - reach - 1
        places = (-(-span // t) if ceil_mode else span // t) + 1
        # A last window that would begin in the padding after the axis is dropped.
        size.append(places - 1 if ceil_mode and (places - 1) * t >= n + lo else places)
    if min(size) < 1:
        raise ShapeError(f"{op}: kernel {kernel} with padding {padding!r} does not fit {x.type}")
    attrs = dict(kernel=kernel, stride=strides, low=low, dilation=dilations, size=tuple(size))
    return attrs, high


@public
def max_pool(
    x: object,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    dilation: object = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Maximum over windows of x (N, C, spatial...); padding counts as -inf.

    `stride` is the kernel size by default; `ceil_mode` keeps a last window that sticks out. The
    gradient goes to the first maximum of each window, and adds up where windows overlap.
    Catalogue 3.2.
    """
    t = tensor_argument("max_pool", x)
    attrs, _ = _geometry("max_pool", t, kernel_size, stride, padding, dilation, ceil_mode)
    return apply(MaxPool, t, **attrs)


@public
def sum_pool(
    x: object,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    ceil_mode: bool = False,
) -> Tensor:
    """Sum over windows of x (N, C, spatial...); padding counts as 0. Catalogue 3.2."""
    t = tensor_argument("sum_pool", x)
    attrs, _ = _geometry("sum_pool", t, kernel_size, stride, padding, 1, ceil_mode)
    return apply(SumPool, t, **attrs)


@public
def avg_pool(
    x: object,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: float | None = None,
) -> Tensor:
    """Mean over windows of x (N, C, spatial...).

    With `count_include_pad` a window divides by its size, cut off at the end of the padding; else
    by its number of elements of x. Catalogue 3.2.
    """
    t = tensor_argument("avg_pool", x)
    t = t if is_differentiable(t.type.dtype) else cast(t, DEFAULT_FLOAT)
    attrs, high = _geometry("avg_pool", t, kernel_size, stride, padding, 1, ceil_mode)
    divisor = divisor_override
    if divisor is None:
        divisor = _counts(t.shape[2:], attrs, high, count_include_pad)
    elif divisor == 0:
        raise ShapeError("avg_pool: divisor_override must not be 0")
    return FUNCTIONS["divide"](apply(SumPool, t, **attrs), constant(divisor, t.type.dtype))


def _counts(spatial: Sequence[int], attrs: dict[str, Ints], high: Ints, padded: bool) -> Any:
    """How many elements each window averages: one number where all agree."""
    total = np.ones((), np.int64)
    geometry = (attrs[k] for k in ("kernel", "stride", "low", "size"))
    for n, hi, k, t, lo, out in zip(spatial, high, *geometry, strict=True):
        first = np.arange(out) * t - lo
        last = np.minimum(first + k, n + hi)
        count = last - first if padded else np.minimum(last, n) - np.maximum(first, 0)
        total = total[..., None] * count
    return total.flat[0] if (total == total.flat[0]).all() else total


@public
def global_avg_pool(x: object, keepdims: bool = False) -> Tensor:
    """Mean of x (N, C, spatial...) over the spatial axes. Catalogue 3.2."""
    t = tensor_argument("global_avg_pool", x)
    if t.ndim < 3:
        raise ShapeError(f"global_avg_pool: needs x (N, C, spatial...), got {t.type}")
    return FUNCTIONS["mean"](t, tuple(range(2, t.ndim)), keepdims)


max_pool1d, max_pool2d, max_pool3d = (of_rank(max_pool, k) for k in (1, 2, 3))
avg_pool1d, avg_pool2d, avg_pool3d = (of_rank(avg_pool, k) for k in (1, 2, 3))
