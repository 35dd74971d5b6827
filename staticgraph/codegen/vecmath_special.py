"""The error function family, the normal distribution and what is built on it."""

from __future__ import annotations

from staticgraph.codegen.simd import V, select
from staticgraph.codegen.vecmath_core import (
    INF,
    Pair,
    clamp,
    exp_poly,
    exp_reduce,
    log,
    pieces,
    poly,
    ratio,
    scale,
    table,
    two_product,
    two_sum,
)

# erfc is zero beyond (float32, float64); and the middle of the map t = (a - c) / (a + c).
_ERFC_END = {"f32": 11.0, "f64": 28.0}
_ERFCX_CENTER = {"f32": 3.0, "f64": 4.0}
_NORMAL_END = {"f32": 15.5, "f64": 39.0}


def logistic_product(x: V, e: V, t: V) -> V:
    """x * sigmoid(z), z of the sign of x, where exp(-|z|) = (1 + e) * 2^k (k in t, see `scale`).

    The factor of a tail can be zero or denormal where the product is not, so negative lanes are
    scaled last. At -inf the limit, -0.0.
    """
    below = x < 0.0
    bounded = select(x < -(2.0**10), -(2.0**10), x)
    value = select(below, bounded.fma(e, bounded), x) / (scale(e + 1.0, t) + 1.0)
    return select(below, scale(value, t), value)


def erf(x: V) -> V:
    a = x.abs()
    z = x * x
    small = a.fma(poly(z, table("ERF", x)), a)
    return select(a < 1.0, small, 1.0 - scale(*_upper_erfc(a))).copysign(x)


def erfc(x: V) -> V:
    y = scale(*_upper_erfc(x.abs()))
    return select(x < 0.0, 2.0 - y, y)


def _upper_erfc(a: V) -> tuple[V, V]:
    """(p, t) with erfc(a) = p * 2^k, k in t, for a >= 0."""
    a = clamp(a, 0.0, _ERFC_END[a.code])
    return _scaled_erfc(a, 1.0, (a + a, None), two_product(a, a))


def _lower_tail(x: V) -> tuple[V, V, V]:
    """(a, p, t): a = |x| within the range, Phi(-a) = erfc(a / sqrt(2)) / 2 = p * 2^k."""
    a = clamp(x.abs(), 0.0, _NORMAL_END[x.code])
    root, root_low = pieces("sqrt2", x.code, 2)
    double = a * root
    double_low = a.fma(root_low, a.fma(root, -double))
    p, t = _scaled_erfc(a, 0.5**0.5, (double, double_low), two_product(a * 0.5, a))
    return a, p * 0.5, t


def _scaled_erfc(a: V, unit: float, double: tuple[V, V | None], square: Pair) -> tuple[V, V]:
    """(p, t) with erfc(u) = p * 2^k, k in t, for u = a * unit >= 0, given 2 u and u * u as pairs.

    exp(-u^2) needs the square as a pair. The rest, erfcx(u) = exp(u^2) erfc(u), is smooth on
    [0, inf) in t = (u - c) / (u + c) once divided by its asymptote 1 / (1 + 2 u).
    """
    r, t = exp_reduce(-square[0], -square[1])
    center = _ERFCX_CENTER[a.code] / unit
    above, asymptote = a + center, double[0] + 1.0
    # One division serves both quotients, residuals make good its rounding, and the leading term
    # 1 / (1 + 2 u) is added last.
    inverse = 1.0 / (above * asymptote)
    inverse_above, leading = inverse * asymptote, inverse * above
    mapped = (a - center) * inverse_above
    rest = (-mapped).fma(a, (mapped + 1.0).fma(-center, a))
    mapped = rest.fma(inverse_above, mapped)
    rest = (-leading).fma(double[0], 1.0) - leading
    if double[1] is not None:
        rest = (-leading).fma(double[1], rest)
    bend = (poly(mapped, table("ERFCX", a)) + rest) * leading
    bend = exp_poly(r).fma(leading + bend, bend)
    return leading + bend, t


def ndtr(x: V) -> V:
    """The normal distribution function."""
    _, p, t = _lower_tail(x)
    y = scale(p, t)
    return select(x > 0.0, 1.0 - y, y)


def gelu(x: V) -> V:
    """x * ndtr(x); -0.0 at -inf, the limit."""
    a, p, t = _lower_tail(x)
    return select(x < 0.0, scale(-a * p, t), (-a).fma(scale(p, t), x))


def gelu_tanh(x: V) -> V:
    """x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), the argument of the exponential as a pair."""
    a = clamp(x.abs(), 0.0, 32.0)
    first, cubic = pieces("gelu_tanh", x.code, 2), pieces("gelu_tanh_cubic", x.code, 2)
    square, square_low = two_product(a, a)
    v, v_low = two_product(square, x.const(cubic[0]))
    v_low = square.fma(cubic[1], square_low.fma(cubic[0], v_low))
    w, w_low = two_sum(v, first[0])
    z, z_low = two_product(a, w)
    z_low = a.fma(w_low + (v_low + first[1]), z_low)
    r, t = exp_reduce(-z, -z_low)
    return logistic_product(x, exp_poly(r), t)


def erfinv(x: V) -> V:
    """Two rational functions: of x^2 in the middle, of sqrt(-log(1 - |x|)) in the tails.

    Both give the small distance to a leading term, |x| or the root, so that their own rounding
    hardly matters.
    """
    a = x.abs()
    center = a < 0.88
    root = (-log(1.0 - a)).sqrt()
    t = select(center, a.fma(a, -0.7744), root)
    lead = select(center, a, root)
    value = ratio(t, center, "ERFINV_CENTER", "ERFINV_TAIL").fma(select(center, a, 1.0), lead)
    return select(a.eq(1.0), INF, value).copysign(x)
