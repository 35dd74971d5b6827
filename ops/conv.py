"""Convolution over any number of spatial axes, and the two ops that are its gradients.

One geometry serves all three: output o and kernel offset k meet the input at
i = o * stride - low + k * dilation, and an i outside the input counts as 0. Each op is linear in
each of its operands and has the other two as gradients, so any order of derivative stays inside
the triple. The sign is that of deep learning: the kernel is not flipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import Node, apply
from staticgraph.nest import Nest, axes
from staticgraph.op import NestOp
from staticgraph.operands import promoted
from staticgraph.ops.shape import reshape
from staticgraph.ops.window import Ints, meet, of_rank, output_size, per_axis, per_side
from staticgraph.registry import FUNCTIONS, public, register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, is_complex


def _cover(
    place: Sequence[s.Expr],
    offset: Sequence[s.Expr],
    sizes: Sequence[tuple[int, int, int]],
    stride: Ints,
    low: Ints,
    dilation: Ints,
) -> tuple[list[s.Expr], s.Expr]:
    """Which window has kernel `offset` at input `place`, and whether one has: `meet` solved."""
    index, inside = [], s.const(True, "bool")
    for i, k, (n, kernel, out), t, lo, d in zip(
        place, offset, sizes, stride, low, dilation, strict=True
    ):
        way = i - k * d + lo
        o = way if t == 1 else way // t
        if t != 1:
            inside = s.call("logical_and", inside, s.call("equal", way % t, 0))
        if lo - (kernel - 1) * d < 0:
            inside = s.call("logical_and", inside, o >= 0)
        if (n - 1 + lo) // t >= out:
            inside = s.call("logical_and", inside, o < out)
        index.append(o)
    return index, inside


def _need(ok: bool, message: str) -> None:
    if not ok:
        raise ShapeError(message)


def _check(op: str, x: TensorType, w: TensorType, y: TensorType, a: dict[str, Any]) -> None:
    """Whether input, kernel and output belong together."""
    spatial = x.ndim - 2
    _need(spatial >= 1 and w.ndim == y.ndim == x.ndim, f"{op}: {x}, {w} and {y} differ in rank")
    _need(
        all(len(a[k]) == spatial for k in ("stride", "low", "high", "dilation")),
        f"{op}: needs stride, padding and dilation for {spatial} spatial axes",
    )
    groups, geometry = a["groups"], (a["stride"], a["low"], a["high"], a["dilation"])
    wanted = (x.shape[0], w.shape[0], *output_size(x.shape[2:], w.shape[2:], *geometry))
    _need(
        x.shape[1] == w.shape[1] * groups and w.shape[0] % groups == 0 and y.shape == wanted,
        f"{op}: input {x}, kernel {w} and output {y} do not belong together with groups={groups}"
        f" (the output should be {wanted})",
    )


def _conj(t: Tensor) -> Tensor:
    return FUNCTIONS["conj"](t) if is_complex(t.type.dtype) else t


def _bilinear_jvp(node: Node, tangents: Sequence[Tensor | None]) -> list[Tensor | None]:
    (a, b), (da, db) = node.operands, tangents
    parts = []
    if da is not None:
        parts.append(apply(node.op, da, b, **node.attrs))
    if db is not None:
        parts.append(apply(node.op, a, db, **node.attrs))
    return [FUNCTIONS["add_n"](parts) if parts else None]


def _sizes(x: TensorType, w: TensorType, y: TensorType) -> list[tuple[int, int, int]]:
    return list(zip(x.shape[2:], w.shape[2:], y.shape[2:], strict=True))


@register
class Conv(NestOp):
    """y[n, m, o] = sum over c and k of x[n, c, o stride - low + k dilation] w[m, c, k].

    c runs over the channels of the group of m.
    """

    name = "conv"

    def infer(self, x: TensorType, w: TensorType, *, stride, low, high, dilation, groups):
        _need(
            x.ndim == w.ndim >= 3,
            f"conv: needs x (N, C, spatial...) and weight (M, C/groups, kernel...) with as many"
            f" axes, got {x} and {w}",
        )
        _need(
            groups >= 1 and x.shape[1] == w.shape[1] * groups,
            f"conv: x {x} has {x.shape[1]} channels, weight {w} with groups={groups} takes"
            f" {w.shape[1] * groups}",
        )
        _need(
            w.shape[0] % groups == 0,
            f"conv: the {w.shape[0]} outputs of weight {w} do not divide into groups={groups}",
        )
        size = output_size(x.shape[2:], w.shape[2:], stride, low, high, dilation)
        _need(
            min(size) >= 1 and min(w.shape[2:]) >= 1,
            f"conv: the kernel of {w} with dilation {dilation} is larger than x {x} with padding"
            f" {tuple(zip(low, high, strict=True))}",
        )
        return TensorType(x.dtype, (x.shape[0], w.shape[0], *size))

    def nest(self, types, out, *, stride, low, high, dilation, groups) -> Nest:
        x, w = types
        rank = x.ndim - 2
        n, m, *place = axes(x.ndim)
        c, *offset = (s.axis(x.ndim + k) for k in range(rank + 1))
        index, inside = meet(place, offset, _sizes(x, w, out), stride, low, dilation)
        channel = c if groups == 1 else m // (w.shape[0] // groups) * w.shape[1] + c
        pixel = s.load(0, (n, channel, *index), x.dtype, inside)
        return Nest(out.shape, pixel * s.load(1, (m, c, *offset), w.dtype), w.shape[1:], "sum")

    def vjp(self, node, cotangents):
        (x, w), g = node.operands, cotangents[0]
        return [
            apply(ConvTranspose, g, _conj(w), size=x.shape[2:], **node.attrs),
            apply(ConvWeightGrad, _conj(x), g, size=w.shape[2:], **node.attrs),
        ]

    def jvp(self, node, tangents):
        return _bilinear_jvp(node, tangents)


@register
class ConvTranspose(NestOp):
    """x[n, c, i] = sum of y[n, m, o] w[m, c, k] over m and all o stride - low + k dilation = i.

    m runs over the outputs of the group of c; `size` is the spatial size of the result.
    """

    name = "conv_transpose"

    def infer(self, y: TensorType, w: TensorType, *, size, stride, low, high, dilation, groups):
        _need(
            y.ndim == w.ndim >= 3 and y.shape[1] == w.shape[0],
            f"conv_transpose: needs x (N, C, spatial...) and weight (C, M/groups, kernel...), got"
            f" {y} and {w}",
        )
        x = TensorType(y.dtype, (y.shape[0], w.shape[1] * groups, *size))
        attrs = dict(stride=stride, low=low, high=high, dilation=dilation, groups=groups)
        _check(self.name, x, w, y, attrs)
        return x

    def nest(self, types, out, *, size, stride, low, high, dilation, groups) -> Nest:
        y, w = types
        rank = out.ndim - 2
        n, c, *place = axes(out.ndim)
        j, *offset = (s.axis(out.ndim + k) for k in range(rank + 1))
        index, inside = _cover(place, offset, _sizes(out, w, y), stride, low, dilation)
        inner = c if groups == 1 else c % w.shape[1]
        m = j if groups == 1 else c // w.shape[1] * (w.shape[0] // groups) + j
        pixel = s.load(0, (n, m, *index), y.dtype, inside)
        reduced = (w.shape[0] // groups, *w.shape[2:])
        return Nest(out.shape, pixel * s.load(1, (m, inner, *offset), w.dtype), reduced, "sum")

    def vjp(self, node, cotangents):
        (y, w), g = node.operands, cotangents[0]
        attrs = {k: v for k, v in node.attrs.items() if k != "size"}
        return [
            apply(Conv, g, _conj(w), **attrs),
            apply(ConvWeightGrad, g, _conj(y), size=w.shape[2:], **attrs),
        ]

    def jvp(self, node, tangents):
        return _bilinear_jvp(node, tangents)


@register
class ConvWeightGrad(NestOp):
    """w[m, c, k] = sum over n and o of x[n, c, o stride - low + k dilation] y[n, m, o].

    `size` is the spatial size of the kernel.
    """

    name = "conv_weight_grad"

    def infer(self, x: TensorType, y: TensorType, *, size, stride, low, high, dilation, groups):
        _need(
            x.ndim == y.ndim >= 3 and groups >= 1 and x.shape[1] % groups == 0,
            f"conv_weight_grad: needs x (N, C, spatial...) and y (N, M, ...), got {x} and {y}",
        )
        w = TensorType(x.dtype, (y.shape[1], x.shape[1] // groups, *size))
        attrs = dict(stride=stride, low=low, high=high, dilation=dilation, groups=groups)
        _check(self.name, x, w, y, attrs)
        return w

    def nest(self, types, out, *, size, stride, low, high, dilation, groups) -> Nest:
        x, y = types
        rank = x.ndim - 2
        m, c, *offset = axes(out.ndim)
        n, *place = (s.axis(out.ndim + k) for k in range(rank + 1))
        index, inside = meet(place, offset, _sizes(x, out, y), stride, low, dilation)
        channel = c if groups == 1 else m // (out.shape[0] // groups) * out.shape[1] + c
        pixel = s.load(0, (n, channel, *index), x.dtype, inside)
        reduced = (y.shape[0], *y.shape[2:])
        return Nest(out.shape, pixel * s.load(1, (n, m, *place), y.dtype), reduced, "sum")

    def vjp(self, node, cotangents):
        (x, y), g = node.operands, cotangents[0]
        attrs = {k: v for k, v in node.attrs.items() if k != "size"}
        return [
            apply(ConvTranspose, _conj(y), g, size=x.shape[2:], **attrs),
            apply(Conv, _conj(x), g, **attrs),
        ]

    def jvp(self, node, tangents):
        return _bilinear_jvp(node, tangents)


# ---------------------------------------------------------------------------- arguments


def conv_operands(
    op: str, x: object, weight: object, bias: object, groups: object, name: str = "groups"
) -> list[Tensor]:
    """Input, weight and bias of one dtype; `groups` (called `name`) is an int of at least 1."""
    given = [x, weight] if bias is None else [x, weight, bias]
    operands = promoted(op, given)
    a, w = operands[:2]
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or groups < 1:
        raise GraphTypeError(f"{op}: {name} is an int >= 1, got {groups!r}")
    if a.ndim < 3 or w.ndim != a.ndim:
        raise ShapeError(
            f"{op}: needs x (N, C, spatial...) and a weight with as many axes, got {a.type} and"
            f" {w.type}"
        )
    return operands


def _add_bias(op: str, y: Tensor, bias: Sequence[Tensor]) -> Tensor:
    if not bias:
        return y
    if bias[0].shape != (y.shape[1],):
        raise ShapeError(f"{op}: bias must have shape ({y.shape[1]},), got {bias[0].type}")
    return FUNCTIONS["add"](y, reshape(bias[0], (1, y.shape[1], *(1,) * (y.ndim - 2))))


# ---------------------------------------------------------------------------- public functions


@public
def conv(
    x: object,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> Tensor:
    """Correlation of x (N, C, spatial...) with weight (M, C/groups, kernel...) plus bias (M,).

    y[n, m, o] = bias[m] + sum over c and k of weight[m, c, k] x[n, c, o stride - padding
    + k dilation], 0 outside x, where c runs over the channels of the group of m; dtypes promote.
    `stride` and `dilation` are ints or one per spatial axis; `padding` is an int, one per axis, a
    pair per axis, 'valid', 'same' (as many places as x has, over the stride) or 'full'. Gradient:
    `conv_transpose` and `conv_weight_grad`. Raises ShapeError where the operands do not fit or the
    kernel is larger than x, GraphTypeError for arguments that are no ints. BHG 2.2, catalogue 3.1.
    """
    a, w, *rest = conv_operands("conv", x, weight, bias, groups)
    rank = a.ndim - 2
    strides = per_axis("conv", "stride", stride, rank, 1)
    dilations = per_axis("conv", "dilation", dilation, rank, 1)
    low, high = per_side("conv", padding, a.shape[2:], w.shape[2:], strides, dilations)
    attrs = dict(stride=strides, low=low, high=high, dilation=dilations, groups=int(groups))
    return _add_bias("conv", apply(Conv, a, w, **attrs), rest)


@public
def conv_transpose(
    x: object,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    output_padding: object = 0,
    groups: int = 1,
    dilation: object = 1,
) -> Tensor:
    """The transpose of `conv`: x (N, C, spatial...), weight (C, M/groups, kernel...), bias (M,).

    y[n, m, i] = bias[m] + sum of weight[c, m, k] x[n, c, o] over c and all o stride - padding
    + k dilation = i; dtypes promote. Arguments as in PyTorch, padding also a pair per axis; the
    size of an axis is (n - 1) stride - padding before and after + dilation (kernel - 1)
    + output_padding + 1. Gradient: `conv` and `conv_weight_grad`. Raises ShapeError where operands
    or sizes do not fit. BHG 2.4, catalogue 3.1.
    """
    op = "conv_transpose"
    a, w, *rest = conv_operands(op, x, weight, bias, groups)
    rank = a.ndim - 2
    strides = per_axis(op, "stride", stride, rank, 1)
    dilations = per_axis(op, "dilation", dilation, rank, 1)
    if isinstance(padding, str):
        raise GraphTypeError(f"{op}: padding is numbers, got {padding!r}")
    low, after = per_side(op, padding, a.shape[2:], w.shape[2:], strides, dilations)
    extra = per_axis(op, "output_padding", output_padding, rank, 0)
    size, high = [], []
    for n, k, t, d, lo, hi, e in zip(
        a.shape[2:], w.shape[2:], strides, dilations, low, after, extra, strict=True
    ):
        if e >= max(t, d):
            raise ShapeError(f"{op}: output_padding {e} must be below stride {t} or dilation {d}")
        span = (n - 1) * t + d * (k - 1) + 1
        size.append(span - lo - hi + e)
        high.append(hi - e)  # so that the convolution of the result has n places exactly
        if size[-1] < 1:
            raise ShapeError(f"{op}: {a.type} with weight {w.type}, padding {padding!r} is empty")
    attrs = dict(stride=strides, low=low, high=tuple(high), dilation=dilations, groups=int(groups))
    return _add_bias(op, apply(ConvTranspose, a, w, size=tuple(size), **attrs), rest)


@public
def conv_weight_grad(
    x: object,
    y: object,
    kernel_size: object,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> Tensor:
    """w[m, c, k] = sum over n and o of x[n, c, o stride - padding + k dilation] y[n, m, o].

    The third of the triple: what `conv` of x (N, C, spatial...) with a weight of `kernel_size` has
    as the gradient of the weight for a cotangent y (N, M, places...). Gradient: `conv_transpose`
    and `conv`. Raises ShapeError where x, y and kernel do not belong together. BHG 2.2,
    catalogue 3.1, 8.
    """
    op = "conv_weight_grad"
    a, b = conv_operands(op, x, y, None, groups)
    rank = a.ndim - 2
    kernel = per_axis(op, "kernel_size", kernel_size, rank, 1)
    strides = per_axis(op, "stride", stride, rank, 1)
    dilations = per_axis(op, "dilation", dilation, rank, 1)
    low, high = per_side(op, padding, a.shape[2:], kernel, strides, dilations)
    attrs = dict(stride=strides, low=low, high=high, dilation=dilations, groups=int(groups))
    return apply(ConvWeightGrad, a, b, size=kernel, **attrs)


conv1d, conv2d, conv3d = (of_rank(conv, k) for k in (1, 2, 3))
conv_transpose1d, conv_transpose2d, conv_transpose3d = (
    of_rank(conv_transpose, k) for k in (1, 2, 3)
)
