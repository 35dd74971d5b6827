"""Elementary functions of complex lanes, from the real ones by the classical formulas.

Parts that do not cancel are right to a few ulp of the result's modulus; exp, log, sqrt, abs and the
hyperbolic and circular functions keep the relative precision of both parts where their formulas
have no cancellation. Infinities follow C99 where a formula alone would give nan.
"""

from __future__ import annotations

from collections.abc import Callable

from staticgraph.codegen import vecmath
from staticgraph.codegen.simd import BIAS, MANTISSA, V, select
from staticgraph.codegen.veccomplex import C, select_complex
from staticgraph.codegen.vecmath_core import (
    INF,
    NAN,
    exp_reduce,
    exp_whole,
    log_of_sum,
    pieces,
    scale,
    square_scale,
    two_product,
    two_sum,
)
from staticgraph.codegen.vecmath_trig import atan2, cos, sin, tan


def _infinite(z: C) -> V:
    return z.re.abs().eq(INF) | z.im.abs().eq(INF)


def _times_i(z: C) -> C:
    return C(-z.im, z.re)


def _over_i(z: C) -> C:
    return C(z.im, -z.re)


def _scaled(z: C, factor: float) -> C:
    return C(z.re * factor, z.im * factor)


def absolute(z: C) -> V:
    return vecmath.hypot(z.re, z.im)


def sign(z: C) -> C:
    size = absolute(z)
    size = select(size.eq(0.0), 1.0, size)
    return C(z.re / size, z.im / size)


def square(z: C) -> C:
    return z * z


def reciprocal(z: C) -> C:
    return C(z.re.const(1.0), z.re.const(0.0)) / z


# -- exponentials ---------------------------------------------------------------------------------
def exp(z: C) -> C:
    r, t = exp_reduce(z.re)
    p = exp_whole(r)
    gone = z.re.eq(-INF)
    parts = (scale(p * part, t) for part in (cos(z.im), sin(z.im)))
    return C(*(select(gone, 0.0, part) for part in parts))


def exp2(z: C) -> C:
    size, angle = vecmath.exp2(z.re), z.im * pieces("ln2", z.re.code, 1)[0]
    return C(size * cos(angle), size * sin(angle))


def expm1(z: C) -> C:
    half = sin(z.im * 0.5)
    real = vecmath.expm1(z.re) * cos(z.im) - 2.0 * half * half
    return C(real, vecmath.exp(z.re) * sin(z.im))


def sinh(z: C) -> C:
    real = vecmath.sinh(z.re) * cos(z.im)
    imaginary = vecmath.cosh(z.re) * sin(z.im)
    return C(select(z.re.eq(0.0), z.re, real), select(z.im.eq(0.0), z.im, imaginary))


def cosh(z: C) -> C:
    real = vecmath.cosh(z.re) * cos(z.im)
    flat = z.re.eq(0.0) | z.im.eq(0.0)
    imaginary = select(flat, z.re, vecmath.sinh(z.re)) * select(flat, z.im, sin(z.im))
    return C(real, select(flat, imaginary.const(0.0).copysign(imaginary), imaginary))


def sin_(z: C) -> C:
    return _over_i(sinh(_times_i(z)))


def cos_(z: C) -> C:
    return cosh(_times_i(z))


def tanh(z: C) -> C:
    """Kahan's formula; beyond the argument whose tanh rounds to one, its limit."""
    x, y = z.re, z.im
    far = x.abs() > {"f32": 10.0, "f64": 20.0}[x.code]
    t = tan(y)
    widening = t.fma(t, 1.0)
    s = vecmath.sinh(select(far, 0.0, x))
    square_ = s * s
    under = widening.fma(square_, 1.0)
    near = C(widening * (square_ + 1.0).sqrt() * s / under, t / under)
    decay = vecmath.exp(x.abs() * -2.0) * 4.0
    limit = C(x.const(1.0).copysign(x), select(t.isnan(), 0.0, decay * t / widening))
    return select_complex(far, limit, near)


def tan_(z: C) -> C:
    return _over_i(tanh(_times_i(z)))


# -- logarithms and powers ------------------------------------------------------------------------
def log(z: C) -> C:
    return C(_log_modulus(z.re, z.im), atan2(z.im, z.re))


def _log_modulus(x: V, y: V) -> V:
    """log |x + iy|: half the logarithm of the squared modulus, a pair, scaled out of harm's way."""
    a, b = x.abs(), y.abs()
    swap = a < b
    large, small = select(swap, b, a), select(swap, a, b)
    factor, _, exponent = square_scale(large)
    square_, rest = two_product(*[large * factor] * 2)
    other, other_rest = two_product(*[small * factor] * 2)
    total, total_rest = two_sum(square_, other)
    low = total_rest + (rest + other_rest)
    value = log_of_sum(total, low, exponent + exponent) * 0.5
    return select(_infinite(C(x, y)), INF, value)


