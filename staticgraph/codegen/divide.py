"""Floor division and remainder: NumPy's `//` and `%`, for every input and without a trap."""

from __future__ import annotations

from llvmlite import ir

from staticgraph.codegen.simd import BIAS, LANE, MANTISSA, V, cast, select

_EXACT_IN = {8: "f32", 16: "f32", 32: "f64"}


def floor_divide(a: V, b: V) -> V:
    return _divmod_float(a, b)[0] if a.kind == "f" else _divmod_integer(a, b)[0]


def remainder(a: V, b: V) -> V:
    return _divmod_float(a, b)[1] if a.kind == "f" else _divmod_integer(a, b)[1]


def _divmod_integer(a: V, b: V) -> tuple[V, V]:
    """Quotient toward minus infinity and a remainder of the divisor's sign; 0, 0 for b = 0."""
    nothing = b.eq(0)
    divisor = select(nothing, 1, b)
    if a.kind == "i":
        # INT_MIN // -1 wraps to INT_MIN with remainder 0, as division by one gives.
        wraps = b.eq(-1) & a.eq(-(1 << (a.lane.bits - 1)))
        divisor = select(wraps, 1, divisor)
    quotient = _truncated_quotient(a, divisor, constant=isinstance(b.v, ir.Constant))
    rest = a - quotient * divisor
    if a.kind == "i":
        below = rest.ne(0) & ((rest ^ divisor) < 0)
        quotient = select(below, quotient - 1, quotient)
        rest = select(below, rest + divisor, rest)
    return select(nothing, 0, quotient), select(nothing, 0, rest)


def _truncated_quotient(a: V, b: V, *, constant: bool) -> V:
    """a / b toward zero for b != 0.

    Processors have no vector division of integers; a float division whose mantissa holds both
    operands gives the exact quotient after truncation. LLVM turns a constant divisor into
    multiplications, which is better still.
    """
    narrow = _EXACT_IN.get(a.lane.bits)
    if constant or narrow is None:
        return a.like((a.b.sdiv if a.kind == "i" else a.b.udiv)(a.v, b.v))
    return (cast(a, narrow) / cast(b, narrow)).to_int(a.code)


def _divmod_float(a: V, b: V) -> tuple[V, V]:
    """npy_divmod: the remainder has the divisor's sign, the quotient is a whole number."""
    rest = _fmod(a, b)
    raw = a / b
    quotient = (a - rest) / b
    other_side = rest.ne(0) & ((b < 0.0) ^ (rest < 0.0))
    rest_out = select(rest.eq(0.0), rest.const(0.0).copysign(b), rest)
    rest_out = select(other_side, rest + b, rest_out)
    quotient = select(other_side, quotient - 1.0, quotient)
    whole = quotient.floor()
    whole = select(quotient - whole > 0.5, whole + 1.0, whole)
    whole = select(quotient.eq(0.0), quotient.const(0.0).copysign(raw), whole)
    undefined = b.eq(0.0)
    return select(undefined, raw, whole), rest_out


def _fmod(x: V, y: V) -> V:
    """The exact remainder of x / y with the sign of x; nan for infinite x and for y = 0.

    Each turn subtracts y times a quotient rounded to the mantissa: with an fma that is exact, and
    it takes a mantissa's worth of bits off. Ordinary arguments need one turn.
    """
    b, bits = x.b, x.lane.bits
    mantissa, top = MANTISSA[x.code], float(2.0 ** BIAS[x.code])
    valid = (x.abs() < float("inf")) & y.ne(0.0) & y.eq(y)
    start = select(valid, x.abs(), 0.0)
    divisor = select(valid, y.abs(), 1.0)

    entry = b.block
    head = b.append_basic_block("fmod.head")
    body = b.append_basic_block("fmod.body")
    done = b.append_basic_block("fmod.done")
    b.branch(head)
    b.position_at_end(head)
    rest = V(b, b.phi(LANE[f"f{bits}"].vector), x.code)
    rest.v.add_incoming(start.v, entry)
    unfinished = rest.abs() >= divisor
    b.cbranch(unfinished.any(), body, done)

    b.position_at_end(body)
    unit = divisor
    quotient = rest / unit
    for scale in (top, float(2.0**mantissa)):
        # A quotient above the largest float: subtract multiples of a larger power-of-two multiple.
        too_large = quotient.abs().eq(float("inf"))
        unit = select(too_large, unit * scale, unit)
        quotient = select(too_large, rest / unit, quotient)
    smaller = select(unfinished, (-quotient.trunc()).fma(unit, rest), rest)
    rest.v.add_incoming(smaller.v, b.block)
    b.branch(head)

    b.position_at_end(done)
    rest = select(rest < 0.0, rest + divisor, rest)
    return select(valid, rest.copysign(x), (x * y) / (x * y))
