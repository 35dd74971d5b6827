"""Windows over the last axes: the geometry of convolution and pooling, and unfold and fold.

Output place o and kernel offset k meet the input at i = o * stride - low + k * dilation; an i
outside the input belongs to no element. A nest over windows asks where that is (`meet`), a nest
over the input which windows hold an element (`covering`), so neither way scatters anything: both
are parallel and add in one order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.nest import Nest, axes
from staticgraph.op import NestOp
from staticgraph.operands import tensor_argument
from staticgraph.ops.shape import reshape
from staticgraph.registry import public, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, is_bool

Ints = tuple[int, ...]
Offset = Sequence[s.Expr | int]

#: windows (or windows over one element) up to this size are written out, so that the op is
#: elementwise: it fuses, and vectorises along the last axis
_UNROLLED = 64


# ---------------------------------------------------------------------------- geometry


def output_size(
    size: Sequence[int], kernel: Sequence[int], stride: Ints, low: Ints, high: Ints, dilation: Ints
) -> Ints:
    """Number of places of the kernel on each axis; 0 or less where it does not fit."""
    geometry = zip(size, kernel, stride, low, high, dilation, strict=True)
    return tuple((n + lo + hi - d * (k - 1) - 1) // t + 1 for n, k, t, lo, hi, d in geometry)


def meet(
    place: Sequence[s.Expr],
    offset: Offset,
    sizes: Sequence[tuple[int, int, int]],
    stride: Ints,
    low: Ints,
    dilation: Ints,
) -> tuple[list[s.Expr], s.Expr]:
    """Where window `place` has kernel `offset` in the input, and whether that is inside.

    `sizes` holds (input, kernel, output) per axis; a test that always holds is left out.
    """
    index, inside = [], s.const(True, "bool")
    for o, k, (n, kernel, out), t, lo, d in zip(
        place, offset, sizes, stride, low, dilation, strict=True
    ):
        first, last = (k, k) if isinstance(k, int) else (0, kernel - 1)
        i = o * t + (k * d - lo)
        if first * d - lo < 0:
            inside = s.call("logical_and", inside, i >= 0)
        if (out - 1) * t + last * d - lo >= n:
            inside = s.call("logical_and", inside, i < n)
        index.append(i)
    return index, inside


def meeting(x: TensorType, y: TensorType, *, kernel, stride, low, dilation, size, last=0):
    """For a nest over windows y: index into x and whether it is inside, by kernel offset.

    `last` axes follow those that windows run over.
    """
    index = axes(y.ndim)
    a, b = y.ndim - len(kernel) - last, y.ndim - last
    sizes = list(zip(x.shape[a:b], kernel, y.shape[a:b], strict=True))

    def at(offset: Offset) -> tuple[tuple[s.Expr, ...], s.Expr]:
        found, inside = meet(index[a:b], offset, sizes, stride, low, dilation)
        return (*index[:a], *found, *index[b:]), inside

    return at


def covering(
    size: Sequence[int],
    places: Sequence[int],
    index: Sequence[s.Expr],
    *,
    kernel,
    stride,
    low,
    dilation,
):
    """For a nest over an input of `size` at `index`: how many windows may hold an element, and for
    the j-th of them which one it is, whether it exists, and the element's kernel offset in it.

    Without dilation window (i + low) // stride - j has it at offset (i + low) % stride + j stride;
    with dilation j runs over the kernel offsets, and not every one belongs to a window.
    """
    each = list(zip(index, size, kernel, stride, low, dilation, places, strict=True))
    count = tuple(
        k if d > 1 else -(-k // t) for k, t, d in zip(kernel, stride, dilation, strict=True)
    )

    def at(offset: Offset) -> tuple[list[s.Expr], s.Expr, list[s.Expr | int]]:
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
        return windows, inside, offsets

    return count, at


def window_nest(shape: Ints, over: Ints, combine: str, body: Callable[[Offset], s.Expr]) -> Nest:
    """The body combined over all offsets in `over`."""
    if prod(over) > _UNROLLED:
        return Nest(shape, body([s.axis(len(shape) + k) for k in range(len(over))]), over, combine)
    name = {"sum": "add", "max": "maximum", "min": "minimum"}[combine]
    terms = [body([int(k) for k in offset]) for offset in np.ndindex(*over)]
    return Nest(shape, reduce(lambda a, b: s.call(name, a, b), terms))


# ---------------------------------------------------------------------------- arguments


def per_axis(op: str, name: str, value: object, rank: int, least: int) -> Ints:
    """An int, or one per spatial axis, as a tuple."""
    items = (value,) * rank if isinstance(value, (int, np.integer)) else value
    if not isinstance(items, (tuple, list)) or any(
        isinstance(i, bool) or not isinstance(i, (int, np.integer)) for i in items
    ):
        raise GraphTypeError(f"{op}: {name} is an int or one int per spatial axis, got {value!r}")
    if len(items) != rank or any(i < least for i in items):
        raise ShapeError(f"{op}: {name} needs {rank} ints >= {least}, got {value!r}")
    return tuple(int(i) for i in items)


def per_side(
    op: str,
    padding: object,
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Ints,
    dilation: Ints,
) -> tuple[Ints, Ints]:
    """Padding before and after each spatial axis."""
    rank = len(size)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if isinstance(padding, str):
        if padding == "valid":
            return (0,) * rank, (0,) * rank
        if padding == "full":
            return tuple(reach), tuple(reach)
        if padding == "same":
            total = [
                max((-(-n // t) - 1) * t + r + 1 - n, 0)
                for n, t, r in zip(size, stride, reach, strict=True)
            ]
            return tuple(p // 2 for p in total), tuple(p - p // 2 for p in total)
        raise GraphTypeError(f"{op}: padding is numbers or valid, same or full, got {padding!r}")
    if isinstance(padding, (tuple, list)) and any(isinstance(p, (tuple, list)) for p in padding):
        if len(padding) != rank:
            raise ShapeError(f"{op}: padding needs a pair for each of {rank} axes, got {padding!r}")
        pairs = [per_axis(op, "padding of an axis", p, 2, 0) for p in padding]
        return tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)
    both = per_axis(op, "padding", padding, rank, 0)
    return both, both


def of_rank(general: Callable[..., Tensor], spatial: int) -> Callable[..., Tensor]:
    """The public function for one number of spatial axes."""
    name = f"{general.__name__}{spatial}d"

    def function(x: object, *args: Any, **kwargs: Any) -> Tensor:
        t = tensor_argument(name, x)
        if t.ndim != spatial + 2:
            raise ShapeError(f"{name}: x needs 2 + {spatial} axes (N, C, spatial), got {t.type}")
        return general(t, *args, **kwargs)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = (
        f"`{general.__name__}` of x with {spatial} spatial ax{'is' if spatial == 1 else 'es'}.\n\n"
        f"Formula, other shapes, dtypes, gradient and source as `{general.__name__}`.\n"
        f"Raises ShapeError for another number of axes, else as `{general.__name__}`."
    )
    function.__wrapped__ = general  # type: ignore[attr-defined]  # its signature
    return public(function)


# ---------------------------------------------------------------------------- unfold and fold


@register
class Unfold(NestOp):
    """y[..., k, o] = x[..., o stride - low + k dilation], 0 outside; k and o are several axes."""

    name = "unfold"

    def infer(self, x: TensorType, *, kernel, stride, low, dilation, size) -> TensorType:
        return TensorType(x.dtype, (*x.shape[: x.ndim - len(kernel)], *kernel, *size))

    def nest(self, types, out, *, kernel, stride, low, dilation, size) -> Nest:
        (x,) = types
        rank, index = len(kernel), axes(out.ndim)
        offset, place = index[-2 * rank : -rank], index[-rank:]
        sizes = list(zip(x.shape[-rank:], kernel, size, strict=True))
        found, inside = meet(place, offset, sizes, stride, low, dilation)
        return Nest(out.shape, s.load(0, (*index[: -2 * rank], *found), x.dtype, inside))

    def vjp(self, node, cotangents):
        rank = len(node.attrs["kernel"])
        back = {**node.attrs, "size": node.operands[0].shape[-rank:]}
        return [apply(Fold, cotangents[0], **back)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]


@register
class Fold(NestOp):
    """The adjoint of unfold: x[..., i] = sum of y[..., k, o] over o stride - low + k dilation = i.

    `size` is the spatial size of the result.
    """

    name = "fold"

    def infer(self, y: TensorType, *, kernel, stride, low, dilation, size) -> TensorType:
        if is_bool(y.dtype):
            raise GraphTypeError(f"fold: needs numbers to add, got {y}")
        return TensorType(y.dtype, (*y.shape[: y.ndim - 2 * len(kernel)], *size))

    def nest(self, types, out, *, kernel, stride, low, dilation, size) -> Nest:
        (y,) = types
        rank, index = len(kernel), axes(out.ndim)
        geometry = dict(kernel=kernel, stride=stride, low=low, dilation=dilation)
        count, at = covering(size, y.shape[-rank:], index[-rank:], **geometry)

        def body(j: Offset) -> s.Expr:
            window, inside, offset = at(j)
            return s.load(0, (*index[:-rank], *offset, *window), y.dtype, inside)

        return window_nest(out.shape, count, "sum", body)

    def vjp(self, node, cotangents):
        rank = len(node.attrs["kernel"])
        there = {**node.attrs, "size": node.operands[0].shape[-rank:]}
        return [apply(Unfold, cotangents[0], **there)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]


def _columns(
    op: str, size: Ints, kernel_size: object, dilation: object, padding: object, stride: object
) -> dict[str, Ints]:
    """Attributes of unfold for an image of spatial `size`."""
    rank = len(size)
    kernel = per_axis(op, "kernel_size", kernel_size, rank, 1)
    strides = per_axis(op, "stride", stride, rank, 1)
    dilations = per_axis(op, "dilation", dilation, rank, 1)
    low, high = per_side(op, padding, size, kernel, strides, dilations)
    places = output_size(size, kernel, strides, low, high, dilations)
    if min(places) < 1:
        raise ShapeError(f"{op}: kernel {kernel} with padding {padding!r} does not fit size {size}")
    return dict(kernel=kernel, stride=strides, low=low, dilation=dilations, size=places)


@public
def unfold(
    x: object, kernel_size: object, dilation: object = 1, padding: object = 0, stride: object = 1
) -> Tensor:
    """The windows of x (N, C, spatial...) as columns (N, C prod(k), places), `im2col`.

    y[n, c prod(k) + k, o] = x[n, c, o stride - padding + k dilation], 0 outside, with kernel
    offset k and place o in row-major order; any dtype. Arguments as in PyTorch, padding also per
    side or 'valid', 'same', 'full'. Gradient: `fold`. Raises ShapeError where the kernel does not
    fit. Catalogue 4 (Im2Col.c).
    """
    t = tensor_argument("unfold", x)
    if t.ndim < 3:
        raise ShapeError(f"unfold: needs x (N, C, spatial...), got {t.type}")
    attrs = _columns("unfold", t.shape[2:], kernel_size, dilation, padding, stride)
    columns = (t.shape[0], t.shape[1] * prod(attrs["kernel"]), prod(attrs["size"]))
    return reshape(apply(Unfold, t, **attrs), columns)


@public
def fold(
    x: object,
    output_size: Sequence[int],
    kernel_size: object,
    dilation: object = 1,
    padding: object = 0,
    stride: object = 1,
) -> Tensor:
    """Columns (N, C prod(k), places) added up as an image (N, C, *output_size), `col2im`.

    The adjoint of `unfold`, which is its gradient: each column adds to the elements that unfold
    reads there. Numbers of any dtype. Raises ShapeError where columns and size do not belong
    together. Catalogue 4 (Col2Im.c).
    """
    t = tensor_argument("fold", x)
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,)
    size = per_axis("fold", "output_size", tuple(sizes), len(sizes), 1)
    attrs = _columns("fold", size, kernel_size, dilation, padding, stride)
    kernel, places = attrs["kernel"], attrs["size"]
    if t.ndim != 3 or t.shape[1] % prod(kernel) or t.shape[2] != prod(places):
        raise ShapeError(
            f"fold: size {size} with kernel {kernel} has columns (N, C * {prod(kernel)},"
            f" {prod(places)}), got {t.type}"
        )
    lead = (t.shape[0], t.shape[1] // prod(kernel))
    return apply(Fold, reshape(t, (*lead, *kernel, *places)), **{**attrs, "size": size})


im2col, col2im = unfold, fold
