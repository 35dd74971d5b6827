"""Elementwise mathematics on sixteen lanes: the exponential and logarithmic families, powers.

`FUNCTIONS` is the table of everything this package can compute elementwise, from all `vecmath_*`
modules: name -> (number of operands, function of `V`). Every function is right at inf, nan, signed
zeros, denormals and the ends of the range; tests/test_vecmath.py states the error bounds.
"""

from __future__ import annotations

from collections.abc import Callable

from staticgraph.codegen import vecmath_gamma as gamma
from staticgraph.codegen import vecmath_special as special
from staticgraph.codegen import vecmath_trig as trig
from staticgraph.codegen.simd import BIAS, MANTISSA, V, select
from staticgraph.codegen.vecmath_core import (
    INF,
    NAN,
    clamp,
    exp_of,
    exp_poly,
    exp_reduce,
    exp_whole,
    fast_two_sum,
    log,
    log2_pair,
    log_ends,
    log_fraction,
    log_of_sum,
    log_split,
    pieces,
    poly,
    quotient,
    scale,
    square_root,
    square_scale,
    table,
    two_product,
    two_sum,
)


# -- exponentials ---------------------------------------------------------------------------------
def exp(x: V) -> V:
    return exp_of(x)


def exp2(x: V) -> V:
    return _exp2_of(x, None)


def _exp2_of(x: V, low: V | None) -> V:
    x = clamp(x, *{"f32": (-180.0, 180.0), "f64": (-1100.0, 1100.0)}[x.code])
    magic = 1.5 * 2.0 ** MANTISSA[x.code] + 2.0 * BIAS[x.code]
    t = x + magic
    r = x - (t - magic)
    if low is not None:
        r = r + low
    return scale(r.fma(poly(r, table("EXP2", x)), 1.0), t)


def _half_expm1(x: V) -> V:
    """(exp(x) - 1) / 2, which overflows no earlier than exp; inexact for denormal x only."""
    x = clamp(x, *{"f32": (-20.0, 88.9), "f64": (-40.0, 709.9)}[x.code])
    r, t = exp_reduce(x)
    half_power = (t.as_int() - (BIAS[x.code] + 1) << MANTISSA[x.code]).as_float()
    return half_power.fma(exp_poly(r, "EXPM1"), half_power - 0.5)


def expm1(x: V) -> V:
    half = _half_expm1(x)
    tiny = x.abs() < 2.0 ** -(MANTISSA[x.code] + 3)
    return select(tiny, x, half + half)


def sinh(x: V) -> V:
    a = x.abs()
    half = _half_exp(a)
    large = half - 0.25 / half
    z = x * x
    small = (a * z).fma(poly(z, table("SINH", x)), a)
    return select(a > 1.0, large, small).copysign(x)


def cosh(x: V) -> V:
    half = _half_exp(x.abs())
    return half + 0.25 / half


def _half_exp(x: V) -> V:
    r, t = exp_reduce(x)
    return scale(exp_whole(r), t - 1.0)


def tanh(x: V) -> V:
    a = clamp(x.abs(), 0.0, {"f32": 10.0, "f64": 20.0}[x.code])
    half = _half_expm1(a + a)
    return (half / (half + 1.0)).copysign(x)


def sigmoid(x: V) -> V:
    e = exp_of(-x.abs())
    return select(x < 0.0, e, 1.0) / (e + 1.0)


def silu(x: V) -> V:
    """x * sigmoid(x)."""
    r, t = exp_reduce(-x.abs())
    return special.logistic_product(x, exp_poly(r), t)


