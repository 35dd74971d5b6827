"""Unpooling: what pooling made small made large again, by places, copies or shares."""

from __future__ import annotations

from math import prod

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.operands import cast
from staticgraph.ops.create import zeros
from staticgraph.ops.pool import SumPoolAdjoint, image, layout
from staticgraph.ops.shape import broadcast_to, reshape
from staticgraph.ops.window import Ints, of_rank, per_axis
from staticgraph.registry import FUNCTIONS, public
from staticgraph.tensor import Tensor
from staticgraph.types import DEFAULT_FLOAT, is_differentiable


@public
def unpool(x: object, kernel_size: object, channel_last: bool = False) -> Tensor:
    """y[k i + j] = x[i] for 0 <= j < k: each element of x (N, C, spatial...) as a block.

    Numbers of any dtype; sizes grow by `kernel_size`, an int or one per axis. The adjoint of
    `sum_pool` with windows of k side by side, which is its gradient. Raises ShapeError without
    spatial axes. BHG 3.5, catalogue 3.2.
    """
    t, spatial = image("unpool", x, channel_last)
    kernel = per_axis("unpool", "kernel_size", kernel_size, len(spatial), 1)
    size = tuple(n * k for n, k in zip(spatial, kernel, strict=True))
    still = (0,) * len(kernel)
    ones = (1,) * len(kernel)
    attrs = dict(kernel=kernel, stride=kernel, low=still, dilation=ones, size=size)
    return apply(SumPoolAdjoint, t, **layout(attrs, channel_last))


@public
def avg_unpool(x: object, kernel_size: object, channel_last: bool = False) -> Tensor:
    """y[k i + j] = x[i] / prod(k) for 0 <= j < k: each element of x shared by a block.

    The adjoint of `avg_pool` with windows of k side by side, which is its gradient; integers
    become float32. Raises ShapeError without spatial axes. BPR 3.4, catalogue 3.2.
    """
    t, spatial = image("avg_unpool", x, channel_last)
    t = t if is_differentiable(t.type.dtype) else cast(t, DEFAULT_FLOAT)
    kernel = per_axis("avg_unpool", "kernel_size", kernel_size, len(spatial), 1)
    return unpool(t / prod(kernel), kernel, channel_last)


def _unpooled(
    t: Tensor, kernel_size: object, stride: object, padding: object, size: object
) -> Ints:
    """The spatial size of the result of max_unpool."""
    op, spatial = "max_unpool", t.shape[2:]
    rank = len(spatial)
    if size is not None:
        given = tuple(size) if isinstance(size, (tuple, list)) else size
        if isinstance(given, tuple) and len(given) == t.ndim:
            given = given[2:]
        return per_axis(op, "output_size", given, rank, 1)
    if kernel_size is None:
        raise GraphTypeError(f"{op}: give kernel_size or output_size")
    kernel = per_axis(op, "kernel_size", kernel_size, rank, 1)
    strides = kernel if stride is None else per_axis(op, "stride", stride, rank, 1)
    pads = per_axis(op, "padding", padding, rank, 0)
    return tuple(
        (n - 1) * s - 2 * p + k for n, s, p, k in zip(spatial, strides, pads, kernel, strict=True)
    )


@public
def max_unpool(
    x: object,
    indices: object,
    kernel_size: object = None,
    stride: object = None,
    padding: object = 0,
    output_size: object = None,
) -> Tensor:
    """Zeros with x at `indices`, the places `max_pool(..., return_indices=True)` gave.

    x and indices are (N, C, spatial...), indices row-major in the spatial axes of the result. Its
    size is (n - 1) stride - 2 padding + kernel, or `output_size`. A place that is named several
    times gets the mean of its values (windows that overlap share a maximum). Gradient: read at the
    places. Raises ShapeError where the shapes differ, NumericError when it runs where an index is
    outside. BPR 3.2, catalogue 3.2, 4.
    """
    op = "max_unpool"
    t, spatial = image(op, x)
    index, _ = image(op, indices)
    if index.shape != t.shape:
        raise ShapeError(f"{op}: x and indices must have one shape, got {t.type} and {index.type}")
    size = _unpooled(t, kernel_size, stride, padding, output_size)
    lead = t.shape[:2]
    values, places = (reshape(v, (*lead, prod(spatial))) for v in (t, index))
    scatter, gather = FUNCTIONS["scatter_add"], FUNCTIONS["gather"]
    empty = zeros((*lead, prod(size)), t.type.dtype)
    if is_differentiable(t.type.dtype):
        once = broadcast_to(cast(1, t.type.dtype), values.shape)
        values = values / gather(scatter(empty, places, once, 2), places, 2)
    return reshape(scatter(empty, places, values, 2), (*lead, *size))


max_unpool1d, max_unpool2d, max_unpool3d = (of_rank(max_unpool, k) for k in (1, 2, 3))
