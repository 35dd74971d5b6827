"""Pooling by its public names: maximum, sum, mean and power mean over windows, and over all."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.operands import cast, constant, normalize_axis, tensor_argument
from staticgraph.ops.create import iota
from staticgraph.ops.pool import (
    Attrs,
    MaxPool,
    MaxPoolIndex,
    SumPool,
    SumPoolAdjoint,
    image,
    layout,
    windows,
)
from staticgraph.ops.window import Ints, of_rank, per_axis
from staticgraph.registry import FUNCTIONS, public
from staticgraph.tensor import Tensor
from staticgraph.types import DEFAULT_FLOAT, is_differentiable


def _flat_index(place: Tensor, spatial: Ints, attrs: Attrs) -> Tensor:
    """Row-major place in the spatial axes of x for kernel offsets in windows."""
    first, inner, step, total = place.ndim - len(spatial), 1, 1, 0
    first -= attrs.get("last", 0)
    geometry = [attrs[k] for k in ("kernel", "stride", "low", "dilation")]
    each = list(enumerate(zip(spatial, *geometry, strict=True)))
    for a, (n, k, t, lo, d) in reversed(each):
        offset = place // inner if inner > 1 else place
        offset = offset % k if a else offset
        window = iota(place.shape, first + a, place.type.dtype)
        total = total + (window * t + (offset * d - lo)) * step
        inner, step = inner * k, step * n
    return cast(total, "int64")


@public
def max_pool(
    x: object,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    dilation: object = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    channel_last: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y[o] = max over k of x[o stride - padding + k dilation]; padding counts as -inf.

    x is (N, C, spatial...), with `channel_last` (N, spatial..., C), of real numbers. `stride` is
    the kernel size by default, `padding` as in `conv`; `ceil_mode` keeps a last window that sticks
    out. With `return_indices` also the row-major spatial place of each maximum, int64, which
    `max_unpool` takes. The gradient goes to the first maximum of each window (a nan is the
    greatest), and adds up where windows overlap; the second is a gather there. Raises ShapeError
    where the kernel does not fit or padding fills a window. BHG 3.1, BPR 3.1, catalogue 3.2.
    """
    t, spatial = image("max_pool", x, channel_last)
    attrs, _ = windows("max_pool", spatial, kernel_size, stride, padding, dilation, ceil_mode)
    attrs = layout(attrs, channel_last)
    y = apply(MaxPool, t, **attrs)
    if not return_indices:
        return y
    return y, _flat_index(apply(MaxPoolIndex, t, y, **attrs), spatial, attrs)


@public
def sum_pool(
    x: object,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    ceil_mode: bool = False,
    channel_last: bool = False,
) -> Tensor:
    """y[o] = sum over k of x[o stride - padding + k]; padding counts as 0.

    Numbers of any dtype; arguments as in `max_pool`. Gradient: `sum_pool_adjoint`. Raises
    ShapeError where the kernel does not fit or padding fills a window. BHG 3.4, catalogue 3.2.
    """
    t, spatial = image("sum_pool", x, channel_last)
    attrs, _ = windows("sum_pool", spatial, kernel_size, stride, padding, 1, ceil_mode)
    return apply(SumPool, t, **layout(attrs, channel_last))


def _spread(op: str, y: Tensor, size: Ints, attrs: Attrs, channel_last: bool) -> Tensor:
    """The adjoint of sum_pool for x of spatial `size`."""
    _, places = image(op, y, channel_last)
    if places != attrs["size"]:
        raise ShapeError(f"{op}: an x of size {size} has {attrs['size']} windows, got {y.type}")
    return apply(SumPoolAdjoint, y, **{**layout(attrs, channel_last), "size": size})


@public
def sum_pool_adjoint(
    y: object,
    size: object,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    ceil_mode: bool = False,
    channel_last: bool = False,
) -> Tensor:
    """x[i] = sum of y[o] over the windows o that hold i: the adjoint of `sum_pool` on x of `size`.

    `size` is the spatial size of x; other arguments are those of `sum_pool`, which is its
    gradient. Raises ShapeError where y has another number of windows. Catalogue 3.2, 8.
    """
    op = "sum_pool_adjoint"
    t, places = image(op, y, channel_last)
    spatial = per_axis(op, "size", size, len(places), 1)
    attrs, _ = windows(op, spatial, kernel_size, stride, padding, 1, ceil_mode)
    return _spread(op, t, spatial, attrs, channel_last)


def _divided(
    op: str,
    t: Tensor,
    spatial: Ints,
    attrs: Attrs,
    high: Ints,
    padded: bool,
    override: object,
    channel_last: bool,
) -> Tensor:
    """t, one value per window, over the number of elements that each averages."""
    if override is None:
        divisor = _counts(spatial, attrs, high, padded)
        divisor = divisor[..., None] if channel_last and divisor.ndim else divisor
    elif override == 0:
        raise ShapeError(f"{op}: divisor_override must not be 0")
    else:
        divisor = override
    return FUNCTIONS["divide"](t, constant(divisor, t.type.dtype))


