"""Pooling to a size that is asked for: adaptive windows, and windows of random places."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, prod

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import Node, apply
from staticgraph.nest import Nest, axes, broadcast_index, identity
from staticgraph.op import NestOp
from staticgraph.operands import cast, constant, tensor_argument
from staticgraph.ops.gather import KNOWN, Gather, ScatterAdd
from staticgraph.ops.pool import image
from staticgraph.ops.pooling import avg_pool, max_pool
from staticgraph.ops.resize import adaptive_windows, along, mean_table
from staticgraph.ops.shape import linear_index, reshape
from staticgraph.ops.window import Ints, Offset, of_rank, per_axis, window_nest
from staticgraph.registry import FUNCTIONS, public, register
from staticgraph.tensor import Tensor
from staticgraph.types import (
    DEFAULT_FLOAT,
    TensorType,
    is_bool,
    is_complex,
    is_differentiable,
)


class _Windows(NestOp):
    """Windows whose places are operands.

    After x (N, C, spatial...) and `more` operands come, for each spatial axis, the first elements
    of its windows and their ends, int64 and of shape (N or 1, C or 1, windows).
    """

    more: int

    def result(self, types: Sequence[TensorType], kernel: Ints, dtype: str) -> TensorType:
        x, bounds = types[0], types[1 + self.more :]
        given = [t.dtype for t in bounds]
        sizes = [t.shape[-1] for t in bounds[::2]]
        if x.ndim != 2 + len(kernel) or given != ["int64"] * (2 * len(kernel)):
            raise ShapeError(f"{self.name}: bounds {bounds} and kernel {kernel} do not fit {x}")
        return TensorType(dtype, (*x.shape[:2], *sizes))

    def at(self, types: Sequence[TensorType], offset: Offset) -> tuple[list[s.Expr], s.Expr]:
        """Index into x of an offset in the window at the axes of the nest, and if it is inside."""
        n, c, *place = axes(types[0].ndim)
        index, inside = [n, c], s.const(True, "bool")
        for a, (o, k) in enumerate(zip(place, offset, strict=True)):
            first, end = (
                s.load(j, broadcast_index(types[j].shape, (n, c, o)), "int64")
                for j in range(1 + self.more + 2 * a, 3 + self.more + 2 * a)
            )
            index.append(first + k)
            inside = s.call("logical_and", inside, first + k < end)
        return index, inside


@register
class WindowMax(_Windows):
    """y[o] = maximum of x over window o, of at most `kernel` elements."""

    name, more = "window_max", 0

    def infer(self, x: TensorType, *bounds: TensorType, kernel: Ints) -> TensorType:
        if is_complex(x.dtype) or is_bool(x.dtype):
            raise GraphTypeError(f"{self.name}: needs real numbers, got {x}")
        return self.result((x, *bounds), kernel, x.dtype)

    def nest(self, types, out, *, kernel: Ints) -> Nest:
        lowest = identity("max", out.dtype)

        def body(offset: Offset) -> s.Expr:
            index, inside = self.at(types, offset)
            return s.load(0, index, out.dtype, inside, lowest)

        return window_nest(out.shape, kernel, "max", body)

    def vjp(self, node, cotangents):
        x, *bounds = node.operands
        place, attrs = _flat(_places(node), node.results[0]), dict(shape=_plane(x))
        g = _flat(cotangents[0], node.results[0])
        back = apply(ScatterAdd, g, place, **attrs, **_ALONG)
        return [reshape(back, x.shape), *(None for _ in bounds)]

    def jvp(self, node, tangents):
        x, y = node.operands[0], node.results[0]
        plane = reshape(tangents[0], _plane(x))
        return [reshape(apply(Gather, plane, _flat(_places(node), y), **_ALONG), y.shape)]


@register
class WindowMaxIndex(_Windows):
    """The first row-major place in the spatial axes of x where window o has its maximum y[o].

    A nan is greatest. Places in a window grow with the offset, so the first is the smallest.
    """

    name, more = "window_max_index", 1

    def infer(self, x: TensorType, y: TensorType, *bounds: TensorType, kernel: Ints) -> TensorType:
        return self.result((x, y, *bounds), kernel, "int64")

    def nest(self, types, out, *, kernel: Ints) -> Nest:
        x, y, best = types[0], types[1], s.load(1, axes(out.ndim), types[1].dtype)
        nowhere = s.const(prod(x.shape[2:]), "int64")

        def body(offset: Offset) -> s.Expr:
            index, inside = self.at(types, offset)
            value = s.load(0, index, x.dtype, inside)
            found = s.call("equal", value, best)
            if is_differentiable(y.dtype):
                found = s.call("logical_or", found, s.call("isnan", value))
            here = s.call("logical_and", inside, found)
            return s.where(here, linear_index(index[2:], x.shape[2:]), nowhere)

        return window_nest(out.shape, kernel, "min", body)

    def vjp(self, node, cotangents):
        return [None] * len(node.operands)

    def jvp(self, node, tangents):
        return [None]


#: reading and adding at row-major places of planes (N, C, elements)
_ALONG = dict(source=(0, 1, ~0), index_axes=(0, 1, 2), mode=KNOWN)


def _plane(x: Tensor) -> Ints:
    return (*x.shape[:2], prod(x.shape[2:]))


def _flat(t: Tensor, windows: Tensor) -> Tensor:
    return reshape(t, _plane(windows))


def _places(node: Node) -> Tensor:
    """The places that a maximum over windows comes from."""
    x, *bounds = node.operands
    return apply(WindowMaxIndex, x, node.results[0], *bounds, **node.attrs)


# ---------------------------------------------------------------------------- public functions


def _wanted(op: str, spatial: Ints, output_size: object) -> Ints:
    """The size of the result; None keeps that of x."""
    items = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * len(spatial)
    if len(items) == len(spatial):
        items = tuple(n if v is None else v for n, v in zip(spatial, items, strict=True))
    size = per_axis(op, "output_size", items, len(spatial), 1)
    if 0 in spatial:
        raise ShapeError(f"{op}: x has no elements on an axis of size {spatial}")
    return size


@public
def adaptive_avg_pool(x: object, output_size: object) -> Tensor:
    """Means over windows floor(o n / size) .. ceil((o + 1) n / size) of x (N, C, spatial...).

    `output_size` is an int or one per axis, None for the size of x; integers become float32.
    Gradient: dy[o] over the size of the window, added up where windows overlap. Raises ShapeError
    for sizes that do not fit. Catalogue 4 (SpatialAdaptiveAveragePooling.c).
    """
    op = "adaptive_avg_pool"
    t, spatial = image(op, x)
    t = t if is_differentiable(t.type.dtype) else cast(t, DEFAULT_FLOAT)
    size = _wanted(op, spatial, output_size)
    if not any(n % o for n, o in zip(spatial, size, strict=True)):
        return avg_pool(t, tuple(n // o for n, o in zip(spatial, size, strict=True)))
    for a, (n, o) in enumerate(zip(spatial, size, strict=True)):
        if n != o:
            t = along(t, 2 + a, n, mean_table(n, o))
    return t


@public
def adaptive_max_pool(
    x: object, output_size: object, return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Maxima over windows floor(o n / size) .. ceil((o + 1) n / size) of x (N, C, spatial...).

    Real numbers; `output_size` as in `adaptive_avg_pool`. With `return_indices` also the row-major
    spatial place of each maximum, int64. The gradient goes to the first maximum. Raises ShapeError
    for sizes that do not fit. Catalogue 4 (SpatialAdaptiveMaxPooling.c).
    """
    op = "adaptive_max_pool"
    t, spatial = _real(op, x)
    size = _wanted(op, spatial, output_size)
    if not any(n % o for n, o in zip(spatial, size, strict=True)):
        kernel = tuple(n // o for n, o in zip(spatial, size, strict=True))
        return max_pool(t, kernel, return_indices=return_indices)
    bounds, kernel = [], []
    for n, o in zip(spatial, size, strict=True):
        start, stop = adaptive_windows(n, o)
        bounds += [constant(start[None, None]), constant(stop[None, None])]
        kernel.append(int((stop - start).max()))
    return _maxima(t, bounds, kernel, return_indices)


def _maxima(
    x: Tensor, bounds: Sequence[Tensor], kernel: Sequence[int], indices: bool
) -> Tensor | tuple[Tensor, Tensor]:
    y = apply(WindowMax, x, *bounds, kernel=tuple(kernel))
    return (y, _places(y.node)) if indices else y


def _real(op: str, x: object) -> tuple[Tensor, Ints]:
    t, spatial = image(op, x)
    if is_complex(t.type.dtype):
        raise GraphTypeError(f"{op}: needs real numbers, got {t.type}")
    return t, spatial


def _fractional_size(
    spatial: Ints, kernel: Ints, output_size: object, output_ratio: object
) -> Ints:
    """The size of the result of fractional_max_pool."""
    op, rank = "fractional_max_pool", len(spatial)
    if (output_size is None) == (output_ratio is None):
        raise GraphTypeError(f"{op}: give either output_size or output_ratio")
    if output_ratio is not None:
        ratios = output_ratio if isinstance(output_ratio, (tuple, list)) else [output_ratio] * rank
        if len(ratios) != rank or not all(isinstance(r, float) and 0 < r < 1 for r in ratios):
            raise GraphTypeError(f"{op}: output_ratio is between 0 and 1, got {output_ratio!r}")
        output_size = tuple(floor(n * r) for n, r in zip(spatial, ratios, strict=True))
    size = per_axis(op, "output_size", output_size, rank, 1)
    if any(o + k - 1 > n for n, k, o in zip(spatial, kernel, size, strict=True)):
        raise ShapeError(f"{op}: kernel {kernel} has no {size} windows in size {spatial}")
    return size


@public
def fractional_max_pool(
    x: object,
    kernel_size: object,
    output_size: object = None,
    output_ratio: object = None,
    return_indices: bool = False,
    samples: object = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Maxima over windows at pseudo-random places of x (N, C, 2 or 3 spatial axes).

    Window i of an axis of n elements begins at int((i + u) a) - int(u a), a = (n - k) / (size - 1),
    the last one at n - k. `samples` (N, C, axes), floats in [0, 1) such as `sg.random.uniform`
    gives, hold u: for two axes of the last one first, for three in their order, as in PyTorch.
    `output_ratio` stands for floor(n ratio). With `return_indices` also the row-major places,
    int64. The gradient goes to the first maximum. Raises ShapeError where windows or samples do
    not fit. Catalogue 4 (SpatialFractionalMaxPooling.c).
    """
    op = "fractional_max_pool"
    t, spatial = _real(op, x)
    rank = len(spatial)
    if rank not in (2, 3):
        raise ShapeError(f"{op}: x needs 2 or 3 spatial axes, got {t.type}")
    kernel = per_axis(op, "kernel_size", kernel_size, rank, 1)
    size = _fractional_size(spatial, kernel, output_size, output_ratio)
    if samples is None:
        raise GraphTypeError(f"{op}: needs samples (N, C, {rank}), such as sg.random.uniform gives")
    u = tensor_argument(op, samples, "samples")
    if u.shape != (*t.shape[:2], rank) or not is_differentiable(u.type.dtype):
        raise ShapeError(
            f"{op}: samples are floats of shape {(*t.shape[:2], rank)} for x {t.type}, got {u.type}"
        )
    u = FUNCTIONS["stop_gradient"](u)
    bounds = []
    for a, (n, k, o) in enumerate(zip(spatial, kernel, size, strict=True)):
        column = 1 - a if rank == 2 else a
        start = _starts(u[:, :, column : column + 1], n, k, o)
        bounds += [start, start + k]
    return _maxima(t, bounds, kernel, return_indices)


def _starts(u: Tensor, n: int, k: int, size: int) -> Tensor:
    """First elements (N, C, size) of the windows on one axis."""
    step = constant((n - k) / max(size - 1, 1), u.type.dtype)
    place = constant(np.arange(size), u.type.dtype)
    start = cast((place + u) * step, "int64") - cast(u * step, "int64")
    last = constant(np.arange(size) == size - 1)
    # Rounding, or a sample outside [0, 1), must not lead out of x.
    return FUNCTIONS["where"](last, n - k, FUNCTIONS["clip"](start, 0, n - k))


adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (
    of_rank(adaptive_avg_pool, k) for k in (1, 2, 3)
)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = (
    of_rank(adaptive_max_pool, k) for k in (1, 2, 3)
)
fractional_max_pool2d, fractional_max_pool3d = (of_rank(fractional_max_pool, k) for k in (2, 3))