def softplus(x: V) -> V:
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))."""
    return select(x > 0.0, x, 0.0) + _log1p_unit(exp_of(-x.abs()))


def log_sigmoid(x: V) -> V:
    return -softplus(-x)


def logaddexp(x: V, y: V) -> V:
    difference = select(x.eq(y), 0.0, x - y)
    return select(x > y, x, y) + _log1p_unit(exp_of(-difference.abs()))


def _log1p_unit(x: V) -> V:
    """log(1 + x) for 0 <= x <= 1, without the general reduction."""
    s = x / (x + 2.0)
    z = s * s
    half = x * x * 0.5
    return x - (half - s * (half + z * poly(z, table("LOG1P_UNIT", x))))


# -- logarithms -----------------------------------------------------------------------------------
def log1p(x: V) -> V:
    return log_of_sum(*two_sum(x, 1.0)).copysign(x)


def log2(x: V) -> V:
    e, m, _ = log_split(x)
    return log_ends(x, e + _scaled_log(m, "log2e", None))


def log10(x: V) -> V:
    e, m, _ = log_split(x)
    high, low = pieces("log10_2", x.code, 2)
    return log_ends(x, e.fma(high, _scaled_log(m, "log10e", e * low)))


def _scaled_log(m: V, factor: str, extra: V | None) -> V:
    """log(m) * factor + extra for a mantissa m, the product in pairs."""
    f = m - 1.0
    high, low = fast_two_sum(f, log_fraction(f))
    c, c_low = pieces(factor, m.code, 2)
    rest = low * c if extra is None else low.fma(c, extra)
    return high.fma(c, high.fma(c_low, rest))


def asinh(x: V) -> V:
    a = x.abs()
    square = a * a
    # t = a + (sqrt(1 + a^2) - 1) is asinh's exponential less one.
    t, t_low = fast_two_sum(a, square / ((square + 1.0).sqrt() + 1.0))
    return _log_of_one_plus(t, t_low, a).copysign(x)


def acosh(x: V) -> V:
    t = x - 1.0
    square, square_low = two_product(t, t)
    v, v_low = two_sum(square, t + t)
    root, root_low = square_root(v, v_low + square_low)
    sum_, sum_low = two_sum(t, root)
    y = _log_of_one_plus(sum_, sum_low + select(v > 0.0, root_low, 0.0), x)
    return select(x < 1.0, x.const(NAN), y)


def _log_of_one_plus(t: V, t_low: V, x: V) -> V:
    """log(1 + t), or log(2 x) where x is so large that its square does not matter."""
    u, low = two_sum(t, 1.0)
    large = x > 2.0 ** (MANTISSA[x.code] // 2 + 3)
    extra = select(large, x.const(1.0), 0.0)
    return log_of_sum(select(large, x, u), select(large, 0.0, low + t_low), extra)


def atanh(x: V) -> V:
    """log(1 + 2 a / (1 - a)) / 2."""
    a = x.abs()
    below, below_low = fast_two_sum(a.const(1.0), -a)
    ratio, ratio_low = quotient(a + a, below, below_low)
    u, low = two_sum(ratio, 1.0)
    return (log_of_sum(u, low + ratio_low) * 0.5).copysign(x)


# -- powers and roots -----------------------------------------------------------------------------
def power(x: V, y: V) -> V:
    """C's pow: the logarithm to base two as a pair, times y, and exp2 of the product."""
    a = x.abs()
    log_high, log_low = log2_pair(a)
    infinite = a.eq(INF)
    log_high = select(a.eq(0.0), -INF, select(a < INF, log_high, a))
    product = y * log_high
    low = y.fma(log_low, y.fma(log_high, -product))
    finite = product.abs() < 2.0**12
    value = _exp2_of(product, select(finite, low, 0.0))

    whole = y.eq(y.trunc())
    half = y * 0.5
    odd = whole & half.ne(half.trunc())
    negative = x < 0.0
    undefined = negative & ~whole & ~infinite
    value = select(undefined, value.const(NAN), value)
    value = select(odd & x.sign_bit(), -value, value)
    one = y.eq(0.0) | x.eq(1.0) | (x.eq(-1.0) & y.abs().eq(INF))
    return select(one, 1.0, value)


