"""Sine, cosine, tangent and their inverses."""

from __future__ import annotations

from llvmlite import ir

from staticgraph.codegen.simd import LANE, LANES, MANTISSA, V, cast, rarely, select
from staticgraph.codegen.vecmath_core import (
    INF,
    Pair,
    fast_two_sum,
    pieces,
    poly,
    table,
    two_product,
)

_I32, _I64, _I128 = (ir.IntType(n) for n in (32, 64, 128))
_WORDS = 20
_F64, _WIDE = LANE["f64"], LANE["i64"]

# Below these magnitudes three pieces of pi reduce exactly enough.
_LARGE = {"f32": 2.0**17, "f64": 2.0**30}


def sin(x: V) -> V:
    sine, cosine, quadrant = _sine_cosine(x)
    return select(x.eq(0.0), x, _flip(select(_odd(quadrant), cosine, sine), quadrant))


def cos(x: V) -> V:
    sine, cosine, quadrant = _sine_cosine(x)
    return _flip(select(_odd(quadrant), sine, cosine), quadrant + 1)


def tan(x: V) -> V:
    sine, cosine, quadrant = _sine_cosine(x)
    odd = _odd(quadrant)
    value = select(odd, -cosine, sine) / select(odd, sine, cosine)
    return select(x.eq(0.0), x, value)


def _odd(quadrant: V) -> V:
    return (quadrant & 1).ne(0)


def _flip(value: V, quadrant: V) -> V:
    """-value in the quadrants 2 and 3 (modulo 4)."""
    sign = (quadrant & 2) << (value.lane.bits - 2)
    return (value.as_int() ^ sign).as_float()


def _sine_cosine(x: V) -> tuple[V, V, V]:
    """(sin r, cos r, n) for x = n * pi / 2 + r, |r| <= pi / 4, where n holds modulo 4."""
    magic = 1.5 * 2.0 ** MANTISSA[x.code]
    t = x.fma(2.0 * pieces("inv_pi", x.code, 1)[0], magic)
    r, low = _subtract_quarters(x, t - magic)
    large = (x.abs() > _LARGE[x.code]) & (x.abs() < INF)
    usual = [r, low, t.as_int()]
    r, low, quadrant = rarely(large, lambda: _reduce_large(x, large), usual)
    z = r * r
    sine = r + (r * z).fma(poly(z, table("SIN_QUARTER", x)), low)
    half = z * 0.5
    one = 1.0 - half
    # The rounding of 1 - z / 2 is made good; low moves the cosine by -r * low.
    rest = ((1.0 - one) - half) + (z * z).fma(poly(z, table("COS_QUARTER", x)), -(r * low))
    return sine, one + rest, quadrant


def _subtract_quarters(x: V, n: V) -> Pair:
    """x - n * pi / 2 as a pair.

    The first step is exact, and what it leaves is a multiple of one ulp of the next product: that
    is what makes the fast two-sum exact, however much cancels.
    """
    a, b, c = pieces("half_pi", x.code, 3)
    first = n.fma(-a, x)
    product, product_low = two_product(n, n.const(b))
    r, low = fast_two_sum(first, -product)
    return r, n.fma(-c, low - product_low)


def sinc(x: V) -> V:
    """sin(pi x) / (pi x). Taking whole numbers off x is exact, so zeros are exact zeros."""
    n = x.rint()
    pi = pieces("pi", x.code, 1)[0]
    angle = (x - n) * pi
    z = angle * angle
    sine = angle + angle * z * poly(z, table("SIN", x))
    half = n * 0.5
    sine = select(half.ne(half.trunc()), -sine, sine)
    return select(x.eq(0.0), 1.0, sine / (x * pi))


# -- inverses -------------------------------------------------------------------------------------
_TAN_EIGHTH, _TAN_THREE_EIGHTHS = 2.0**0.5 - 1.0, 2.0**0.5 + 1.0


def _arc(numerator: V, denominator: V, base: tuple[V, V]) -> V:
    """base + atan(numerator / denominator), the quotient within tan(pi / 8)."""
    z = numerator / denominator
    square = z * z
    bend = (z * square).fma(poly(square, table("ATAN", z)), base[1])
    return base[0] + (z + bend)


def _bases(steep: V, middle: V, x: V) -> tuple[V, V]:
    """pi/2, pi/4 or 0, as a pair."""
    halves, quarters = pieces("half_pi", x.code, 2), pieces("quarter_pi", x.code, 2)
    return tuple(
        select(steep, x.const(h), select(middle, x.const(q), 0.0))
        for h, q in zip(halves, quarters, strict=True)
    )


