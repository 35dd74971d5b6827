"""Pooling to a size that is asked for: adaptive windows, and windows of random places."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, prod

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import FUNCTIONS, Tensor, apply
from staticgraph.op import as_tensor, cast, constant, public, tensor_argument
from staticgraph.ops.gather import KNOWN, Gather
from staticgraph.ops.pool import image
from staticgraph.ops.pooling import avg_pool, max_pool
from staticgraph.ops.resize import adaptive_windows, along, mean_table
from staticgraph.ops.shape import expand_dims, reshape, squeeze
from staticgraph.ops.window import Ints, of_rank, per_axis
from staticgraph.types import DEFAULT_FLOAT, is_complex, is_differentiable


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


def _first_of_largest(x: Tensor, places: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Maxima of windows, and their row-major spatial places, the first at ties.

    `places[a]` holds the index on spatial axis a, broadcast to (N, C, windows..., offsets...).
    """
    rank, spatial = len(places), x.shape[2:]
    flat, step = None, 1
    for n, place in zip(reversed(spatial), reversed(places), strict=True):
        flat = place * step if flat is None else flat + place * step
        step *= n
    windows = (*x.shape[:2], *flat.shape[2 : 2 + rank])
    shape = (*windows, *flat.shape[2 + rank :])
    flat = reshape(FUNCTIONS["broadcast_to"](flat, shape), (*windows, prod(shape[2 + rank :])))
    image = reshape(x, (*x.shape[:2], prod(spatial)))

    def read(index: Tensor) -> Tensor:
        attrs = dict(source=(0, 1, ~0), index_axes=tuple(range(index.ndim)), mode=KNOWN)
        return apply(Gather, image, index, **attrs)

    largest = FUNCTIONS["argmax"](FUNCTIONS["stop_gradient"](read(flat)), -1, True)
    index = squeeze(FUNCTIONS["gather"](flat, largest, -1), -1)
    return read(index), index


def _spread(values: Tensor, axis: int, rank: int) -> Tensor:
    """(..., windows, offsets) of one axis among the windows and offsets of all."""
    lead = values.shape[:-2]
    sizes = [1] * (2 * rank)
    sizes[axis], sizes[rank + axis] = values.shape[-2:]
    return reshape(values, (*lead, *sizes))


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
    places = []
    for a, (n, o) in enumerate(zip(spatial, size, strict=True)):
        start, stop = adaptive_windows(n, o)
        offset = np.arange(int((stop - start).max()))
        # A shorter window repeats its last element, which never comes first.
        index = np.minimum(start[:, None] + offset, stop[:, None] - 1)
        places.append(_spread(constant(index[None, None]), a, len(size)))
    y, index = _first_of_largest(t, places)
    return (y, index) if return_indices else y


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
    places = []
    for a, (n, k, o) in enumerate(zip(spatial, kernel, size, strict=True)):
        column = 1 - a if rank == 2 else a
        start = _starts(u[:, :, column : column + 1], n, k, o)
        places.append(_spread(expand_dims(start, -1) + as_tensor(np.arange(k)), a, rank))
    y, index = _first_of_largest(t, places)
    return (y, index) if return_indices else y


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
