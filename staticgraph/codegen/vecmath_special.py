"""The error function family, the normal distribution and what is built on it; gamma functions."""

from __future__ import annotations

from decimal import Decimal

from staticgraph.codegen.simd import V, select
from staticgraph.codegen.vecmath_core import (
    clamp,
    exp_of,
    exp_poly,
    exp_reduce,
    pieces,
    poly,
    scale,
    table,
    two_product,
    two_sum,
)

# erfc is zero beyond (float32, float64); and the middle of the map t = (a - c) / (a + c).
_ERFC_END = {"f32": 11.0, "f64": 28.0}
_ERFCX_CENTER = {"f32": 3.0, "f64": 4.0}
_NORMAL_END = {"f32": 15.5, "f64": 39.0}


def tail_product(x: V, below: V, above: V, t: V) -> V:
    """x * below * 2^k for negative x (k in t, see `scale`), x * above for the others.

    The factor of a tail can be zero or denormal where the product is not. At -inf the limit, -0.0.
    """
    bounded = select(x < -2.0**10, -(2.0**10), x)
    return select(x < 0.0, scale(bounded * below, t), x * above)


def erf(x: V) -> V:
    a = x.abs()
    z = x * x
    small = a.fma(poly(z, table("ERF", x)), a)
    p, t = _scaled_erfc(*_square(a))
    return select(a < 1.0, small, 1.0 - scale(p, t)).copysign(x)


def erfc(x: V) -> V:
    p, t = _scaled_erfc(*_square(x.abs()))
    y = scale(p, t)
    return select(x < 0.0, 2.0 - y, y)


def _square(a: V) -> tuple[V, V, V]:
    a = clamp(a, 0.0, _ERFC_END[a.code])
    return a, *two_product(a, a)


def _scaled_erfc(a: V, square: V, low: V) -> tuple[V, V]:
    """(p, t) with erfc(a) = p * 2^k, k in t, for 0 <= a; `square` + `low` is a * a.

    exp(-a^2) needs the square as a pair. The rest, erfcx(a) = exp(a^2) erfc(a), is smooth on
    [0, inf) in t = (a - c) / (a + c) once divided by its asymptote 1 / (1 + 2 a).
    """
    r, t = exp_reduce(-square, -low)
    center = _ERFCX_CENTER[a.code]
    double = a + a
    above, asymptote = a + center, double + 1.0
    # One division serves both quotients; a residual makes each of them right to half an ulp.
    inverse = 1.0 / (above * asymptote)
    inverse_above, inverse_asymptote = inverse * asymptote, inverse * above
    mapped = (a - center) * inverse_above
    rest = (-mapped).fma(a, (mapped + 1.0).fma(-center, a))
    mapped = rest.fma(inverse_above, mapped)
    numerator = poly(mapped, table("ERFCX", a))
    smooth = numerator * inverse_asymptote
    rest = (-smooth).fma(double, numerator) - smooth
    smooth = rest.fma(inverse_asymptote, smooth)
    return smooth.fma(exp_poly(r), smooth), t


def _lower_tail(x: V) -> tuple[V, V]:
    """(p, t) with Phi(-|x|) = p * 2^k."""
    a = clamp(x.abs(), 0.0, _NORMAL_END[x.code])
    p, t = _scaled_erfc(a * 0.5**0.5, *two_product(a * 0.5, a))
    return p * 0.5, t


def ndtr(x: V) -> V:
    """The normal distribution function."""
    p, t = _lower_tail(x)
    y = scale(p, t)
    return select(x > 0.0, 1.0 - y, y)


def gelu(x: V) -> V:
    """x * ndtr(x)."""
    p, t = _lower_tail(x)
    return tail_product(x, p, 1.0 - scale(p, t), t)


def gelu_tanh(x: V) -> V:
    """x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), the argument of the exponential as a pair."""
    a = clamp(x.abs(), 0.0, 32.0)
    first, cubic = _pair(_GELU_FIRST, x), _pair(_GELU_FIRST * Decimal("0.044715"), x)
    square, square_low = two_product(a, a)
    v, v_low = two_product(square, x.const(cubic[0]))
    v_low = square.fma(cubic[1], square_low.fma(cubic[0], v_low))
    w, w_low = two_sum(v, first[0])
    z, z_low = two_product(a, w)
    z_low = a.fma(w_low + (v_low + first[1]), z_low)
    r, t = exp_reduce(-z, -z_low)
    p = exp_poly(r) + 1.0
    total = scale(p, t) + 1.0
    return tail_product(x, p / total, 1.0 / total, t)


_GELU_FIRST = Decimal("1.59576912160573071175978423973752747")


def _pair(number: Decimal, x: V) -> tuple[float, float]:
    import numpy as np

    kind = np.float32 if x.code == "f32" else np.float64
    high = float(kind(float(number)))
    return high, float(number - Decimal(high))


def erfinv(x):
    return x


def lgamma(x):
    return x


def digamma(x):
    return x