def atan(x: V) -> V:
    a = x.abs()
    steep, middle = a > _TAN_THREE_EIGHTHS, a > _TAN_EIGHTH
    numerator = select(steep, -1.0, select(middle, a - 1.0, a))
    denominator = select(steep, a, select(middle, a + 1.0, 1.0))
    return _arc(numerator, denominator, _bases(steep, middle, x)).copysign(x)


def atan2(y: V, x: V) -> V:
    a, b = y.abs(), x.abs()
    both_infinite = a.eq(INF) & b.eq(INF)
    a, b = select(both_infinite, 1.0, a), select(both_infinite, 1.0, b)
    shrink = select((a > 1.0) & (b > 1.0), a.const(0.25), 1.0)
    a, b = a * shrink, b * shrink
    steep, middle = a > b * _TAN_THREE_EIGHTHS, a > b * _TAN_EIGHTH
    numerator = select(steep, -b, select(middle, a - b, a))
    denominator = select(steep, a, select(middle, a + b, b))
    denominator = select(a.eq(0.0) & b.eq(0.0), 1.0, denominator)
    high, low = _bases(steep, middle, x)
    pi, pi_low = pieces("pi", x.code, 2)
    left = x.sign_bit()
    numerator = select(left, -numerator, numerator)
    base = select(left, pi - high, high), select(left, pi_low - low, low)
    return _arc(numerator, denominator, base).copysign(y)


def _arcsine_core(x: V) -> tuple[V, V, V]:
    """(outer, s, bend): asin(s) = s + bend, s = |x| or, for the outer half, sqrt((1 - |x|) / 2)."""
    a = x.abs()
    outer = a > 0.5
    z = select(outer, a.const(0.5).fma(-a, 0.5), a * a)
    s = select(outer, z.sqrt(), a)
    return outer, s, s * z * poly(z, table("ASIN", x))


def asin(x: V) -> V:
    outer, s, bend = _arcsine_core(x)
    high, low = pieces("half_pi", x.code, 2)
    folded = high - ((s + s) + ((bend + bend) - low))
    return select(outer, folded, s + bend).copysign(x)


def acos(x: V) -> V:
    outer, s, bend = _arcsine_core(x)
    high, low = pieces("half_pi", x.code, 2)
    value = s + bend
    signed = value.copysign(x)
    inner = high - (signed - low)
    double = value + value
    folded = select(x < 0.0, (high - (double - 2.0 * low)) + high, double)
    return select(outer, folded, inner)


# -- arguments of any size ------------------------------------------------------------------------
def _reduce_large(x: V, large: V) -> list[V]:
    """[r, low, n] for the large lanes, by the bits of 2 / pi that matter (Payne and Hanek)."""
    b = x.b
    wide = cast(select(large, x, 2.0**30), "f64")
    out = b.call(_large_function(b.module), [wide.v])
    r, low = (V(b, b.extract_value(out, k), "f64") for k in (0, 1))
    n = cast(V(b, b.extract_value(out, 2), "i64"), x.int_code)
    if x.code == "f64":
        return [r, low, n]
    short = cast(r, "f32")
    return [short, cast(r - cast(short, "f64"), "f32"), n]


def _large_function(module: ir.Module) -> ir.Function:
    """One private function per module: a loop over the lanes in integer arithmetic."""
    name = "staticgraph.reduce_large"
    if name in module.globals:
        return module.globals[name]
    result = ir.LiteralStructType([_F64.vector, _F64.vector, _WIDE.vector])
    fn = ir.Function(module, ir.FunctionType(result, [_F64.vector]), name)
    fn.linkage = "internal"
    for attribute in ("noinline", "cold", "nounwind", "optnone"):
        fn.attributes.add(attribute)
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    bits = b.bitcast(fn.args[0], _WIDE.vector)
    start, loop, done = b.block, b.append_basic_block("lane"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    k, *vectors = (b.phi(t) for t in (_I32, *result.elements))
    k.add_incoming(ir.Constant(_I32, 0), start)
    lanes = _reduce_one(b, b.extract_element(bits, k))
    filled = [b.insert_element(v, lane, k) for v, lane in zip(vectors, lanes, strict=True)]
    for vector, full in zip(vectors, filled, strict=True):
        vector.add_incoming(ir.Constant(vector.type, None), start)
        vector.add_incoming(full, loop)
    following = b.add(k, ir.Constant(_I32, 1))
    k.add_incoming(following, loop)
    b.cbranch(b.icmp_unsigned("<", following, ir.Constant(_I32, LANES)), loop, done)
    b.position_at_end(done)
    out = ir.Constant(result, ir.Undefined)
    for index, full in enumerate(filled):
        out = b.insert_value(out, full, index)
    b.ret(out)
    return fn


def _two_over_pi(module: ir.Module) -> ir.GlobalVariable:
    """floor(2 / pi * 2^1216) in 64-bit words, least first, and a zero word on top."""
    name = "staticgraph.two_over_pi"
    if name in module.globals:
        return module.globals[name]
    number = _two_over_pi_bits(64 * (_WORDS - 1))
    words = [(number >> (64 * k)) & (2**64 - 1) for k in range(_WORDS)]
    array = ir.ArrayType(_I64, _WORDS)
    held = ir.GlobalVariable(module, array, name)
    held.initializer = ir.Constant(array, words)
    held.global_constant = True
    held.linkage = "internal"
    return held


def _two_over_pi_bits(bits: int) -> int:
    """floor(2 / pi * 2^bits), pi by Machin's formula in integers."""
    one = 1 << (bits + 64)

    def arctan_inverse(q: int) -> int:
        term = total = one // q
        k, sign = 3, -1
        while term:
            term //= q * q
            total += sign * (term // k)
            k, sign = k + 2, -sign
        return total

    pi = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))
    return (2 * one * (1 << bits)) // pi


