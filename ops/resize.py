"""Resizing: every element of the result is a weighted sum of a few elements along each axis.

Which elements and which weights depends on sizes and mode alone, so a table says it, made while
the graph is built from integers, without rounding of a coordinate. A table transposed is a table
again: one op is its own adjoint, and no mode needs a gradient of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor, isfinite

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.nest import Nest, axes
from staticgraph.op import NestOp
from staticgraph.operands import cast, constant, tensor_argument
from staticgraph.ops.window import Offset, per_axis, window_nest
from staticgraph.registry import public, register
from staticgraph.tensor import Tensor
from staticgraph.types import DEFAULT_FLOAT, TensorType, is_bool, is_differentiable

#: index and weight of each tap of each element, [taps, elements]
Table = tuple[np.ndarray, np.ndarray]


@register
class Resample(NestOp):
    """y[..., o, ...] = sum over t of weight[t, o] x[..., index[t, o], ...] along one axis.

    A tap of weight 0 is none. The operands after x are this table and its transpose, which are
    swapped in the adjoint.
    """

    name = "resample"

    def infer(
        self, x: TensorType, index: TensorType, weight: TensorType, *back: TensorType, axis: int
    ) -> TensorType:
        if is_bool(x.dtype):
            raise GraphTypeError(f"resample: needs numbers, got {x}")
        sizes = [index.shape, back[0].shape] if len(back) == 2 else []
        given = [(t.dtype, t.shape) for t in (index, weight, *back)]
        wanted = [(d, shape) for shape in sizes for d in ("int64", x.dtype)]
        if given != wanted or not 0 <= axis < x.ndim or x.shape[axis] != back[0].shape[1]:
            raise ShapeError(f"resample: tables {given} do not fit axis {axis} of {x}")
        return TensorType(x.dtype, (*x.shape[:axis], index.shape[1], *x.shape[axis + 1 :]))

    def nest(self, types, out, *, axis: int) -> Nest:
        x, table, *_ = types
        place = axes(out.ndim)

        def body(offset: Offset) -> s.Expr:
            (t,) = offset
            weight = s.load(2, (t, place[axis]), x.dtype)
            used = s.call("not_equal", weight, 0)
            at = (*place[:axis], s.load(1, (t, place[axis]), "int64"), *place[axis + 1 :])
            return weight * s.load(0, at, x.dtype, used)

        return window_nest(out.shape, (table.shape[0],), "sum", body)

    def vjp(self, node, cotangents):
        _, index, weight, *back = node.operands
        pulled = apply(self, cotangents[0], *back, index, weight, **node.attrs)
        return [pulled, None, None, None, None]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], *node.operands[1:], **node.attrs)]


# ---------------------------------------------------------------------------- tables


def _collected(rows: int, row: np.ndarray, column: np.ndarray, weight: np.ndarray) -> Table:
    """The entries of each row side by side, padded with weight 0."""
    order = np.argsort(row, kind="stable")
    row, column, weight = row[order], column[order], weight[order]
    count = np.bincount(row, minlength=rows)
    tap = np.arange(row.size) - np.repeat(np.cumsum(count) - count, count)
    shape = (max(1, int(count.max(initial=0))), rows)
    index, found = np.zeros(shape, np.int64), np.zeros(shape)
    index[tap, row], found[tap, row] = column, weight
    return index, found


def _both(n: int, index: np.ndarray, weight: np.ndarray) -> tuple[Table, Table]:
    """The table of taps into n elements, equal places joined, and its transpose."""
    size = index.shape[1]
    places, which = np.unique(np.arange(size) * n + index, return_inverse=True)
    total = np.bincount(which.ravel(), weight.ravel())
    row, column = np.divmod(places[total != 0], n)
    total = total[total != 0]
    return _collected(size, row, column, total), _collected(n, column, row, total)


def along(x: Tensor, axis: int, n: int, table: Table, *, adjoint: bool = False) -> Tensor:
    """x resampled along an axis by a table of taps into n elements, or by its transpose."""
    pair = _both(n, *table)
    operands = [
        constant(values, dtype)
        for half in (pair[::-1] if adjoint else pair)
        for values, dtype in zip(half, ("int64", x.type.dtype), strict=True)
    ]
    return apply(Resample, x, *operands, axis=axis)


def _source(n: int, size: int, align: bool) -> tuple[np.ndarray, int]:
    """Numerators and denominator of the source coordinate of each element."""
    i = np.arange(size)
    if align:
        return i * (n - 1), max(size - 1, 1)
    return (2 * i + 1) * n - size, 2 * size


def _linear(n: int, size: int, align: bool) -> Table:
    above, below = _source(n, size, align)
    first, rest = np.divmod(np.maximum(above, 0), below)
    index = np.stack([first, np.minimum(first + 1, n - 1)])
    return index, np.stack([below - rest, rest]) / below


def _cubic(n: int, size: int, align: bool) -> Table:
    """Keys' kernel with a = -3/4 on four elements, the border repeated."""
    above, below = _source(n, size, align)
    first, rest = np.divmod(above, below)
    a, f = -0.75, rest / below
    inner, outer = np.stack([f, 1 - f]), np.stack([1 + f, 2 - f])
    near = ((a + 2) * inner - (a + 3)) * inner**2 + 1
    far = a * (((outer - 5) * outer + 8) * outer - 4)
    index = np.clip(first + np.arange(-1, 3)[:, None], 0, n - 1)
    return index, np.stack([far[0], near[0], near[1], far[1]])


