"""Several tensors as one and one as several: concat, stack, split, tile, repeat."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.nest import Nest
from staticgraph.op import NestOp
from staticgraph.operands import constant, normalize_axis, promoted, tensor_argument
from staticgraph.ops.shape import broadcast_to, expand_dims, flatten, reshape, squeeze
from staticgraph.ops.slices import slice_
from staticgraph.registry import FUNCTIONS, public, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, as_shape


@register
class Concat(NestOp):
    """Operands one after another along an axis."""

    name = "concat"

    def infer(self, *types: TensorType, axis: int) -> TensorType:
        first = types[0]
        if not 0 <= axis < first.ndim:
            raise ShapeError(f"concat: axis {axis} is out of range for {first}")
        for t in types[1:]:
            if t.dtype != first.dtype:
                raise GraphTypeError(f"concat: needs operands of one dtype, got {first} and {t}")
            if t.ndim != first.ndim or any(
                a != b
                for k, (a, b) in enumerate(zip(t.shape, first.shape, strict=True))
                if k != axis
            ):
                raise ShapeError(
                    f"concat: {first} and {t} must have equal sizes on all axes but axis {axis}"
                )
        total = sum(t.shape[axis] for t in types)
        return TensorType(first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :]))

    def nest(self, types, out, *, axis: int) -> Nest:
        body, at = None, out.shape[axis]
        for k in reversed(range(len(types))):
            at -= types[k].shape[axis]
            if types[k].shape[axis] == 0:
                continue
            index = [s.axis(j) - at if j == axis else s.axis(j) for j in range(out.ndim)]
            here = s.axis(axis) >= at
            if body is None:
                guard = here if at else None
                body = s.load(k, index, out.dtype, guard)
            else:
                stop = s.axis(axis) < at + types[k].shape[axis]
                guard = s.call("logical_and", here, stop) if at else stop
                body = s.where(stop, s.load(k, index, out.dtype, guard), body)
        return Nest(out.shape, s.const(0, out.dtype) if body is None else body)

    def vjp(self, node, cotangents):
        g, axis, at, found = cotangents[0], node.attrs["axis"], 0, []
        for t in node.operands:
            start = [0] * g.ndim
            start[axis] = at
            found.append(slice_(g, start, t.shape, (1,) * g.ndim))
            at += t.shape[axis]
        return found

    def jvp(self, node, tangents):
        parts = [
            d if d is not None else constant(np.zeros(t.shape, t.type.dtype))
            for d, t in zip(tangents, node.operands, strict=True)
        ]
        return [apply(self, *parts, **node.attrs)]

    def simplify(self, node):
        return [node.operands[0]] if len(node.operands) == 1 else None


@public
def concat(xs: Sequence[object], axis: int = 0) -> Tensor:
    """Join tensors along an existing axis, or flattened where axis is None; dtypes promote.

    Gradient: slices of the cotangent. Raises ShapeError where other axes differ, GraphTypeError
    without a list of tensors. BHG 10.1, catalogue 3.9.
    """
    if isinstance(xs, Tensor) or len(xs) == 0:
        raise GraphTypeError("concat: needs a non-empty list of tensors")
    items = promoted("concat", list(xs))
    if axis is None:
        items, axis = [flatten(t) for t in items], 0
    if items[0].ndim == 0:
        raise ShapeError("concat: 0-d tensors have no axis to join along; use stack")
    return apply(Concat, *items, axis=normalize_axis("concat", axis, items[0].ndim))


@public
def stack(xs: Sequence[object], axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis; dtypes promote.

    Gradient: the parts of the cotangent. Raises ShapeError where shapes differ. BHG 10.3,
    catalogue 3.9.
    """
    if isinstance(xs, Tensor) or len(xs) == 0:
        raise GraphTypeError("stack: needs a non-empty list of tensors")
    items = promoted("stack", list(xs))
    for t in items[1:]:
        if t.shape != items[0].shape:
            raise ShapeError(f"stack: needs tensors of one shape, got {items[0].type} and {t.type}")
    place = normalize_axis("stack", axis, items[0].ndim + 1)
    return concat([expand_dims(t, place) for t in items], place)