def _counts(spatial: Sequence[int], attrs: Attrs, high: Ints, padded: bool) -> np.ndarray:
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
def avg_pool(
    x: object,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: float | None = None,
    channel_last: bool = False,
) -> Tensor:
    """y[o] = sum over k of x[o stride - padding + k] / D[o]; padding counts as 0.

    D is the size of the window, cut off at the end of the padding after the axis; without
    `count_include_pad` the number of its elements in x; or `divisor_override`. Arguments as in
    `max_pool`; integers become float32. Gradient: `avg_pool_adjoint`. Raises ShapeError where the
    kernel does not fit, padding fills a window or the divisor is 0. BHG 3.2, BPR 3.3,
    catalogue 3.2.
    """
    op = "avg_pool"
    t, spatial = image(op, x, channel_last)
    t = t if is_differentiable(t.type.dtype) else cast(t, DEFAULT_FLOAT)
    attrs, high = windows(op, spatial, kernel_size, stride, padding, 1, ceil_mode)
    y = apply(SumPool, t, **layout(attrs, channel_last))
    given = (count_include_pad, divisor_override, channel_last)
    return _divided(op, y, spatial, attrs, high, *given)


@public
def avg_pool_adjoint(
    y: object,
    size: object,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: float | None = None,
    channel_last: bool = False,
) -> Tensor:
    """x[i] = sum of y[o] / D[o] over the windows o that hold i: the adjoint of `avg_pool`.

    `size` is the spatial size of x; other arguments are those of `avg_pool`, which is its
    gradient. Raises ShapeError where y has another number of windows. Catalogue 3.2, 8.
    """
    op = "avg_pool_adjoint"
    t, places = image(op, y, channel_last)
    t = t if is_differentiable(t.type.dtype) else cast(t, DEFAULT_FLOAT)
    spatial = per_axis(op, "size", size, len(places), 1)
    attrs, high = windows(op, spatial, kernel_size, stride, padding, 1, ceil_mode)
    given = (count_include_pad, divisor_override, channel_last)
    return _spread(op, _divided(op, t, spatial, attrs, high, *given), spatial, attrs, channel_last)


# ---------------------------------------------------------------------------- power means


def _powers(op: str, t: Tensor, p: object) -> Tensor:
    """x to the p, as floats."""
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not (p > 0 and isfinite(p)):
        raise GraphTypeError(f"{op}: p is a number > 0, got {p!r}")
    t = t if is_differentiable(t.type.dtype) else cast(t, DEFAULT_FLOAT)
    return t if p == 1 else FUNCTIONS["power"](t, p)


def _root(total: Tensor, p: float) -> Tensor:
    """total to the 1 / p, with gradient 0 at 0, where that of the power is infinite."""
    if p == 1:
        return total
    where, empty = FUNCTIONS["where"], FUNCTIONS["equal"](total, 0)
    return where(empty, 0, FUNCTIONS["power"](where(empty, 1, total), 1 / p))


@public
def lp_pool(
    x: object,
    p: float,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    ceil_mode: bool = False,
    channel_last: bool = False,
) -> Tensor:
    """y[o] = (sum over k of x[o stride - padding + k]^p)^(1 / p), without absolute values.

    Arguments as in `sum_pool`; integers become float32. Gradient: dy (x / y)^(p - 1), 0 where y
    is 0, added up where windows overlap. Raises GraphTypeError unless p > 0, ShapeError where the
    kernel does not fit. Catalogue 4.
    """
    t, _ = image("lp_pool", x, channel_last)
    powers = _powers("lp_pool", t, p)
    return _root(sum_pool(powers, kernel_size, stride, padding, ceil_mode, channel_last), p)


@public
def feature_lp_pool(x: object, p: float, width: int, stride: int = 1, axis: int = 1) -> Tensor:
    """y[o] = (sum over i < width of x[o stride + i]^p)^(1 / p) along the axis of channels.

    Without absolute values; integers become float32. Gradient as in `lp_pool`. Raises
    GraphTypeError unless p > 0, ShapeError where the axis is shorter than `width`. Catalogue 4
    (FeatureLPPooling.c).
    """
    op = "feature_lp_pool"
    t = tensor_argument(op, x)
    a = normalize_axis(op, axis, t.ndim)
    attrs, _ = windows(op, t.shape[a : a + 1], width, stride)
    return _root(apply(SumPool, _powers(op, t, p), **{**attrs, "last": t.ndim - 1 - a}), p)


# ---------------------------------------------------------------------------- over all places


@public
def global_avg_pool(x: object, keepdims: bool = False, channel_last: bool = False) -> Tensor:
    """The mean of x (N, C, spatial...) over the spatial axes; integers become float32.

    Gradient: dy over the number of places, everywhere. Raises ShapeError without spatial axes.
    BHG 3.3, catalogue 3.2.
    """
    t, _ = image("global_avg_pool", x, channel_last)
    first = 1 if channel_last else 2
    return FUNCTIONS["mean"](t, tuple(range(first, first + t.ndim - 2)), keepdims)


@public
def global_max_pool(x: object, keepdims: bool = False, channel_last: bool = False) -> Tensor:
    """The maximum of x (N, C, spatial...) over the spatial axes.

    Real numbers. The gradient goes to the first maximum, as in `max_pool`. Raises ShapeError
    without spatial axes or places.
    """
    t, spatial = image("global_max_pool", x, channel_last)
    y = max_pool(t, spatial, channel_last=channel_last)
    first = 1 if channel_last else 2
    return y if keepdims else FUNCTIONS["squeeze"](y, tuple(range(first, first + t.ndim - 2)))


max_pool1d, max_pool2d, max_pool3d = (of_rank(max_pool, k) for k in (1, 2, 3))
avg_pool1d, avg_pool2d, avg_pool3d = (of_rank(avg_pool, k) for k in (1, 2, 3))
lp_pool1d, lp_pool2d, lp_pool3d = (of_rank(lp_pool, k) for k in (1, 2, 3))
