"""What the elementwise functions share: pairs, polynomials, and the cores of exp, log and sine.

A pair (hi, lo) is an unevaluated sum with |lo| far below |hi|: about twice the precision, without
a wider type. All algorithms are one text for float32 and float64; only coefficients and degrees
differ. Rounding is to nearest, nothing is contracted, so each line means what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, getcontext
from itertools import zip_longest

import numpy as np

from staticgraph.codegen import vecmath_tables as tables
from staticgraph.codegen.simd import BIAS, MANTISSA, V, maximum, select

INF = float("inf")
NAN = float("nan")
Pair = tuple[V, V]

_DIGITS = {
    "ln2": "0.693147180559945309417232121458176568075500134360255254120680009",
    "two_ln2": "1.386294361119890618834464242916353136151000268720510508241360019",
    "log2e": "1.442695040888963407359924681001892137426645954152985934135449407",
    "log10e": "0.434294481903251827651128918916605082294397005803666566114453783",
    "log10_2": "0.301029995663981195213738894724493026768189881462108541310427461",
    "pi": "3.141592653589793238462643383279502884197169399375105820974944592",
    "half_pi": "1.570796326794896619231321691639751442098584699687552910487472296",
    "quarter_pi": "0.785398163397448309615660845819875721049292349843776455243736148",
    "inv_pi": "0.318309886183790671537767526745028724068919291480912897495334689",
    "sqrt2": "1.414213562373095048801688724209698078569671875377",
    "gelu_tanh": "1.59576912160573071175978423973752747390343452466",
    "gelu_tanh_cubic": "0.07135481627260024877633875227986354099559207477016",
    "digamma_root": "1.461632144968362341262659542325721328468196204006",
    "two_over_ln2": "2.885390081777926814719849362003784274853291908305971868270898814",
    "two_thirds_over_ln2": "0.961796693925975604906616454001261424951097302768657289423632938",
}
_ROUND = {"f32": np.float32, "f64": np.float64}


def pieces(name: str, code: str, count: int) -> list[float]:
    """A named constant as a sum of `count` numbers of the type, largest first."""
    getcontext().prec = 80
    rest, parts = Decimal(_DIGITS[name]), []
    for _ in range(count):
        part = float(_ROUND[code](float(rest)))
        parts.append(part)
        rest -= Decimal(part)
    return parts


def grid_pieces(name: str, code: str, grid: int) -> tuple[float, float]:
    """A named constant as a multiple of 2^-grid and the rest."""
    getcontext().prec = 80
    value, unit = Decimal(_DIGITS[name]), Decimal(2) ** -grid
    high = (value / unit).to_integral_value() * unit
    return float(high), float(_ROUND[code](float(value - high)))


def poly(t: V, coefficients: Sequence[float]) -> V:
    """Horner's rule, lowest power first in the table."""
    if len(coefficients) >= 8:
        s = t * t
        a = poly(s, coefficients[::2])
        b = poly(s, coefficients[1::2])
        return b.fma(t, a)
    value = t.const(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value.fma(t, c)
    return value


def table(name: str, x: V) -> Sequence[float]:
    return getattr(tables, name)[x.code]


def ratio(t: V, first: V, one: str, other: str) -> V:
    """The rational function of table `one` in the lanes of `first`, of table `other` elsewhere."""
    parts = []
    for mine, theirs in zip(table(one, t), table(other, t), strict=True):
        pairs = zip_longest(mine, theirs, fillvalue=0.0)
        chosen = [select(first, t.const(a), b) for a, b in pairs]
        value = chosen[-1]
        for c in reversed(chosen[:-1]):
            value = value.fma(t, c)
        parts.append(value)
    return parts[0] / parts[1]


# -- pairs ----------------------------------------------------------------------------------------
def two_sum(a: V, b: V | float) -> Pair:
    b = a._operand(b)
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def fast_two_sum(a: V, b: V) -> Pair:
    """two_sum for |a| >= |b| or a = 0."""
    total = a + b
    return total, b - (total - a)


def two_product(a: V, b: V) -> Pair:
    product = a * b
    return product, a.fma(b, -product)


def quotient(a: V, b: V, b_low: V | None = None) -> Pair:
    """a / (b + b_low)."""
    inverse = 1.0 / b
    ratio = a * inverse
    rest = (-ratio).fma(b, a)
    if b_low is not None:
        rest = (-ratio).fma(b_low, rest)
    return ratio, rest * inverse


def square_root(value: V, low: V) -> Pair:
    """The root of a positive pair; 0 gives nan in the low part."""
    root = value.sqrt()
    return root, ((-root).fma(root, value) + low) / (root + root)


def square_scale(a: V) -> tuple[V, V, V]:
    """(factor, 1 / factor, log2(1 / factor)): powers of two that keep squares within the range.

    A number no larger than a * factor has a square that does not overflow, and one that matters
    beside it does not lose bits to underflow.
    """
    low_end, high_end, up, down = {"f32": (-38, 62, 88, 66), "f64": (-450, 510, 640, 560)}[a.code]
    low, high = a < 2.0**low_end, a > 2.0**high_end

    def choose(for_high: float, for_low: float, otherwise: float) -> V:
        return select(high, a.const(for_high), select(low, a.const(for_low), otherwise))

    return (
        choose(2.0**-down, 2.0**up, 1.0),
        choose(2.0**down, 2.0**-up, 1.0),
        choose(float(down), float(-up), 0.0),
    )


# -- the exponential ------------------------------------------------------------------------------
def _magic(x: V) -> float:
    """Adding this rounds to a whole number k and leaves k + 2 * bias in the low bits."""
    return 1.5 * 2.0 ** MANTISSA[x.code] + 2.0 * BIAS[x.code]


def clamp(x: V, low: float, high: float) -> V:
    """x within bounds; nan stays nan."""
    x = select(x < low, low, x)
    return select(x > high, high, x)


def exp_reduce(x: V, low: V | None = None) -> Pair:
    """(r, t) with exp(x + low) = exp(r) * 2^k, |r| <= ln2 / 2 and t holding k (see `scale`).

    The bounds are where the result is 0 or inf for certain, products with a factor up to 2^32
    included.
    """
    limit = {"f32": (-128.0, 112.0), "f64": (-770.0, 735.0)}[x.code]
    x = clamp(x, *limit)
    magic = _magic(x)
    t = x.fma(pieces("log2e", x.code, 1)[0], magic)
    k = t - magic
    high, rest = pieces("ln2", x.code, 2)
    r = k.fma(-rest, k.fma(-high, x))
    return (r if low is None else r + low), t


def exp_poly(r: V, name: str = "EXP") -> V:
    """exp(r) - 1 for the reduced r."""
    return (r * r).fma(poly(r, table(name, r)), r)


def exp_whole(r: V) -> V:
    """exp(r) for the reduced r; in float64 the longer sum of `exp_poly` rounds less."""
    if r.code == "f32":
        return poly(r, (1.0, 1.0, *table("EXP", r)))
    return exp_poly(r) + 1.0


def scale(value: V, t: V) -> V:
    """value * 2^k in two steps, so that gradual underflow and overflow come out rounded once."""
    mantissa = MANTISSA[value.code]
    bits = t.as_int().bits(f"u{t.lane.bits}")
    half = bits >> 1
    first = (half << mantissa).as_float()
    second = ((bits - half) << mantissa).as_float()
    return value * first * second


def exp_of(x: V, low: V | None = None) -> V:
    r, t = exp_reduce(x, low)
    return scale(exp_whole(r), t)


# -- the logarithm --------------------------------------------------------------------------------
def log_split(u: V) -> tuple[V, V, V]:
    """(e, m, s): u = m * 2^e with sqrt(1/2) <= m < sqrt(2), and s = e as an integer.

    Denormals are scaled first; what comes out for 0, negative numbers, inf and nan is finite or
    nan, and `log_ends` repairs it.
    """
    mantissa, bias = MANTISSA[u.code], BIAS[u.code]
    tiny = u < 2.0 ** (1 - bias)
    bits = select(tiny, u * 2.0**mantissa, u).as_int()
    root_half = int(np.array(0.5**0.5, _ROUND[u.code]).view(f"i{u.lane.bits // 8}"))
    offset = bits - root_half
    whole = offset >> mantissa
    m = ((offset & ((1 << mantissa) - 1)) + root_half).as_float()
    magic = 1.5 * 2.0**mantissa
    magic_bits = int(np.array(magic, _ROUND[u.code]).view(f"i{u.lane.bits // 8}"))
    e = (whole + magic_bits).as_float() - select(tiny, u.const(magic + mantissa), magic)
    return e, m, whole


def log_fraction(f: V) -> V:
    """log(1 + f) - f for sqrt(1/2) <= 1 + f < sqrt(2)."""
    square = f * f
    if f.code == "f32":
        return square * f.fma(poly(f, table("LOG", f)), -0.5)
    s = f / (f + 2.0)
    z = s * s
    half = square * 0.5
    return s.fma(half + z * poly(z, table("LOG", f)), -half)


def log_ends(u: V, y: V) -> V:
    """The logarithm y of u, made right for 0, negative numbers, inf and nan."""
    y = select(u < INF, y, u)
    return select(u > 0.0, y, select(u < 0.0, u.const(NAN), select(u.eq(0.0), u.const(-INF), u)))


def log(x: V) -> V:
    e, m, _ = log_split(x)
    f = m - 1.0
    high, low = pieces("ln2", x.code, 2)
    return log_ends(x, e.fma(high, f + e.fma(low, log_fraction(f))))


def log_of_sum(u: V, low: V, extra: V | None = None) -> V:
    """log(u + low) + extra * ln2 for a pair, with the relative precision of u + low near 1."""
    e, m, whole = log_split(u)
    bias = BIAS[u.code]
    factor = (maximum(bias - whole, whole.const(0)) << MANTISSA[u.code]).as_float()
    f = low.fma(factor, m - 1.0)
    if extra is not None:
        e = e + extra
    high, rest = pieces("ln2", u.code, 2)
    y = e.fma(high, f + e.fma(rest, log_fraction(f)))
    return log_ends(u, y)


def log2_pair(u: V) -> Pair:
    """log2(u) for u > 0 with about 1.5 times the precision of the type, for powers."""
    e, m, _ = log_split(u)
    f, d = m - 1.0, m + 1.0
    s, s_low = quotient(f, d, m - (d - 1.0))
    z, z_low = two_product(s, s)
    z_low = (s + s).fma(s_low, z_low)
    third, third_low = pieces("two_thirds_over_ln2", u.code, 2)
    tail = z.fma(poly(z, table("LOG2_TAIL", u)), third_low)
    w, w_low = fast_two_sum(u.const(third), tail)
    v, v_low = two_product(z, w)
    v_low = z.fma(w_low, z_low.fma(w, v_low))
    first, first_low = pieces("two_over_ln2", u.code, 2)
    a, a_low = fast_two_sum(u.const(first), v)
    a_low = a_low + (v_low + first_low)
    p, p_low = two_product(s, a)
    p_low = s.fma(a_low, s_low.fma(a, p_low))
    total, low = fast_two_sum(e, p)
    return fast_two_sum(total, low + p_low)