@public
def unstack(x: object, axis: int = 0) -> tuple[Tensor, ...]:
    """One tensor per index of an axis, without the axis; any dtype.

    Gradient: stacked, zeros for a part that is not used. BHG 10.2, catalogue 3.9.
    """
    t = tensor_argument("unstack", x)
    a = normalize_axis("unstack", axis, t.ndim)
    return tuple(squeeze(part, a) for part in split(t, t.shape[a], a)) if t.shape[a] else ()


@public
def split(x: object, sections: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Cut along an axis into equal parts, or at given indices, as numpy.split; any dtype.

    Gradient: joined again. Raises ShapeError where the parts are not equal. BHG 10.2,
    catalogue 3.9.
    """
    t = tensor_argument("split", x)
    a = normalize_axis("split", axis, t.ndim)
    n = t.shape[a]
    if isinstance(sections, (int, np.integer)):
        if sections < 1 or n % sections:
            raise ShapeError(
                f"split: axis {a} of {t.type} does not divide into {sections} equal parts"
            )
        cuts = [n // sections * k for k in range(1, sections)]
    else:
        cuts = [int(np.clip(c if c >= 0 else c + n, 0, n)) for c in sections]
    bounds = [0, *cuts, n]
    parts = []
    for lo, hi in itertools.pairwise(bounds):
        start, size = [0] * t.ndim, list(t.shape)
        start[a], size[a] = lo, max(hi - lo, 0)
        parts.append(slice_(t, start, size, (1,) * t.ndim))
    return tuple(parts)


@public
def tile(x: object, reps: int | Sequence[int]) -> Tensor:
    """x repeated as a whole along each axis, as numpy.tile; any dtype.

    Gradient: the sum over the copies. Raises ShapeError for counts below 0. BHG 10.8,
    catalogue 3.9.
    """
    t = tensor_argument("tile", x)
    try:
        counts = as_shape(reps)
    except ShapeError:
        raise ShapeError(f"tile: reps is an int >= 0 or a sequence of them, got {reps!r}") from None
    rank = max(t.ndim, len(counts))
    shape = (1,) * (rank - t.ndim) + t.shape
    counts = (1,) * (rank - len(counts)) + counts
    inner = reshape(t, tuple(v for n in shape for v in (1, n)))
    wide = broadcast_to(inner, tuple(v for c, n in zip(counts, shape, strict=True) for v in (c, n)))
    return reshape(wide, tuple(c * n for c, n in zip(counts, shape, strict=True)))


@public
def repeat(x: object, repeats: int | Sequence[int], axis: int | None = None) -> Tensor:
    """Each element of an axis (of x in row-major order by default) repeated, as numpy.repeat.

    `repeats` is one count, or one per element; any dtype. Gradient: the sum over the copies.
    Raises ShapeError for counts that do not fit. Catalogue 3.9.
    """
    t = tensor_argument("repeat", x)
    if axis is None:
        t, axis = flatten(t), 0
    a = normalize_axis("repeat", axis, t.ndim)
    n = t.shape[a]
    try:
        counts = as_shape(repeats)
    except ShapeError:
        raise ShapeError(
            f"repeat: repeats is an int >= 0 or one per element, got {repeats!r}"
        ) from None
    if len(counts) == 1:
        wide = (*t.shape[: a + 1], counts[0], *t.shape[a + 1 :])
        copies = broadcast_to(expand_dims(t, a + 1), wide)
        return reshape(copies, (*t.shape[:a], n * counts[0], *t.shape[a + 1 :]))
    if len(counts) != n:
        raise ShapeError(f"repeat: axis {a} of {t.type} needs {n} counts, got {len(counts)}")
    return FUNCTIONS["take"](t, np.repeat(np.arange(n), counts), a)
