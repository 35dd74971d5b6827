"""The error function family, the normal distribution and what is built on it."""

from __future__ import annotations

from staticgraph.codegen.simd import BIAS, MANTISSA, V, select
from staticgraph.codegen.vecmath_core import (
    INF,
    clamp,
    exp_poly,
    exp_reduce,
    grid_pieces,
    log,
    pieces,
    poly,
    ratio,
    scale,
    table,
    two_product,
    two_sum,
)

# A density is computed as (p * 2^-lift) * 2^(k + lift): the power is a normal number wherever the
# product is not 0, so that it is rounded once. Arguments end where the power is 0 itself: what
# underflows takes a hundred times as long.
_LIFT = {"f32": 28, "f64": 64}
_TWO_LN2 = pieces("two_ln2", "f64", 1)[0]
_NORMAL_END = {code: (_TWO_LN2 * (BIAS[code] + lift)) ** 0.5 for code, lift in _LIFT.items()}
# ln2 in reductions is a multiple of 2^-grid: its products with whole numbers k are exact, also when
# a shift on the grid is added. The shifts make the constant term of DENSITY a number of the type.
_GRID = {"f32": 15, "f64": 41}
_SHIFT = {"f32": 123 * 2.0**-15, "f64": -23 * 2.0**-41}


def logistic_product(x: V, e: V, t: V) -> V:
    """x * sigmoid(z), z of the sign of x, where exp(-|z|) = (1 + e) * 2^k (k in t, see `scale`).

    The factor of a tail can be zero or denormal where the product is not, so negative lanes are
    scaled last. At -inf the limit, -0.0.
    """
    below = x < 0.0
    bounded = select(x < -(2.0**10), -(2.0**10), x)
    value = select(below, bounded.fma(e, bounded), x) / (scale(e + 1.0, t) + 1.0)
    return select(below, scale(value, t), value)


# -- the normal distribution ----------------------------------------------------------------------
def _bounded(x: V, end: float) -> V:
    """|x|, at most `end`; nan stays nan."""
    a = x.abs()
    return select(a > end, end, a)


def _density(one: V, other: V) -> tuple[V, V]:
    """(p, power): their product is exp(-one * other / 2) / sqrt(2 pi), and power one of two.

    The reduction starts from the exact product: rounding it would move a far tail by many ulp.
    """
    code = one.code
    high, low = grid_pieces("two_ln2", code, _GRID[code])
    magic = 1.5 * 2.0 ** MANTISSA[code] + (BIAS[code] + _LIFT[code])
    t = (one * other).fma(-0.5 * pieces("log2e", code, 1)[0], magic)
    k = t - magic
    r = k.fma(low, one.fma(other, k.fma(high, _SHIFT[code])))
    p = poly(r, [c * 2.0 ** -_LIFT[code] for c in table("DENSITY", r)])
    return p, (t.as_int() << MANTISSA[code]).as_float()


def _mills(a: V) -> V:
    """Phi(-a) / phi(a) for a >= 0."""
    p, q = (poly(a, c) for c in table("HAZARD", a))
    return q / a.fma(q, p)


def npdf(x: V) -> V:
    """The normal density exp(-x^2 / 2) / sqrt(2 pi)."""
    a = _bounded(x, _NORMAL_END[x.code])
    p, power = _density(a, a)
    return p * power


def ndtr(x: V) -> V:
    """The normal distribution function: the density times Mills' ratio on the negative side.

    A kernel that needs the density of the same number too (a derivative) computes it once: both
    start with the same instructions, and LLVM joins them.
    """
    a = _bounded(x, _NORMAL_END[x.code])
    p, power = _density(a, a)
    tail = p * power * _mills(a)
    return select(x > 0.0, 1.0 - tail, tail)


def gelu(x: V) -> V:
    """x * ndtr(x); -0.0 at -inf, the limit.

    Far out the power of two comes last, near 0 first: either way no factor is denormal before the
    result is.
    """
    a = _bounded(x, _NORMAL_END[x.code])
    p, power = _density(a, a)
    mills = _mills(a)
    tail = p * power * mills
    near = x * select(x > 0.0, 1.0 - tail, tail)
    lost = p * mills * a * power
    return select(a < 1.0, near, select(x < 0.0, -lost, x - lost))


def erf(x: V) -> V:
    a = x.abs()
    z = x * x
    small = a.fma(poly(z, table("ERF", x)), a)
    return select(a < 1.0, small, 1.0 - _upper_erfc(x)).copysign(x)


def erfc(x: V) -> V:
    y = _upper_erfc(x)
    return select(x < 0.0, 2.0 - y, y)


def _upper_erfc(x: V) -> V:
    """erfc(|x|) = 2 Phi(-sqrt(2) |x|), the density from the exact square of x."""
    root = pieces("sqrt2", x.code, 1)[0]
    a = _bounded(x, _NORMAL_END[x.code] / root)
    p, power = _density(a + a, a)
    density = p * power
    return (density + density) * _mills(a * root)


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
