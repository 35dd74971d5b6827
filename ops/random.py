"""Random numbers as pure functions of a key, and the layers that use them.

Published as `staticgraph.random`, all but `dropout` and `rrelu`. No derivative runs through bits;
it does through the parameters of a distribution.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.operands import cast, constant, normalize_axis, promoted, tensor_argument
from staticgraph.ops.activation import PRELU
from staticgraph.ops.declare import number
from staticgraph.ops.elementwise import (
    add,
    bitwise_and,
    clip,
    divide,
    erf,
    erfinv,
    less,
    log,
    log1p,
    multiply,
    negative,
    right_shift,
    subtract,
    where,
)
from staticgraph.ops.index import take_known
from staticgraph.ops.randombits import (
    MANTISSA,
    bits,
    float_dtype,
    fold_in,
    key,
    mantissa,
    open_unit,
    random_bits,
    split,
    unit,
)
from staticgraph.ops.reduce import argmax
from staticgraph.ops.shape import broadcast_to, moveaxis
from staticgraph.ops.sort import argsort
from staticgraph.registry import public
from staticgraph.tensor import Tensor
from staticgraph.types import as_dtype, as_shape, broadcast_shapes, is_float, is_integer

__all__ = [
    "bernoulli",
    "bits",
    "categorical",
    "exponential",
    "fold_in",
    "gumbel",
    "key",
    "normal",
    "permutation",
    "randint",
    "split",
    "truncated_normal",
    "uniform",
]


# ---------------------------------------------------------------------------- distributions


def _moved(value: Tensor, loc: object, scale: object) -> Tensor:
    """loc + scale * value, with no operation for 0 and 1."""
    if not (isinstance(scale, (int, float)) and scale == 1):
        value = multiply(value, scale)
    if not (isinstance(loc, (int, float)) and loc == 0):
        value = add(value, loc)
    return value


def uniform(
    key: object,
    shape: object = (),
    low: object = 0.0,
    high: object = 1.0,
    dtype: object = "float32",
) -> Tensor:
    """Uniform floats in [low, high); with 0 and 1 they are multiples of 2^-24 (float64: 2^-53).

    Shapes: low and high broadcast with `shape`. Raises ShapeError where numbers are not low < high,
    GraphTypeError for a dtype that is no float.
    Source: catalogue 8.
    """
    name = float_dtype("random.uniform", dtype)
    u = unit("random.uniform", key, shape, name)
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        if not low < high:
            raise ShapeError(f"random.uniform: low must be below high, got {low!r} and {high!r}")
        if (low, high) == (0, 1):
            return u
    low, high = (cast(t, name) for t in promoted("random.uniform", [low, high], floating=True))
    value = add(low, multiply(u, subtract(high, low)))
    # Rounding may reach `high`; low itself is then as good a number.
    return where(less(value, high), value, low)


def normal(
    key: object,
    shape: object = (),
    mean: object = 0.0,
    std: object = 1.0,
    dtype: object = "float32",
) -> Tensor:
    """Normally distributed floats: sqrt(2) erfinv(u), symmetric, always finite.

    u is an odd multiple of 2^-24 (float64: 2^-53) between -1 and 1, so the extremes are +-5.4
    (float64: +-8.3) standard deviations.

    Shapes: mean and std broadcast with `shape`. Raises GraphTypeError for a dtype that is no float.
    """
    name = float_dtype("random.normal", dtype)
    width = MANTISSA[name]
    whole = mantissa("random.normal", key, shape, name)
    odd = add(multiply(whole, 2), 1 - (1 << width))  # exact: |odd| < 2^width
    return _moved(multiply(erfinv(multiply(cast(odd, name), 2.0**-width)), sqrt(2.0)), mean, std)


def truncated_normal(
    key: object,
    shape: object = (),
    low: object = -2.0,
    high: object = 2.0,
    dtype: object = "float32",
) -> Tensor:
    """Standard normal numbers between low and high: sqrt(2) erfinv of uniform numbers between the
    bounds' erf(x / sqrt(2)).

    Bounds in a tail leave few different numbers: beyond 4 standard deviations in float32, 7 in
    float64.

    Shapes: low and high broadcast with `shape`. Raises ShapeError where numbers are not low < high,
    GraphTypeError for a dtype that is no float.
    """
    op = "random.truncated_normal"
    name = float_dtype(op, dtype)
    numbers = all(isinstance(b, (int, float)) for b in (low, high))
    if numbers and not low < high:  # type: ignore[operator]
        raise ShapeError(f"{op}: low must be below high, got {low!r} and {high!r}")
    low, high = (cast(t, name) for t in promoted(op, [low, high], floating=True))
    start, end = (erf(multiply(b, sqrt(0.5))) for b in (low, high))
    u = add(start, multiply(open_unit(op, key, shape, name), subtract(end, start)))
    inside = 1.0 - 2.0 ** -MANTISSA[name]  # erfinv is finite there
    return clip(multiply(erfinv(clip(u, -inside, inside)), sqrt(2.0)), low, high)


def exponential(
    key: object, shape: object = (), scale: object = 1.0, dtype: object = "float32"
) -> Tensor:
    """Exponentially distributed floats of mean `scale`: -log(1 - u), u uniform in [0, 1).

    Shapes: scale broadcasts with `shape`. Raises GraphTypeError for a dtype that is no float.
    """
    name = float_dtype("random.exponential", dtype)
    u = unit("random.exponential", key, shape, name)
    return _moved(negative(log1p(negative(u))), 0, scale)


def gumbel(
    key: object,
    shape: object = (),
    loc: object = 0.0,
    scale: object = 1.0,
    dtype: object = "float32",
) -> Tensor:
    """Floats of the standard Gumbel distribution times scale plus loc: -log(-log(u)), finite.

    Shapes: loc and scale broadcast with `shape`. Raises GraphTypeError for a dtype that is no
    float.
    """
    name = float_dtype("random.gumbel", dtype)
    u = open_unit("random.gumbel", key, shape, name)
    return _moved(negative(log(negative(log(u)))), loc, scale)


def categorical(key: object, logits: object, axis: int = -1, shape: object = None) -> Tensor:
    """Indices (int64) along `axis` of the logits, each with probability softmax(logits).

    The index of the largest logit after Gumbel noise was added; a logit of -inf is never chosen.

    Shapes: `shape` is that of the result, by default that of the logits without `axis`, which must
    broadcast to it. Gradient: none. Raises ShapeError where it does not, or for an axis that the
    logits have not.
    """
    op = "random.categorical"
    (t,) = promoted(op, [logits], floating=True)
    last = moveaxis(t, normalize_axis(op, axis, t.ndim), -1)
    sizes = last.shape[:-1] if shape is None else as_shape(shape)
    if broadcast_shapes(last.shape[:-1], sizes) != sizes:
        raise ShapeError(f"{op}: logits {t.type} without axis {axis} do not broadcast to {sizes}")
    noise = gumbel(key, (*sizes, last.shape[-1]), dtype=last.type.dtype)
    return argmax(add(last, noise), -1)


def bernoulli(key: object, shape: object = None, p: object = 0.5) -> Tensor:
    """True with probability p, which may be a tensor that broadcasts to `shape`.

    Shapes: `shape`, by default that of p. Gradient: none. Raises ShapeError where p does not
    broadcast.
    Source: catalogue 8.
    """
    if isinstance(shape, (float, Tensor)):
        raise ShapeError(f"random.bernoulli: the shape comes before p; give p={shape!r} by name")
    return _bernoulli("random.bernoulli", key, p, shape)


def _bernoulli(op: str, key: object, p: object, shape: object) -> Tensor:
    (chance,) = promoted(op, [p], floating=True)
    sizes = chance.shape if shape is None else as_shape(shape)
    if broadcast_shapes(chance.shape, sizes) != sizes:
        raise ShapeError(f"{op}: p {chance.type} does not broadcast to {sizes}")
    return less(unit(op, key, sizes, chance.type.dtype), chance)


def randint(key: object, shape: object, low: int, high: int, dtype: object = "int64") -> Tensor:
    """Uniform integers in [low, high); no integer is likelier than another by more than 2^-32.

    Raises ShapeError where low is not below high or the dtype does not hold them, GraphTypeError
    for a dtype that is no integer.
    """
    name = as_dtype(dtype)
    if not is_integer(name):
        raise GraphTypeError(f"random.randint: dtype is an integer dtype, got {name}")
    info = np.iinfo(name)
    if not info.min <= low < high <= int(info.max) + 1:
        raise ShapeError(f"random.randint: needs low < high within {name}, got {low} and {high}")
    span = int(high) - int(low)
    raw = random_bits("random.randint", key, shape, "uint64")
    if span <= 1 << 32:
        # floor(raw * span / 2^64) by halves: no carry is lost and no division is needed.
        lower = right_shift(multiply(bitwise_and(raw, 0xFFFFFFFF), span), 32)
        raw = right_shift(add(multiply(right_shift(raw, 32), span), lower), 32)
    elif span < 1 << 64:
        more = random_bits("random.randint", fold_in(key, 1), shape, "uint64")
        # floor((raw + more / 2^64) * span / 2^64): the upper word of the one product, and the carry
        # that the other brings to its lower word.
        lower = multiply(raw, constant(span, "uint64"))
        carry = less(add(lower, _upper_product(more, span)), lower)
        raw = add(_upper_product(raw, span), cast(carry, "uint64"))
    return add(cast(raw, name), int(low))


def _upper_product(x: Tensor, factor: int) -> Tensor:
    """floor(x * factor / 2^64) of unsigned 64-bit numbers, by halves."""
    high, low = (constant(n, "uint64") for n in divmod(factor, 1 << 32))
    x_high, x_low = right_shift(x, 32), bitwise_and(x, 0xFFFFFFFF)
    middle = add(multiply(x_high, low), right_shift(multiply(x_low, low), 32))
    crossed = add(multiply(x_low, high), bitwise_and(middle, 0xFFFFFFFF))
    upper = add(multiply(x_high, high), right_shift(middle, 32))
    return add(upper, right_shift(crossed, 32))


def permutation(key: object, x: object, axis: int = 0) -> Tensor:
    """0..x-1 in random order for an int x, else x with its slices along `axis` in random order.

    The order is that of 64 random bits for each: all permutations are equally likely.
    Gradient: that of `take`, back to where the slices came from.
    Raises ShapeError for an axis out of range, GraphTypeError where x has no axis.
    Source: catalogue 8.
    """
    op = "random.permutation"
    if isinstance(x, (int, np.integer)) and not isinstance(x, bool):
        return argsort(random_bits(op, key, (int(x),), "uint64"))
    t = tensor_argument(op, x)
    if not t.shape:
        raise GraphTypeError(f"{op}: x must be an int or have an axis, got {t.type}")
    a = normalize_axis(op, axis, t.ndim)
    return take_known(t, argsort(random_bits(op, key, (t.shape[a],), "uint64")), a)


# ---------------------------------------------------------------------------- noise in a layer


@public
def dropout(x: object, p: float = 0.5, *, key: object = None, training: bool = True) -> Tensor:
    """x with elements set to 0 with probability p, the others divided by 1 - p.

    x itself when not training, which needs no key. The mask is computed from the key wherever it is
    needed, also in gradients.

    Shapes: that of x. Dtypes: floats; integers become float32.
    Gradient: g / (1 - p) where x was kept, else 0.
    Raises GraphTypeError for a p outside [0, 1] and, when training, without a key.
    Source: BHG 12.1.
    """
    (t,) = promoted("dropout", [x], floating=True)
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise GraphTypeError(f"dropout: p is a number from 0 to 1, got {p!r}")
    if not training or p == 0:
        return t
    zero = constant(0, t.type.dtype)
    if p == 1:
        return broadcast_to(zero, t.shape)
    if key is None:
        raise GraphTypeError("dropout: training needs key=, a key such as sg.random.key(0)")
    drop = _bernoulli("dropout", key, float(p), t.shape)
    return where(drop, zero, divide(t, 1.0 - p))


@public
def rrelu(
    x: object,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    *,
    key: object = None,
    training: bool = True,
) -> Tensor:
    """x where x > 0, else a x with a slope a for each element, uniform between lower and upper.

    When not training, which needs no key, a is (lower + upper) / 2. The slopes are computed from
    the key wherever they are needed, also in gradients.

    Shapes: that of x. Dtypes: real floats; integers become float32.
    Gradient: g where x > 0, else g a, at 0 too.
    Raises GraphTypeError without a key when training, ShapeError where lower is above upper.
    Source: THNN RReLU.
    """
    (t,) = promoted("rrelu", [x], floating=True)
    if not is_float(t.type.dtype):
        raise GraphTypeError(f"rrelu: needs real numbers, got {t.type}")
    low, high = (
        number("rrelu", name, value, positive=None)
        for name, value in (("lower", lower), ("upper", upper))
    )
    if low > high:
        raise ShapeError(f"rrelu: lower must not be above upper, got {lower!r} and {upper!r}")
    if not training or low == high:
        return apply(PRELU, t, constant((low + high) / 2, t.type.dtype))
    if key is None:
        raise GraphTypeError("rrelu: training needs key=, a key such as sg.random.key(0)")
    # The same noise for both widths of float.
    u = cast(unit("rrelu", key, t.shape, "float32"), t.type.dtype)
    return apply(PRELU, t, add(multiply(u, high - low), low))
