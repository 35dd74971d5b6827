"""Quantisation, with straight-through gradients: that of a function near the one that steps.

What a rule gives is again a function of the operands, so any order of derivative is that of the
proxy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.op import Elementwise, elementwise
from staticgraph.operands import cast as cast_tensor
from staticgraph.operands import promoted, tensor_argument
from staticgraph.ops.arith import identity
from staticgraph.ops.declare import documented, number
from staticgraph.ops.elementwise import (
    STRAIGHT_THROUGH,
    abs,
    less,
    multiply,
    stop_gradient,
    subtract,
    where,
)
from staticgraph.ops.shape import flatten
from staticgraph.registry import FUNCTIONS, add_op, public
from staticgraph.scalar import Expr
from staticgraph.tensor import Tensor
from staticgraph.types import as_dtype, is_complex, is_float, is_integer

_FLOATS = "Shapes: that of x. Dtypes: real floats; integers become float32."


@public
def straight_through(f: Callable, proxy: Callable = identity) -> Callable:
    """A function with the values of f and the derivatives, of every order, of `proxy`.

        sg.ops.straight_through(sg.ops.sign, sg.ops.hard_tanh)(x)

    Shapes: f and proxy give one type for the same operands. Dtypes: as f.
    Gradient: that of proxy.
    Raises GraphTypeError where the two give different types, or for what is no function.
    Source: BHG 14.
    """
    for role, given in (("f", f), ("proxy", proxy)):
        if not callable(given):
            raise GraphTypeError(f"straight_through: {role} is a function, got {given!r}")

    def through(*xs: object) -> Tensor:
        return apply(STRAIGHT_THROUGH, f(*xs), proxy(*xs))

    return through


def _binary_doc(text: str, gradient: str, source: str) -> str:
    return documented(text, _FLOATS, gradient, 1, source)


def _inside(g: Expr, x: Expr) -> Expr:
    return s.where(s.call("abs", x) < 1, g, s.const(0, g.dtype))


binary_sigmoid = elementwise(
    "binary_sigmoid",
    lambda x: s.where(x > 0, s.const(1, x.dtype), s.const(0, x.dtype)),
    _binary_doc("1 where x > 0, else 0.", "g / 2 where abs(x) < 1, else 0", "BHG 14.1"),
    vjp=lambda g, y, x: (_inside(0.5 * g, x),),
)
binary_tanh = elementwise(
    "binary_tanh",
    lambda x: s.where(x > 0, s.const(1, x.dtype), s.const(-1, x.dtype)),
    _binary_doc("1 where x > 0, else -1.", "g where abs(x) < 1, else 0", "BHG 14.2"),
    vjp=lambda g, y, x: (_inside(g, x),),
)


@public
def prune(x: object, rate: float = 0.9) -> Tensor:
    """0 where abs(x) is below a threshold: of n elements the sorted abs(x) at int((n - 1) rate).

    Shapes: that of x. Dtypes: real floats; integers become float32.
    Gradient: g (straight-through).
    Raises GraphTypeError for a rate outside [0, 1].
    Source: BHG 14.3.
    """
    (t,) = promoted("prune", [x], floating=True)
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        raise GraphTypeError(f"prune: rate is a number from 0 to 1, got {rate!r}")
    if is_complex(t.type.dtype):
        raise GraphTypeError(f"prune: needs real numbers, got {t.type}")
    if t.size == 0:
        return t
    size = stop_gradient(abs(t))
    threshold = FUNCTIONS["sort"](flatten(size))[int((t.size - 1) * rate)]
    kept = where(less(size, threshold), 0.0, t)
    return apply(STRAIGHT_THROUGH, kept, t)


# ---------------------------------------------------------------------------- linear quantisation

#: how x / scale is rounded; ties differ
ROUNDING = ("half_to_even", "half_away_from_zero")


def _rounded(x: Expr, mode: str) -> Expr:
    if mode == "half_to_even":
        return s.call("round", x)
    whole = s.call("trunc", x)
    one = s.call("copysign", s.const(1, x.dtype), x)
    # x - trunc(x) is exact, x + 1/2 is not.
    return s.where(s.call("abs", x - whole) >= 0.5, whole + one, whole)


def _level(x: Expr, scale: Expr, zero_point: Expr, mode: str) -> Expr:
    """The level before it is limited."""
    return _rounded(x / scale, mode) + zero_point


def _quantize(x, scale, zero_point, *, low=-128.0, high=127.0, mode="half_to_even"):
    level = _level(x, scale, zero_point, mode)
    upper = s.where(level > high, s.const(high, x.dtype), level)
    return s.where(level < low, s.const(low, x.dtype), upper)


def _quantize_vjp(g, y, x, scale, zero_point, *, low=-128.0, high=127.0, mode="half_to_even"):
    # The proxy is x / scale + zero_point inside the limits, and constant beyond them.
    level = _level(x, scale, zero_point, mode)
    h = s.where(s.call("logical_and", level >= low, level <= high), g, s.const(0, g.dtype))
    slope = h / scale
    return slope, -(slope * (x / scale)), h


QUANTIZE = add_op(Elementwise("quantize_linear", _quantize, _quantize_vjp))


def _limits(op: str, dtype: object, narrow_range: bool) -> tuple[str, float, float]:
    name = as_dtype(dtype)
    if not is_integer(name) or np.iinfo(name).bits > 16:
        raise GraphTypeError(f"{op}: dtype is an integer of 8 or 16 bits, got {name}")
    info = np.iinfo(name)
    return name, float(info.min + bool(narrow_range)), float(info.max)


def _spread(op: str, name: str, given: object, x: Tensor) -> Tensor:
    """A scale or zero point in the dtype of x, of which each number serves some of x."""
    t = cast_tensor(tensor_argument(op, given, name), x.type.dtype)
    if t.ndim > x.ndim or any(
        n not in (1, m) for n, m in zip(t.shape[::-1], x.shape[::-1], strict=False)
    ):
        raise ShapeError(f"{op}: {name} {t.type} does not broadcast to {x.type}")
    return t


@public
def quantize_linear(
    x: object,
    scale: object,
    zero_point: object = 0,
    round_mode: str = "half_to_even",
    narrow_range: bool = False,
    dtype: object = "int8",
    *,
    ste: bool = True,
) -> Tensor:
    """clip(round(x / scale) + zero_point, lo, hi) with the limits of an integer dtype.

    With `ste` the result holds these integers, exactly, in the dtype of x, and has straight-through
    gradients; without it has the integer dtype (nan becomes lo) and no gradient. `narrow_range`
    leaves out the lowest integer; `round_mode` "half_away_from_zero" takes ties away from 0.

    Shapes: scale and zero_point broadcast to x: (C, 1, 1) for one number per channel. Dtypes: x
    real floats, integers become float32; `dtype` an integer of 8 or 16 bits.
    Gradient: h / scale, -h x / scale^2 and h, where h is g inside the limits and 0 beyond them.
    Through dequantize_linear that is (round(x / s) - x / s) for the scale and 0 for the zero point
    inside, q - z and -s beyond.
    Raises ShapeError for shapes that do not fit and a number as scale that is not above 0,
    GraphTypeError for another dtype or round_mode.
    Source: BHG 14.4.
    """
    op = "quantize_linear"
    (t,) = promoted(op, [x], floating=True)
    if not is_float(t.type.dtype):
        raise GraphTypeError(f"{op}: needs real numbers, got {t.type}")
    if round_mode not in ROUNDING:
        modes = " or ".join(ROUNDING)
        raise GraphTypeError(f"{op}: round_mode is {modes}, got {round_mode!r}")
    name, low, high = _limits(op, dtype, narrow_range)
    if isinstance(scale, (int, float)):
        scale = number(op, "scale", scale)
    s_, z = (_spread(op, k, v, t) for k, v in (("scale", scale), ("zero_point", zero_point)))
    y = apply(QUANTIZE, t, s_, z, low=low, high=high, mode=round_mode)
    if ste:
        return y
    return cast_tensor(where(y >= low, y, low), name)


@public
def dequantize_linear(q: object, scale: object, zero_point: object = 0) -> Tensor:
    """(q - zero_point) scale.

    Shapes: operands broadcast. Dtypes: q integers or floats; the result has the dtype of the scale,
    integers become float32.
    Gradient: (g scale, g (q - zero_point), -g scale).
    Raises ShapeError where shapes do not broadcast, GraphTypeError for complex numbers.
    Source: BHG 14.5.
    """
    op = "dequantize_linear"
    (step,) = promoted(op, [scale], floating=True)
    levels, zero = (tensor_argument(op, v, k) for k, v in (("q", q), ("zero_point", zero_point)))
    whole = (
        cast_tensor(t, step.type.dtype) if is_integer(t.type.dtype) else t for t in (levels, zero)
    )
    levels, zero, step = promoted(op, [*whole, step])
    return multiply(subtract(levels, zero), step)