def _reduce_one(b: ir.IRBuilder, bits: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """(r, low, n) for one double of magnitude 1 or more, given by its bits.

    With |x| = m * 2^e, bits of 2 / pi above weight 2^(1 - e) give multiples of four quarter turns
    and bits far below do not matter: 192 bits between, times m, are the fixed-point number of
    quarter turns modulo 4.
    """

    def c64(value: int) -> ir.Constant:
        return ir.Constant(_I64, value & (2**64 - 1))

    minus = b.icmp_signed("<", bits, c64(0))
    exponent = b.and_(b.lshr(bits, c64(52)), c64(0x7FF))
    mantissa = b.or_(b.and_(bits, c64((1 << 52) - 1)), c64(1 << 52))
    position = b.sub(c64(64 * (_WORDS - 1) + 2 - 192 + 1075), exponent)
    word, within = b.lshr(position, c64(6)), b.and_(position, c64(63))
    base = _two_over_pi(b.module)
    words = [
        b.load(b.gep(base, [b.add(word, c64(k))], source_etype=_I64), typ=_I64) for k in range(4)
    ]
    funnel = b.module.declare_intrinsic(
        "llvm.fshr", (_I64,), ir.FunctionType(_I64, [_I64, _I64, _I64])
    )
    low, mid, high = (b.call(funnel, [words[k + 1], words[k], within]) for k in range(3))
    m = b.zext(mantissa, _I128)
    c128 = ir.Constant(_I128, 64)
    product = b.mul(m, b.zext(low, _I128))
    product = b.add(b.mul(m, b.zext(mid, _I128)), b.lshr(product, c128))
    fraction = b.trunc(product, _I64)
    upper = b.add(b.mul(mantissa, high), b.trunc(b.lshr(product, c128), _I64))
    n = b.lshr(b.add(upper, c64(1 << 61)), c64(62))
    upper = b.sub(upper, b.shl(n, c64(62)))

    # The signed 128-bit rest, normalized: 53 + 11 leading bits.
    rest = b.or_(b.shl(b.zext(upper, _I128), c128), b.zext(fraction, _I128))
    negative = b.icmp_signed("<", upper, c64(0))
    rest = b.select(negative, b.neg(rest), rest)
    count_zeros = b.module.declare_intrinsic(
        "llvm.ctlz", (_I128,), ir.FunctionType(_I128, [_I128, ir.IntType(1)])
    )
    zeros = b.call(count_zeros, [b.or_(rest, ir.Constant(_I128, 1)), ir.Constant(ir.IntType(1), 0)])
    top = b.trunc(b.lshr(b.shl(rest, zeros), c128), _I64)
    power = b.sub(c64(1023 - 62), b.trunc(zeros, _I64))
    unit = b.bitcast(b.shl(power, c64(52)), _F64.llvm)
    unit = b.select(b.xor(negative, minus), b.fneg(unit), unit)
    head = b.sitofp(b.lshr(top, c64(11)), _F64.llvm)
    head = b.fmul(b.fmul(head, ir.Constant(_F64.llvm, 2048.0)), unit)
    tail = b.fmul(b.sitofp(b.and_(top, c64(2047)), _F64.llvm), unit)

    # Quarter turns to radians, as a pair.
    angle, angle_low = (ir.Constant(_F64.llvm, c) for c in pieces("half_pi", "f64", 2))
    r = b.fmul(head, angle)
    correction = b.fma(head, angle, b.fneg(r))
    correction = b.fma(head, angle_low, b.fma(tail, angle, correction))
    return r, correction, b.select(minus, b.neg(n), n)
