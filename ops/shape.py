"""Ops that move elements: reshape, transpose, broadcast, slice, pad, concat, flip, and the like."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import FUNCTIONS, Tensor, apply
from staticgraph.nest import Nest, axes, broadcast_index
from staticgraph.op import (
    NestOp,
    as_tensor,
    cast,
    constant,
    normalize_axes,
    normalize_axis,
    promoted,
    public,
    register,
    tensor_argument,
)
from staticgraph.types import DTYPES, TensorType, as_dtype, as_shape, broadcast_shapes


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
    """The elements of x in row-major order in `shape`; one size may be -1. Catalogue 3.9."""
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
    """The axes of x in another order, reversed by default. Catalogue 3.9."""
    t = tensor_argument("transpose", x)
    order = tuple(reversed(range(t.ndim))) if axes is None else tuple(axes)  # type: ignore[call-overload]
    order = tuple(normalize_axis("transpose", a, t.ndim) for a in order)
    return t if order == tuple(range(t.ndim)) else apply(Transpose, t, axes=order)


@public
def permute_dims(x: object, axes: object) -> Tensor:
    """transpose under its array API name."""
    return transpose(x, axes)


@public
def swapaxes(x: object, axis1: int, axis2: int) -> Tensor:
    """Two axes of x swapped."""
    t = tensor_argument("swapaxes", x)
    order = list(range(t.ndim))
    a, b = normalize_axis("swapaxes", axis1, t.ndim), normalize_axis("swapaxes", axis2, t.ndim)
    order[a], order[b] = order[b], order[a]
    return transpose(t, order)


@public
def moveaxis(x: object, source: int, destination: int) -> Tensor:
    """One axis of x moved to another place."""
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
    """x repeated to `shape` by NumPy's rules. Catalogue 3.9."""
    t, sizes = tensor_argument("broadcast_to", x), as_shape(shape)
    return t if sizes == t.shape else apply(BroadcastTo, t, shape=sizes)


@public
def sum_to(x: object, shape: object) -> Tensor:
    """Sum over the axes that broadcasting from `shape` to the shape of x added or stretched."""
    from_ops = as_tensor(x)
    sizes = as_shape(shape)
    if from_ops.shape == sizes:
        return from_ops
    lead = from_ops.ndim - len(sizes)
    over = tuple(range(lead)) + tuple(
        lead + k for k, n in enumerate(sizes) if n == 1 and from_ops.shape[lead + k] != 1
    )
    return reshape(FUNCTIONS["sum"](from_ops, axis=over), sizes)


@public
def expand_dims(x: object, axis: int | tuple[int, ...] = 0) -> Tensor:
    """New axes of size 1 at the given places of the result."""
    t = tensor_argument("expand_dims", x)
    places = axis if isinstance(axis, (tuple, list)) else (axis,)
    new = {normalize_axis("expand_dims", a, t.ndim + len(places)) for a in places}
    if len(new) != len(places):
        raise ShapeError(f"expand_dims: axis {axis!r} names an axis twice")
    old = iter(t.shape)
    return reshape(t, tuple(1 if k in new else next(old) for k in range(t.ndim + len(new))))