def log1p(z: C) -> C:
    """Near zero from |1 + z|^2 - 1 = x (2 + x) + y^2, elsewhere log(1 + z)."""
    x, y = z.re, z.im
    small = (x.abs() < 0.5) & (y.abs() < 0.5)
    squares, rest = two_product(x, x)
    other, other_rest = two_product(y, y)
    total, total_rest = two_sum(x + x, squares)
    total, more = two_sum(total, other)
    u, low = two_sum(total, 1.0)
    near = log_of_sum(u, low + (total_rest + more + rest + other_rest)) * 0.5
    shifted = C(x + 1.0, y)
    return C(select(small, near, _log_modulus(shifted.re, y)), atan2(y, shifted.re))


def log2(z: C) -> C:
    return _scaled(log(z), pieces("log2e", z.re.code, 1)[0])


def log10(z: C) -> C:
    return _scaled(log(z), pieces("log10e", z.re.code, 1)[0])


def power(z: C, w: C) -> C:
    """exp(w log z); 0 to a power of positive real part is 0, anything to the power 0 is 1."""
    value = exp(w * log(z))
    zero, one = z.re.const(0.0), z.re.const(1.0)
    none = z.re.eq(0.0) & z.im.eq(0.0)
    nothing = select(w.re > 0.0, zero, NAN)
    value = select_complex(none, C(nothing, nothing), value)
    return select_complex(w.re.eq(0.0) & w.im.eq(0.0), C(one, zero), value)


def sqrt(z: C) -> C:
    """The root with non-negative real part; scaled by powers of four at both ends of the range."""
    x, y = z.re, z.im
    a, b = x.abs(), y.abs()
    large = select(a > b, a, b)
    end = MANTISSA[x.code] + 1
    high, low = large > 2.0 ** (BIAS[x.code] - 2), large < 2.0 ** (2 * end - BIAS[x.code])
    factor = select(high, x.const(0.0625), select(low, x.const(2.0 ** (2 * end)), 1.0))
    back = select(high, x.const(4.0), select(low, x.const(2.0**-end), 1.0))
    a, b = a * factor, b * factor
    root = (a * 0.5 + vecmath.hypot(a, b) * 0.5).sqrt()
    other = select(root.eq(0.0), 0.0, b / (root + root))
    root, other = root * back, other * back
    left = x.sign_bit()
    real, imaginary = select(left, other, root), select(left, root, other)
    endless = y.abs().eq(INF)
    return C(select(endless, INF, real), select(endless, INF, imaginary).copysign(y))


def rsqrt(z: C) -> C:
    return reciprocal(sqrt(z))


# -- inverse functions (Kahan) --------------------------------------------------------------------
def _around_one(z: C) -> tuple[C, C]:
    """sqrt(1 - z) and sqrt(1 + z)."""
    return sqrt(C(1.0 - z.re, -z.im)), sqrt(C(1.0 + z.re, z.im))


def asin_(z: C) -> C:
    below, above = _around_one(z)
    real = atan2(z.re, below.re * above.re - below.im * above.im)
    return C(real, vecmath.asinh(below.re * above.im - below.im * above.re))


def acos_(z: C) -> C:
    below, above = _around_one(z)
    return C(
        2.0 * atan2(below.re, above.re),
        vecmath.asinh(above.re * below.im - above.im * below.re),
    )


def asinh(z: C) -> C:
    return _over_i(asin_(_times_i(z)))


def acosh(z: C) -> C:
    below, above = sqrt(C(z.re - 1.0, z.im)), sqrt(C(z.re + 1.0, z.im))
    return C(
        vecmath.asinh(below.re * above.re + below.im * above.im),
        2.0 * atan2(below.im, above.re),
    )


def atanh(z: C) -> C:
    x, y = z.re, z.im
    a = x.abs()
    gap = (1.0 - a) * (1.0 - a) + y * y
    real = (vecmath.log1p(4.0 * a / gap) * 0.25).copysign(x)
    return C(real, 0.5 * atan2(y + y, (1.0 - x) * (1.0 + x) - y * y))


def atan_(z: C) -> C:
    return _over_i(atanh(_times_i(z)))


# name -> (number of operands, function, code of the result as in `lanewise.Row`)
FUNCTIONS: dict[str, tuple[int, Callable[..., C | V], str]] = {
    "real": (1, lambda z: z.re, "part"),
    "imag": (1, lambda z: z.im, "part"),
    "abs_": (1, absolute, "part"),
    "conj": (1, lambda z: C(z.re, -z.im), "same"),
    **{
        name: (1, function, "same")
        for name, function in {
            "sign": sign,
            "square": square,
            "reciprocal": reciprocal,
            "exp": exp,
            "exp2": exp2,
            "expm1": expm1,
            "sinh": sinh,
            "cosh": cosh,
            "tanh": tanh,
            "sin": sin_,
            "cos": cos_,
            "tan": tan_,
            "log": log,
            "log1p": log1p,
            "log2": log2,
            "log10": log10,
            "sqrt": sqrt,
            "rsqrt": rsqrt,
            "asin": asin_,
            "acos": acos_,
            "atan": atan_,
            "asinh": asinh,
            "acosh": acosh,
            "atanh": atanh,
        }.items()
    },
    "pow": (2, power, "same"),
    "power": (2, power, "same"),
}