def _nearest(n: int, size: int, align: bool) -> Table:
    index = np.minimum(np.arange(size) * n // size, n - 1)
    return index[None], np.ones((1, size))


def _nearest_exact(n: int, size: int, align: bool) -> Table:
    index = np.minimum((2 * np.arange(size) + 1) * n // (2 * size), n - 1)
    return index[None], np.ones((1, size))


def mean_table(n: int, size: int, align: bool = False) -> Table:
    """Means over floor(o n / size) .. ceil((o + 1) n / size): adaptive average pooling."""
    start, stop = adaptive_windows(n, size)
    count = stop - start
    offset = np.arange(int(count.max()))[:, None]
    return np.minimum(start + offset, n - 1), (offset < count) / count


def adaptive_windows(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """First element of each of `size` windows over n elements, and the one after its last."""
    o = np.arange(size)
    return o * n // size, -(-(o + 1) * n // size)


#: table of a mode, number of spatial axes it asks for (0: any), whether it takes align_corners
_MODES: dict[str, tuple[Callable[[int, int, bool], Table], int, bool]] = {
    "nearest": (_nearest, 0, False),
    "nearest-exact": (_nearest_exact, 0, False),
    "linear": (_linear, 0, True),
    "bilinear": (_linear, 2, True),
    "trilinear": (_linear, 3, True),
    "cubic": (_cubic, 0, True),
    "bicubic": (_cubic, 2, True),
    "area": (mean_table, 0, False),
}


# ---------------------------------------------------------------------------- public functions


def _sizes(op: str, spatial: Sequence[int], size: object, scale_factor: object) -> tuple[int, ...]:
    """The spatial size of the result."""
    if (size is None) == (scale_factor is None):
        raise GraphTypeError(f"{op}: give either size or scale_factor")
    if size is not None:
        return per_axis(op, "size", size, len(spatial), 1)
    scales = (
        scale_factor if isinstance(scale_factor, (tuple, list)) else [scale_factor] * len(spatial)
    )
    if len(scales) != len(spatial) or any(
        isinstance(v, bool) or not isinstance(v, (int, float)) or not (v > 0 and isfinite(v))
        for v in scales
    ):
        raise GraphTypeError(
            f"{op}: scale_factor is a number > 0 or one per spatial axis, got {scale_factor!r}"
        )
    sizes = tuple(floor(n * v) for n, v in zip(spatial, scales, strict=True))
    if min(sizes) < 1:
        raise ShapeError(f"{op}: scale_factor {scale_factor!r} leaves nothing of size {spatial}")
    return sizes


def _resized(
    op: str,
    x: object,
    mode: object,
    align_corners: object,
    sizes: Callable[[Tensor], tuple],
    *,
    adjoint: bool,
) -> Tensor:
    t = tensor_argument(op, x)
    if mode not in _MODES:
        raise GraphTypeError(f"{op}: mode is one of {', '.join(_MODES)}, got {mode!r}")
    table, rank, aligns = _MODES[mode]
    if t.ndim < 3 or rank not in (0, t.ndim - 2) or 0 in t.shape[2:]:
        raise ShapeError(
            f"{op}: mode {mode!r} needs x (N, C, {f'{rank} axes' if rank else 'spatial...'}),"
            f" got {t.type}"
        )
    if align_corners and not aligns:
        raise GraphTypeError(f"{op}: mode {mode!r} takes no align_corners")
    if mode[:7] != "nearest" and not is_differentiable(t.type.dtype):
        t = cast(t, DEFAULT_FLOAT)
    wanted = sizes(t)
    # Axes that shrink come first. Along the last axis elements are gathered, along others whole
    # rows move: it takes its turn where the result is smallest.
    ratio = {a: wanted[a - 2] / t.shape[a] for a in range(2, t.ndim)}
    order = sorted(ratio, key=lambda a: (ratio[a], a if ratio[a] < 1 else -a))
    for a in order:
        ends = (t.shape[a], wanted[a - 2])
        if ends[0] != ends[1]:
            n, size = ends[::-1] if adjoint else ends
            t = along(t, a, n, table(n, size, bool(align_corners)), adjoint=adjoint)
    return t


@public
def interpolate(
    x: object,
    size: object = None,
    scale_factor: object = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Tensor:
    """x (N, C, spatial...) in another spatial size, with PyTorch's arguments.

    Give `size`, or `scale_factor` for sizes floor(n scale_factor); coordinates follow from the
    sizes, as with PyTorch's recompute_scale_factor. Per axis of n elements, element i of `size`
    comes from the source coordinate c = (i + 1/2) n / size - 1/2, or i (n - 1) / (size - 1) with
    `align_corners`. 'linear' ('bilinear', 'trilinear') joins the elements around max(c, 0), 'cubic'
    ('bicubic') four of them by Keys' kernel with a = -3/4; 'nearest' is floor(i n / size),
    'nearest-exact' floor((i + 1/2) n / size), 'area' the mean over the part of x that the element
    covers. Integers become float32, but for 'nearest'. Gradient:
    `interpolate_adjoint`. Raises ShapeError for sizes that do not fit, GraphTypeError for other
    modes. Catalogue 3.10, 4.
    """

    def sizes(t: Tensor) -> tuple[int, ...]:
        return _sizes("interpolate", t.shape[2:], size, scale_factor)

    return _resized("interpolate", x, mode, align_corners, sizes, adjoint=False)


@public
def interpolate_adjoint(
    y: object, size: object, mode: str = "nearest", align_corners: bool = False
) -> Tensor:
    """The adjoint of `interpolate` from an image of spatial `size` to that of y (N, C, ...).

    Every element of the result is the sum of those it was part of, with their weights. Gradient:
    `interpolate`. Raises as `interpolate`. Catalogue 3.10, 8.
    """

    def sizes(t: Tensor) -> tuple[int, ...]:
        return _sizes("interpolate_adjoint", t.shape[2:], size, None)

    return _resized("interpolate_adjoint", y, mode, align_corners, sizes, adjoint=True)


resize = interpolate
