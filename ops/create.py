"""Tensors from nothing: positions, constants of one value, the identity matrix."""

from __future__ import annotations

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import ShapeError
from staticgraph.ir import apply
from staticgraph.nest import Nest
from staticgraph.op import NestOp
from staticgraph.operands import constant, normalize_axis, tensor_argument
from staticgraph.ops.shape import broadcast_to
from staticgraph.registry import public, register
from staticgraph.tensor import Tensor
from staticgraph.types import DTYPES, TensorType, as_dtype, as_shape


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
    """The position along one axis: result[i] = i[axis].

    Shapes: `shape`. Dtypes: `dtype`.
    Gradient: none, a constant for every derivative.
    Raises ShapeError for an axis that `shape` has not.
    """
    sizes = as_shape(shape)
    return apply(
        Iota, shape=sizes, axis=normalize_axis("iota", axis, len(sizes)), dtype=as_dtype(dtype)
    )


@public
def arange(
    start: int | float, stop: int | float | None = None, step: int | float = 1, dtype: object = None
) -> Tensor:
    """Values start, start + step, ... below stop (above it for a negative step).

    Shapes: (how many there are,). Dtypes: `dtype`, by default int64 for ints, else float32.
    Gradient: none, a constant for every derivative.
    Raises ShapeError for a step of 0.
    Source: BHG 9.2.
    """
    if step == 0:
        raise ShapeError("arange: step must not be 0")
    values = np.arange(start, stop, step) if stop is not None else np.arange(0, start, step)
    if dtype is None:
        return constant(values if values.dtype.kind == "i" else values.astype("float32"))
    return constant(values.astype(as_dtype(dtype)))


@public
def full(shape: object, value: object, dtype: object = None) -> Tensor:
    """A tensor of one value, which may be a tensor that broadcasts.

    Shapes: `shape`. Dtypes: `dtype`, by default that of the value.
    Gradient: of the value: the sum of g; none for a number.
    Raises ShapeError for a negative size.
    Source: BHG 9.1.
    """
    return broadcast_to(constant(value, dtype), as_shape(shape))


@public
def zeros(shape: object, dtype: object = "float32") -> Tensor:
    """A tensor of zeros.

    Shapes: `shape`. Dtypes: `dtype`.
    Gradient: none, a constant for every derivative.
    Raises ShapeError for a negative size.
    """
    return full(shape, 0, dtype)


@public
def ones(shape: object, dtype: object = "float32") -> Tensor:
    """A tensor of ones.

    Shapes: `shape`. Dtypes: `dtype`.
    Gradient: none, a constant for every derivative.
    Raises ShapeError for a negative size.
    """
    return full(shape, 1, dtype)


@public
def full_like(x: object, value: object, dtype: object = None) -> Tensor:
    """A tensor of one value with the shape and dtype of another.

    Shapes: that of x. Dtypes: `dtype`, by default that of x.
    Gradient: none, a constant for every derivative.
    Raises GraphTypeError for what is no tensor.
    """
    t = tensor_argument("full_like", x)
    return full(t.shape, value, dtype or t.type.dtype)


@public
def zeros_like(x: object, dtype: object = None) -> Tensor:
    """Zeros with the shape and dtype of another tensor.

    Shapes: that of x. Dtypes: `dtype`, by default that of x.
    Gradient: none, a constant for every derivative.
    Raises GraphTypeError for what is no tensor.
    Source: catalogue 8.
    """
    return full_like(x, 0, dtype)


@public
def ones_like(x: object, dtype: object = None) -> Tensor:
    """Ones with the shape and dtype of another tensor.

    Shapes: that of x. Dtypes: `dtype`, by default that of x.
    Gradient: none, a constant for every derivative.
    Raises GraphTypeError for what is no tensor.
    Source: catalogue 8.
    """
    return full_like(x, 1, dtype)


@public
def eye(n: int, m: int | None = None, dtype: object = "float32") -> Tensor:
    """Ones on the diagonal of an n by m matrix, zeros elsewhere.

    Shapes: (n, m), by default (n, n). Dtypes: `dtype`.
    Gradient: none, a constant for every derivative.
    Raises ShapeError for a negative size.
    Source: catalogue 8.
    """
    return constant(np.eye(*as_shape((n, n if m is None else m))), dtype)
