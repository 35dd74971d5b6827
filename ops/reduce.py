"""Reductions over axes, and what is composed of them."""

from __future__ import annotations

import builtins
from math import prod as _product
from typing import Any

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.nest import COMBINERS, Nest
from staticgraph.op import NestOp
from staticgraph.operands import (
    as_bool,
    cast,
    constant,
    normalize_axes,
    normalize_axis,
    tensor_argument,
)
from staticgraph.ops.declare import number
from staticgraph.registry import FUNCTIONS, add_op, public
from staticgraph.tensor import Tensor
from staticgraph.types import (
    DEFAULT_FLOAT,
    TensorType,
    as_dtype,
    is_bool,
    is_complex,
    is_differentiable,
    is_integer,
    is_unsigned,
)


class Reduce(NestOp):
    """result = combine over `axes`, which disappear."""

    def __init__(self, name: str, combine: str):
        self.name = name
        self.combine = combine

    def infer(self, x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
        if list(axes) != sorted({a for a in axes if 0 <= a < x.ndim}):
            raise ShapeError(f"{self.name}: axes {axes} must be ascending axes of {x}")
        if self.combine in ("max", "min") and builtins.any(x.shape[a] == 0 for a in axes):
            raise ShapeError(f"{self.name}: axis of size 0 in {x} has no {self.name}")
        return TensorType(x.dtype, tuple(n for k, n in enumerate(x.shape) if k not in axes))

    def nest(self, types, out, *, axes) -> Nest:
        (x,) = types
        kept, red = iter(range(out.ndim)), iter(range(out.ndim, x.ndim))
        index = [s.axis(next(red) if k in axes else next(kept)) for k in range(x.ndim)]
        return Nest(
            out.shape, s.load(0, index, x.dtype), tuple(x.shape[a] for a in axes), self.combine
        )

    def vjp(self, node, cotangents):
        g, (x,), over, y = cotangents[0], node.operands, node.attrs["axes"], node.results[0]
        if not is_differentiable(x.type.dtype):
            return [None]
        spread = _spread(g, x.shape, over)
        if self.combine == "sum":
            return [spread]
        if self.combine == "prod":
            return [FUNCTIONS["multiply"](spread, FUNCTIONS["conj"](_others(x, over)))]
        mask = cast(FUNCTIONS["equal"](x, _spread(y, x.shape, over)), x.type.dtype)
        count = sum(mask, axis=over, keepdims=True)
        return [
            FUNCTIONS["divide"](
                FUNCTIONS["where"](
                    FUNCTIONS["greater"](mask, 0), spread, constant(0, x.type.dtype)
                ),
                count,
            )
        ]

    def jvp(self, node, tangents):
        if self.combine == "sum":
            return [apply(self, tangents[0], **node.attrs)]
        return NotImplemented

    def simplify(self, node):
        x, over = node.operands[0], node.attrs["axes"]
        if not over:
            return [x]
        if builtins.all(x.shape[a] == 1 for a in over):
            return [FUNCTIONS["reshape"](x, node.results[0].shape)]
        return None


def _spread(g: Tensor, shape: tuple[int, ...], over: tuple[int, ...]) -> Tensor:
    """A reduced tensor put back over the reduced axes."""
    kept = tuple(1 if k in over else n for k, n in enumerate(shape))
    return FUNCTIONS["broadcast_to"](FUNCTIONS["reshape"](g, kept), shape)


def _others(x: Tensor, over: tuple[int, ...]) -> Tensor:
    """The product of all other elements, right where some are 0: those before times those after."""
    kept = [k for k in range(x.ndim) if k not in over]
    order = [*kept, *over]
    moved = FUNCTIONS["transpose"](x, order)
    lead = tuple(x.shape[k] for k in kept)
    flat = FUNCTIONS["reshape"](moved, (*lead, _product(x.shape[k] for k in over)))
    cumprod = FUNCTIONS["cumprod"]
    both = FUNCTIONS["multiply"](
        cumprod(flat, -1, exclusive=True), cumprod(flat, -1, exclusive=True, reverse=True)
    )
    back = FUNCTIONS["reshape"](both, moved.shape)
    return FUNCTIONS["transpose"](back, [int(i) for i in np.argsort(order)])


SUM = add_op(Reduce("sum", "sum"))
PROD = add_op(Reduce("prod", "prod"))
MAX = add_op(Reduce("max", "max"))
MIN = add_op(Reduce("min", "min"))
ANY = add_op(Reduce("any", "any"))
ALL = add_op(Reduce("all", "all"))
assert {SUM.combine, PROD.combine, MAX.combine, MIN.combine, ANY.combine, ALL.combine} == set(
    COMBINERS
)


def _reduce(op: Reduce, x: Tensor, axis: object, keepdims: bool) -> Tensor:
    over = normalize_axes(op.name, axis, x.ndim)
    y = apply(op, x, axes=over)
    return (
        FUNCTIONS["reshape"](y, tuple(1 if k in over else n for k, n in enumerate(x.shape)))
        if keepdims
        else y
    )


def _wide(x: Tensor) -> Tensor:
    """Sums and products of small integers are int64 (or uint64), as in the array API."""
    if is_bool(x.type.dtype) or is_integer(x.type.dtype):
        return cast(x, "uint64" if is_unsigned(x.type.dtype) else "int64")
    return x


@public
def sum(x: object, axis: object = None, keepdims: bool = False, dtype: object = None) -> Tensor:
    """Sum over `axis` (all by default); float32 stays float32, summed in blocks.

    Shapes: that of x without the axes, or with size 1 there.
    Dtypes: numbers; small integers and bools become int64 (unsigned: uint64), or `dtype`.
    Gradient: g broadcast.
    Raises ShapeError for an axis that x has not.
    Source: BHG 6.1.
    """
    t = tensor_argument("sum", x)
    return _reduce(SUM, cast(t, as_dtype(dtype)) if dtype is not None else _wide(t), axis, keepdims)


@public
def prod(x: object, axis: object = None, keepdims: bool = False, dtype: object = None) -> Tensor:
    """Product over `axis` (all by default).

    Shapes: that of x without the axes, or with size 1 there.
    Dtypes: numbers; small integers and bools become int64 (unsigned: uint64), or `dtype`.
    Gradient: g times the product of the others, made of prefix and suffix products, so that it is
    right where elements are 0.
    Raises ShapeError for an axis that x has not.
    Source: BHG 6.5.
    """
    t = tensor_argument("prod", x)
    return _reduce(
        PROD, cast(t, as_dtype(dtype)) if dtype is not None else _wide(t), axis, keepdims
    )


@public
def max(x: object, axis: object = None, keepdims: bool = False) -> Tensor:
    """Maximum over `axis` (all by default), nan if there is one.

    Shapes: that of x without the axes, or with size 1 there.
    Dtypes: real numbers and bools.
    Gradient: g to the largest element; ties share it evenly.
    Raises ShapeError for an axis that x has not or of size 0, GraphTypeError for complex numbers.
    Source: BHG 6.3.
    """
    return _reduce(MAX, _real("max", x), axis, keepdims)


@public
def min(x: object, axis: object = None, keepdims: bool = False) -> Tensor:
    """Minimum over `axis` (all by default), nan if there is one.

    Shapes: that of x without the axes, or with size 1 there.
    Dtypes: real numbers and bools.
    Gradient: g to the smallest element; ties share it evenly.
    Raises ShapeError for an axis that x has not or of size 0, GraphTypeError for complex numbers.
    Source: BHG 6.4.
    """
    return _reduce(MIN, _real("min", x), axis, keepdims)


amax, amin = max, min


def _real(op: str, x: object) -> Tensor:
    t = tensor_argument(op, x)
    if is_complex(t.type.dtype):
        raise GraphTypeError(f"{op}: complex numbers have no order, got {t.type}")
    return t


@public
def any(x: object, axis: object = None, keepdims: bool = False) -> Tensor:
    """Whether any element is true (not zero) over `axis` (all by default).

    Shapes: that of x without the axes, or with size 1 there.
    Dtypes: any; the result is bool.
    Gradient: none, a constant for every derivative.
    Raises ShapeError for an axis that x has not.
    """
    return _reduce(ANY, as_bool(tensor_argument("any", x)), axis, keepdims)


@public
def all(x: object, axis: object = None, keepdims: bool = False) -> Tensor:
    """Whether all elements are true (not zero) over `axis` (all by default).

    Shapes: that of x without the axes, or with size 1 there.
    Dtypes: any; the result is bool.
    Gradient: none, a constant for every derivative.
    Raises ShapeError for an axis that x has not.
    """
    return _reduce(ALL, as_bool(tensor_argument("all", x)), axis, keepdims)


def _floating(x: Tensor) -> Tensor:
    return x if is_differentiable(x.type.dtype) else cast(x, DEFAULT_FLOAT)


@public
def mean(x: object, axis: object = None, keepdims: bool = False, dtype: object = None) -> Tensor:
    """Mean over `axis` (all by default).

    Shapes: that of x without the axes, or with size 1 there.
    Dtypes: floats; integers become float32, or `dtype`.
    Gradient: g / n broadcast.
    Raises ShapeError for an axis that x has not.
    Source: BHG 6.2; CN 1.8.
    """
    t = tensor_argument("mean", x)
    t = cast(t, as_dtype(dtype)) if dtype is not None else _floating(t)
    n = _product(t.shape[a] for a in normalize_axes("mean", axis, t.ndim))
    return FUNCTIONS["divide"](sum(t, axis, keepdims), float(n))


@public
def var(x: object, axis: object = None, keepdims: bool = False, ddof: float = 0) -> Tensor:
    """Variance over `axis` (all by default): the sum of abs(x - mean)^2 by n - ddof.

    Shapes: that of x without the axes, or with size 1 there.
    Dtypes: floats; integers become float32; of complex numbers the result is real.
    Gradient: 2 g (x - mean) / (n - ddof).
    Raises ShapeError for an axis that x has not.
    Source: CN 1.8.
    """
    t = _floating(tensor_argument("var", x))
    ddof = number("var", "ddof", ddof, positive=None)
    n = _product(t.shape[a] for a in normalize_axes("var", axis, t.ndim))
    centred = FUNCTIONS["subtract"](t, mean(t, axis, keepdims=True))
    return FUNCTIONS["divide"](
        sum(
            FUNCTIONS["square"](FUNCTIONS["abs"](centred) if is_complex(t.type.dtype) else centred),
            axis,
            keepdims,
        ),
        float(n - ddof),
    )


@public
def std(x: object, axis: object = None, keepdims: bool = False, ddof: float = 0) -> Tensor:
    """Standard deviation over `axis` (all by default): the root of `var`.

    Shapes: that of x without the axes, or with size 1 there.
    Dtypes: as var.
    Gradient: g (x - mean) / ((n - ddof) y), 0 where y is 0.
    Raises ShapeError for an axis that x has not.
    """
    square = var(x, axis, keepdims, ddof)
    zero = FUNCTIONS["equal"](square, 0)
    where = FUNCTIONS["where"]
    return where(zero, 0.0, FUNCTIONS["sqrt"](where(zero, 1.0, square)))


@public
def logsumexp(x: object, axis: object = None, keepdims: bool = False) -> Tensor:
    """log(sum(e^x)) over `axis` (all by default) without overflow; -inf if all are, or none is.

    Shapes: that of x without the axes, or with size 1 there.
    Dtypes: real floats; integers become float32.
    Gradient: g softmax(x).
    Raises ShapeError for an axis that x has not, GraphTypeError for complex numbers.
    Source: catalogue 8.
    """
    t = _real("logsumexp", _floating(tensor_argument("logsumexp", x)))
    if t.size == 0:
        return FUNCTIONS["log"](sum(t, axis, keepdims))
    top = FUNCTIONS["stop_gradient"](max(t, axis, keepdims=True))
    top = FUNCTIONS["where"](FUNCTIONS["isfinite"](top), top, constant(0, t.type.dtype))
    total = FUNCTIONS["log"](
        sum(FUNCTIONS["exp"](FUNCTIONS["subtract"](t, top)), axis, keepdims=True)
    )
    y = FUNCTIONS["add"](total, top)
    over = normalize_axes("logsumexp", axis, t.ndim)
    return (
        y
        if keepdims
        else FUNCTIONS["reshape"](y, tuple(n for k, n in enumerate(t.shape) if k not in over))
    )


def _arg(op: str, which: Any, x: object, axis: int | None, keepdims: bool) -> Tensor:
    t = _real(op, x)
    flat = FUNCTIONS["flatten"](t) if axis is None else t
    a = 0 if axis is None else normalize_axis(op, axis, t.ndim)
    best = FUNCTIONS["stop_gradient"](which(flat, axis=a, keepdims=True))
    same = FUNCTIONS["equal"](flat, best)
    if is_differentiable(t.type.dtype):  # the first nan wins, as in NumPy
        same = FUNCTIONS["logical_or"](same, FUNCTIONS["isnan"](FUNCTIONS["stop_gradient"](flat)))
    n = flat.shape[a]
    place = FUNCTIONS["iota"](flat.shape, a)
    y = min(
        FUNCTIONS["where"](same, place, constant(n, "int64")),
        axis=a,
        keepdims=keepdims and axis is not None,
    )
    return FUNCTIONS["reshape"](y, (1,) * t.ndim) if keepdims and axis is None else y


@public
def argmax(x: object, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Index (int64) of the first maximum along `axis`, or of all elements in row-major order.

    Shapes: that of x without the axes, or with size 1 there.
    Dtypes: real numbers; nan comes first.
    Gradient: none, a constant for every derivative.
    Raises ShapeError for an axis that x has not or of size 0, GraphTypeError for complex numbers.
    Source: catalogue 8.
    """
    return _arg("argmax", max, x, axis, keepdims)


@public
def argmin(x: object, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Index (int64) of the first minimum along `axis`, or of all elements in row-major order.

    Shapes: that of x without the axes, or with size 1 there.
    Dtypes: real numbers; nan comes first.
    Gradient: none, a constant for every derivative.
    Raises ShapeError for an axis that x has not or of size 0, GraphTypeError for complex numbers.
    Source: catalogue 8.
    """
    return _arg("argmin", min, x, axis, keepdims)


@public
def count_nonzero(x: object, axis: object = None, keepdims: bool = False) -> Tensor:
    """How many elements over `axis` (all by default) are not zero, int64.

    Shapes: that of x without the axes, or with size 1 there.
    Dtypes: any.
    Gradient: none, a constant for every derivative.
    Raises ShapeError for an axis that x has not.
    """
    return sum(as_bool(tensor_argument("count_nonzero", x)), axis, keepdims)