@public
def squeeze(x: object, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Drop axes of size 1: all, or those given."""
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
    """All elements on one axis."""
    t = tensor_argument("flatten", x)
    return reshape(t, (t.size,))


@register
class Slice(NestOp):
    """result[i] = x[start + i step] on every axis."""

    name = "slice"

    def infer(
        self, x: TensorType, *, start: tuple[int, ...], size: tuple[int, ...], step: tuple[int, ...]
    ) -> TensorType:
        for n, a, k, d in zip(x.shape, start, size, step, strict=True):
            if k < 0 or (k > 0 and not (0 <= a < n and 0 <= a + (k - 1) * d < n)):
                raise ShapeError(f"slice: start {start} size {size} step {step} leaves {x}")
        return TensorType(x.dtype, tuple(size))

    def nest(self, types, out, *, start, size, step) -> Nest:
        index = [s.axis(k) * step[k] + start[k] for k in range(out.ndim)]
        return Nest(out.shape, s.load(0, index, out.dtype))

    def vjp(self, node, cotangents):
        a = node.attrs
        return [
            apply(
                Unslice,
                cotangents[0],
                shape=node.operands[0].shape,
                start=a["start"],
                step=a["step"],
            )
        ]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]

    def simplify(self, node):
        x, a = node.operands[0], node.attrs
        if x.shape == a["size"] and all(
            d == 1 for d, n in zip(a["step"], x.shape, strict=True) if n > 1
        ):
            return [x]
        return None


@register
class Unslice(NestOp):
    """The adjoint of slice: zeros of `shape` with the operand at start + i step."""

    name = "unslice"

    def infer(self, x: TensorType, *, shape, start, step) -> TensorType:
        for n, a, k, d in zip(shape, start, x.shape, step, strict=True):
            if k and not (0 <= a < n and 0 <= a + (k - 1) * d < n):
                raise ShapeError(
                    f"unslice: {x} at start {start} with step {step} leaves shape {shape}"
                )
        return TensorType(x.dtype, tuple(shape))

    def nest(self, types, out, *, shape, start, step) -> Nest:
        (x,) = types
        index, inside = [], s.const(True, "bool")
        for k, n in enumerate(x.shape):
            sign = 1 if step[k] > 0 else -1
            d = abs(step[k])
            offset = (s.axis(k) - start[k]) * sign
            i = offset if d == 1 else offset // d
            if not (sign == 1 and start[k] <= 0):
                inside = s.call("logical_and", inside, offset >= 0)
            if d != 1:
                inside = s.call("logical_and", inside, s.call("equal", offset % d, 0))
            if (
                out.shape[k] - 1 - start[k] >= n * d
                or sign == -1
                or d != 1
                or out.shape[k] - start[k] > n
            ):
                inside = s.call("logical_and", inside, i < n)
            index.append(i)
        return Nest(out.shape, s.load(0, index, out.dtype, inside, 0))

    def vjp(self, node, cotangents):
        a = node.attrs
        return [
            apply(
                Slice, cotangents[0], start=a["start"], size=node.operands[0].shape, step=a["step"]
            )
        ]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]


def slice_(x: Tensor, start: Sequence[int], size: Sequence[int], step: Sequence[int]) -> Tensor:
    """Strided window of a tensor; the tensor itself where that is all of it."""
    if tuple(size) == x.shape and all(d == 1 for d in step):
        return x
    return apply(
        Slice,
        x,
        start=tuple(map(int, start)),
        size=tuple(map(int, size)),
        step=tuple(map(int, step)),
    )


@public
def strided_slice(
    x: object,
    start: Sequence[int | None],
    stop: Sequence[int | None],
    step: Sequence[int] | None = None,
) -> Tensor:
    """x[start:stop:step] on the leading axes, with Python's rules. Catalogue 3.9 (`slice`)."""
    t = tensor_argument("slice", x)
    strides = step or (1,) * len(start)
    if not len(start) == len(stop) == len(strides) <= t.ndim:
        raise ShapeError(
            f"slice: start, stop and step need one entry per axis, at most {t.ndim},"
            f" got {len(start)}, {len(stop)}, {len(strides)}"
        )
    return t[tuple(slice(a, b, c) for a, b, c in zip(start, stop, strides, strict=True))]


@public
def crop(x: object, offset: Sequence[int], size: Sequence[int]) -> Tensor:
    """x[offset : offset + size] on every axis. Catalogue 3.9."""
    t = tensor_argument("crop", x)
    if len(offset) != t.ndim or len(size) != t.ndim:
        raise ShapeError(f"crop: offset and size need one entry for each axis of {t.type}")
    for n, a, k in zip(t.shape, offset, size, strict=True):
        if a < 0 or k < 0 or a + k > n:
            raise ShapeError(
                f"crop: offset {tuple(offset)} with size {tuple(size)} leaves {t.type}"
            )
    return slice_(t, offset, size, (1,) * t.ndim)


@register
class Flip(NestOp):
    """The order reversed along some axes."""

    name = "flip"

    def infer(self, x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
        if any(not 0 <= a < x.ndim for a in axes):
            raise ShapeError(f"flip: axes {axes} are out of range for {x}")
        return x

    def nest(self, types, out, *, axes: tuple[int, ...]) -> Nest:
        index = [(n - 1) - s.axis(k) if k in axes else s.axis(k) for k, n in enumerate(out.shape)]
        return Nest(out.shape, s.load(0, index, out.dtype))

    def vjp(self, node, cotangents):
        return [apply(self, cotangents[0], **node.attrs)]

    def jvp(self, node, tangents):
        return [apply(self, tangents[0], **node.attrs)]

    def simplify(self, node):
        x = node.operands[0]
        if x.node.op is self and x.node.attrs == node.attrs:
            return [x.node.operands[0]]
        return None


@public
def flip(x: object, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """The order reversed along the axes, all by default. Catalogue 3.9."""
    t = tensor_argument("flip", x)
    over = normalize_axes("flip", axis, t.ndim)
    return apply(Flip, t, axes=over) if over else t


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
    """Join tensors along an existing axis. Catalogue 3.9."""
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
    """Join tensors of one shape along a new axis. Catalogue 3.9."""
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
    """One tensor per index of an axis, without the axis. Catalogue 3.9."""
    t = tensor_argument("unstack", x)
    a = normalize_axis("unstack", axis, t.ndim)
    return tuple(squeeze(part, a) for part in split(t, t.shape[a], a)) if t.shape[a] else ()


@public
def split(x: object, sections: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Cut along an axis into equal parts, or at given indices (NumPy's split). Catalogue 3.9."""
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


@register
class Pad(NestOp):
    """x inside a border of the second operand's value (a scalar tensor)."""

    name = "pad"

    def infer(
        self, x: TensorType, value: TensorType, *, low: tuple[int, ...], high: tuple[int, ...]
    ) -> TensorType:
        shape = tuple(a + n + b for a, n, b in zip(low, x.shape, high, strict=True))
        if value != TensorType(x.dtype, ()):
            raise GraphTypeError(f"pad: the value must be {TensorType(x.dtype, ())}, got {value}")
        if any(n < 0 for n in (*low, *high)):
            raise ShapeError(f"pad: widths must be >= 0, got low {low} high {high}")
        return TensorType(x.dtype, shape)

    def nest(self, types, out, *, low, high) -> Nest:
        (x, _) = types
        index, inside = [], s.const(True, "bool")
        for k, n in enumerate(x.shape):
            i = s.axis(k) - low[k]
            if low[k]:
                inside = s.call("logical_and", inside, i >= 0)
            if high[k]:
                inside = s.call("logical_and", inside, i < n)
            index.append(i)
        value = s.load(1, (), out.dtype)
        if x.size == 0:
            return Nest(out.shape, value)
        return Nest(out.shape, s.where(inside, s.load(0, index, out.dtype, inside), value))

    def vjp(self, node, cotangents):
        g, x = cotangents[0], node.operands[0]
        inner = slice_(g, node.attrs["low"], x.shape, (1,) * g.ndim)
        total = FUNCTIONS["sum"]
        return [inner, total(g) - total(inner)]

    def jvp(self, node, tangents):
        parts = [
            d if d is not None else constant(np.zeros(t.shape, t.type.dtype))
            for d, t in zip(tangents, node.operands, strict=True)
        ]
        return [apply(self, *parts, **node.attrs)]

    def simplify(self, node):
        return [node.operands[0]] if not any((*node.attrs["low"], *node.attrs["high"])) else None


@public
def pad(
    x: object, pad_width: object, mode: str = "constant", constant_values: object = 0
) -> Tensor:
    """x with a border, widths and modes as numpy.pad.

    `pad_width` is a number, one (before, after) pair, or a pair per axis; `mode` is 'constant',
    'reflect', 'symmetric', 'edge' or 'wrap'. Catalogue 3.9.
    """
    t = tensor_argument("pad", x)
    try:
        widths = np.broadcast_to(np.asarray(pad_width, dtype=object), (t.ndim, 2))
        low, high = (tuple(map(operator.index, widths[:, k])) for k in (0, 1))
    except (ValueError, TypeError):
        raise ShapeError(
            f"pad: pad_width {pad_width!r} does not fit {t.type}:"
            " give an int, a pair, or a pair per axis"
        ) from None
    if any(w < 0 for w in (*low, *high)):
        raise ShapeError(f"pad: widths must be >= 0, got {pad_width!r}")
    if mode == "constant":
        return apply(Pad, t, cast(as_tensor(constant_values), t.type.dtype), low=low, high=high)
    numpy_mode = {"replicate": "edge", "circular": "wrap"}.get(mode, mode)
    if numpy_mode not in ("reflect", "symmetric", "edge", "wrap"):
        raise GraphTypeError(
            f"pad: mode is constant, reflect, symmetric, edge or wrap, got {mode!r}"
        )
    for k in range(t.ndim):
        if low[k] or high[k]:
            if t.shape[k] == 0:
                raise ShapeError(
                    f"pad: axis {k} of {t.type} is empty, mode {mode!r} has nothing to copy"
                )
            places = np.pad(np.arange(t.shape[k]), (low[k], high[k]), mode=numpy_mode)  # type: ignore[call-overload]
            t = FUNCTIONS["take"](t, places, axis=k)
    return t


@register
class Iota(NestOp):
    """0, 1, 2, ... along one axis."""

    name = "iota"

    def infer(self, *, shape: tuple[int, ...], axis: int, dtype: str) -> TensorType:
        if not 0 <= axis < len(shape) or dtype not in DTYPES:
            raise ShapeError(f"iota: no axis {axis} in shape {shape}, or no dtype {dtype!r}")
        return TensorType(dtype, tuple(shape))

    def nest(self, types, out, *, shape, axis, dtype) -> Nest:
        return Nest(out.shape, s.cast(s.axis(axis), dtype))

    def vjp(self, node, cotangents):
        return []


@public
def iota(shape: object, axis: int = 0, dtype: object = "int64") -> Tensor:
    """The position along one axis: result[i] = i[axis]."""
    sizes = as_shape(shape)
    return apply(
        Iota, shape=sizes, axis=normalize_axis("iota", axis, len(sizes)), dtype=as_dtype(dtype)
    )


@public
def arange(
    start: int | float, stop: int | float | None = None, step: int | float = 1, dtype: object = None
) -> Tensor:
    """Values start, start + step, ... below stop, as a constant. Catalogue 3.8."""
    if step == 0:
        raise ShapeError("arange: step must not be 0")
    values = np.arange(start, stop, step) if stop is not None else np.arange(0, start, step)
    if dtype is None:
        return constant(values if values.dtype.kind == "i" else values.astype("float32"))
    return constant(values.astype(as_dtype(dtype)))


@public
def full(shape: object, value: object, dtype: object = None) -> Tensor:
    """A tensor of one value. Catalogue 3.8."""
    return broadcast_to(constant(value, dtype), as_shape(shape))


@public
def zeros(shape: object, dtype: object = "float32") -> Tensor:
    """A tensor of zeros."""
    return full(shape, 0, dtype)


@public
def ones(shape: object, dtype: object = "float32") -> Tensor:
    """A tensor of ones."""
    return full(shape, 1, dtype)


@public
def full_like(x: object, value: object, dtype: object = None) -> Tensor:
    """A tensor of one value with the shape (and dtype) of another."""
    t = tensor_argument("full_like", x)
    return full(t.shape, value, dtype or t.type.dtype)


@public
def zeros_like(x: object, dtype: object = None) -> Tensor:
    """Zeros with the shape (and dtype) of another tensor."""
    return full_like(x, 0, dtype)


@public
def ones_like(x: object, dtype: object = None) -> Tensor:
    """Ones with the shape (and dtype) of another tensor."""
    return full_like(x, 1, dtype)


@public
def eye(n: int, m: int | None = None, dtype: object = "float32") -> Tensor:
    """Ones on the diagonal of an n by m matrix."""
    return constant(np.eye(*as_shape((n, n if m is None else m))), dtype)


@public
def tile(x: object, reps: int | Sequence[int]) -> Tensor:
    """x repeated along each axis, as numpy.tile. Catalogue 3.9."""
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