def cbrt(x: V) -> V:
    """A polynomial for the inverse root of the mantissa, Newton steps, one correction by fma."""
    code, mantissa, bias = x.code, MANTISSA[x.code], BIAS[x.code]
    a = x.abs()
    lift = {"f32": 8, "f64": 18}[code]
    tiny = a < 2.0 ** (1 - bias)
    bits = select(tiny, a * 2.0 ** (3 * lift), a).as_int()
    shift = -bias % 3
    exponent = (bits >> mantissa) + shift
    third = (exponent * 43691) >> 17
    remainder = exponent - third * 3
    field = bits & ((1 << mantissa) - 1)
    m = (field | (bias << mantissa)).as_float()
    value = (field | ((remainder + bias) << mantissa)).as_float()
    unit = select(remainder.eq(1), x.const(0.5 ** (1 / 3)), 0.25 ** (1 / 3))
    unit = select(remainder.eq(0), 1.0, unit)
    r = poly(m, table("CBRT", x)) * unit
    if code == "f64":
        rest = (-(value * r * r)).fma(r, 1.0)
        r = r.fma(rest * rest.fma(2.0 / 9.0, 1.0 / 3.0), r)
    inverse = r * r
    root = value * inverse
    square, square_low = two_product(root, root)
    rest = (-root).fma(square_low, (-root).fma(square, value))
    root = root.fma(rest * (inverse * inverse) * (value * (1.0 / 3.0) * inverse), root)
    back = third - (bias + shift) // 3
    root = root * ((back + bias) << mantissa).as_float()
    root = select(tiny, root * 2.0**-lift, root)
    return select((a > 0.0) & (a < INF), root.copysign(x), x)


def hypot(x: V, y: V) -> V:
    a, b = x.abs(), y.abs()
    swap = a < b
    large, small = select(swap, b, a), select(swap, a, b)
    factor, inverse, _ = square_scale(large)
    large, small = large * factor, small * factor
    root = large.fma(large, small * small).sqrt() * inverse
    return select(a.eq(INF) | b.eq(INF), INF, root)


def rsqrt(x: V) -> V:
    return 1.0 / x.sqrt()


def square(x: V) -> V:
    return x * x


def reciprocal(x: V) -> V:
    return 1.0 / x


FUNCTIONS: dict[str, tuple[int, Callable[..., V]]] = {
    "exp": (1, exp),
    "exp2": (1, exp2),
    "expm1": (1, expm1),
    "sinh": (1, sinh),
    "cosh": (1, cosh),
    "tanh": (1, tanh),
    "sigmoid": (1, sigmoid),
    "logistic": (1, sigmoid),
    "silu": (1, silu),
    "softplus": (1, softplus),
    "log_sigmoid": (1, log_sigmoid),
    "logaddexp": (2, logaddexp),
    "log": (1, log),
    "log1p": (1, log1p),
    "log2": (1, log2),
    "log10": (1, log10),
    "asinh": (1, asinh),
    "acosh": (1, acosh),
    "atanh": (1, atanh),
    "pow": (2, power),
    "power": (2, power),
    "cbrt": (1, cbrt),
    "hypot": (2, hypot),
    "sqrt": (1, V.sqrt),
    "rsqrt": (1, rsqrt),
    "square": (1, square),
    "reciprocal": (1, reciprocal),
    "sin": (1, trig.sin),
    "cos": (1, trig.cos),
    "tan": (1, trig.tan),
    "sinc": (1, trig.sinc),
    "asin": (1, trig.asin),
    "acos": (1, trig.acos),
    "atan": (1, trig.atan),
    "atan2": (2, trig.atan2),
    "erf": (1, special.erf),
    "erfc": (1, special.erfc),
    "ndtr": (1, special.ndtr),
    "npdf": (1, special.npdf),
    "gelu": (1, special.gelu),
    "gelu_tanh": (1, special.gelu_tanh),
    "erfinv": (1, special.erfinv),
    "lgamma": (1, gamma.lgamma),
    "digamma": (1, gamma.digamma),
}
