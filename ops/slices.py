"""Windows of a tensor: slice, its adjoint, crop, flip and quarter turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.nest import Nest
from staticgraph.op import NestOp
from staticgraph.operands import normalize_axes, normalize_axis, tensor_argument
from staticgraph.ops.shape import swapaxes
from staticgraph.registry import public, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType


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
    """x[start:stop:step] on the leading axes, with Python's rules; any dtype.

    Gradient: zeros with the cotangent at the places read. Raises ShapeError where start, stop and
    step do not match the axes. BHG 10.4, catalogue 3.9 (`slice`).
    """
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
    """x[offset : offset + size] on every axis; any dtype.

    Gradient: padded with zeros. Raises ShapeError where the window leaves x. BPR 4.2,
    catalogue 3.9.
    """
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
    """The order reversed along the axes, all by default; any dtype.

    Gradient: flipped alike. Raises ShapeError for an axis out of range. BHG 10.10, catalogue 3.9.
    """
    t = tensor_argument("flip", x)
    over = normalize_axes("flip", axis, t.ndim)
    return apply(Flip, t, axes=over) if over else t


@public
def rot90(x: object, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Tensor:
    """x turned by k quarters from the first of two axes towards the second, as numpy.rot90.

    Any dtype. Gradient: turned back. Raises GraphTypeError where k is no int, ShapeError where the
    axes are not two different ones of x.
    """
    t = tensor_argument("rot90", x)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise GraphTypeError(f"rot90: k is an int, got {k!r}")
    a, b = (normalize_axis("rot90", v, t.ndim) for v in axes) if len(axes) == 2 else (0, 0)
    if a == b:
        raise ShapeError(f"rot90: needs two different axes of {t.type}, got {axes!r}")
    if k % 4 == 0:
        return t
    if k % 4 == 2:
        return flip(t, (a, b))
    return swapaxes(flip(t, b), a, b) if k % 4 == 1 else flip(swapaxes(t, a, b), b)
