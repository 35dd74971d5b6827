"""What each lanewise operation of a `Vec` means, as one table row per name.

A row says for which kinds of lanes (b bool, i and u integers, f float, c complex) the operation
exists, and the code of its result. Semantics are NumPy's, made total: integer division by zero
gives 0 and nothing traps.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import NamedTuple

from llvmlite import ir

from staticgraph.codegen import simd, vecmath, vecmath_complex
from staticgraph.codegen.divide import floor_divide, remainder
from staticgraph.codegen.simd import LANE, LANES, V
from staticgraph.codegen.veccomplex import COMPLEX_OF, FLOAT_OF, C, select_complex

Value = V | C


class Row(NamedTuple):
    """`result`: the operands' code (same), b1, the float of a complex (part) or back (pair)."""

    arity: int
    kinds: str
    apply: Callable[..., Value]
    result: str = "same"


# -- helpers --------------------------------------------------------------------------------------
def broadcast(b: ir.IRBuilder, scalar: ir.Value, code: str) -> ir.Value:
    if isinstance(scalar, ir.Constant) and isinstance(scalar.constant, (int, float)):
        return simd.splat_constant(code, scalar.constant)
    vector = LANE[code].vector
    zero = ir.Constant(ir.IntType(32), 0)
    one = b.insert_element(ir.Constant(vector, ir.Undefined), scalar, zero)
    return b.shuffle_vector(one, one, ir.Constant(ir.VectorType(zero.type, LANES), [0] * LANES))


def splat(b: ir.IRBuilder, scalar: ir.Value, code: str) -> V:
    return V(b, broadcast(b, scalar, code), code)


def first_lanes(b: ir.IRBuilder, count: ir.Value) -> ir.Value:
    """The mask lane < count. Narrow integers keep it one comparison."""
    wide = count.type
    low, high = ir.Constant(wide, 0), ir.Constant(wide, LANES)
    count = b.select(b.icmp_signed("<", count, low), low, count)
    count = b.select(b.icmp_signed(">", count, high), high, count)
    vector = LANE["i32"].vector
    limit = broadcast(b, b.trunc(count, ir.IntType(32)), "i32")
    return b.icmp_signed("<", ir.Constant(vector, list(range(LANES))), limit)


def lane_at(b: ir.IRBuilder, place: ir.Value) -> ir.Value:
    """The mask lane == place, empty where that is no lane: one comparison of narrow integers."""
    inside = b.icmp_unsigned("<", place, ir.Constant(place.type, LANES))
    place = b.select(inside, place, ir.Constant(place.type, -1))
    vector = LANE["i32"].vector
    wanted = broadcast(b, b.trunc(place, ir.IntType(32)), "i32")
    return b.icmp_signed("==", ir.Constant(vector, list(range(LANES))), wanted)


def population(b: ir.IRBuilder, mask: ir.Value) -> ir.Value:
    """How many lanes of a mask hold, as int64."""
    bits = b.bitcast(mask, ir.IntType(LANES))
    return b.zext(b.ctpop(bits), ir.IntType(64))


def cast(x: Value, code: str) -> Value:
    if code in FLOAT_OF:
        if isinstance(x, C):
            return C(simd.cast(x.re, FLOAT_OF[code]), simd.cast(x.im, FLOAT_OF[code]))
        real = simd.cast(x, FLOAT_OF[code])
        return C(real, real.const(0.0))
    if isinstance(x, C):
        return x.re.ne(0) | x.im.ne(0) if code == "b1" else simd.cast(x.re, code)
    return simd.cast(x, code)


def tree(x: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """Combine the lanes by halves (8, 4, 2, 1): one fixed order, whatever the target machine is."""
    width = LANES
    while width > 1:
        width //= 2
        x = combine(_part(x, range(width)), _part(x, range(width, 2 * width)))
    return _part(x, [0] * LANES)


def _part(x: Value, order: Iterable[int]) -> Value:
    """The lanes of these numbers; not always sixteen, so constants cannot meet the result."""
    if isinstance(x, C):
        return C(_part(x.re, order), _part(x.im, order))
    lanes = list(order)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return x.like(x.b.shuffle_vector(x.v, x.v, mask))


def _slide(steps: int) -> Callable[[Value, Value], Value]:
    """Lanes moved up by `steps` (down, if negative); the free ones come from the second operand."""
    order = [k - steps if 0 <= k - steps < LANES else LANES + k for k in range(LANES)]

    def slide(x: Value, fill: Value) -> Value:
        if isinstance(x, C):
            return C(slide(x.re, fill.re), slide(x.im, fill.im))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)
        return x.like(x.b.shuffle_vector(x.v, fill.v, mask))

    return slide


def _shift_left(a: V, count: V) -> V:
    fits = count.bits(f"u{a.lane.bits}") < a.lane.bits
    return simd.select(fits, a << simd.select(fits, count, 0), 0)


def _shift_right(a: V, count: V) -> V:
    fits = count.bits(f"u{a.lane.bits}") < a.lane.bits
    far = a >> (a.lane.bits - 1) if a.kind == "i" else a.const(0)
    return simd.select(fits, a >> simd.select(fits, count, 0), far)


def _sign(x: V) -> V:
    if x.kind == "u":
        return simd.select(x.ne(0), x.const(1), 0)
    zero_or_nan = simd.select(x.eq(0), x.const(0), x)
    return simd.select(x > 0, 1, simd.select(x < 0, -1, zero_or_nan))


def _is_inf(x: Value) -> V:
    if isinstance(x, C):
        return _is_inf(x.re) | _is_inf(x.im)
    return x.abs().eq(float("inf")) if x.kind == "f" else x.ne(x)


def _is_finite(x: Value) -> V:
    if isinstance(x, C):
        return _is_finite(x.re) & _is_finite(x.im)
    return x.abs() < float("inf") if x.kind == "f" else x.eq(x)


def _round(name: str) -> Callable[[V], V]:
    return lambda x: x.intrinsic(name) if x.kind == "f" else x


def _fma(a: V, b: V, c: V) -> V:
    return a.fma(b, c) if a.kind == "f" else a * b + c


def _select(mask: V, yes: Value, no: Value) -> Value:
    return select_complex(mask, yes, no) if isinstance(yes, C) else simd.select(mask, yes, no)


FUNCTIONS: dict[str, Row] = {
    "select": Row(3, "biufc", _select),
    "maximum": Row(2, "biuf", simd.maximum),
    "minimum": Row(2, "biuf", simd.minimum),
    "fma": Row(3, "iuf", _fma),
    "abs_": Row(1, "iuf", V.abs),
    "floor": Row(1, "iuf", _round("floor")),
    "ceil": Row(1, "iuf", _round("ceil")),
    "trunc": Row(1, "iuf", _round("trunc")),
    "rint": Row(1, "iuf", _round("rint")),
    "isnan": Row(1, "biufc", lambda x: x.isnan(), "b1"),
    "isinf": Row(1, "biufc", _is_inf, "b1"),
    "isfinite": Row(1, "biufc", _is_finite, "b1"),
    "sign": Row(1, "iuf", _sign),
    "complex_": Row(2, "f", C, "pair"),
    "square": Row(1, "iu", lambda x: x * x),
    "copysign": Row(2, "f", V.copysign),
    "signbit": Row(1, "iuf", V.sign_bit, "b1"),
    **{f"up{n}": Row(2, "biufc", _slide(n)) for n in (1, 2, 4, 8)},
    **{f"down{n}": Row(2, "biufc", _slide(-n)) for n in (1, 2, 4, 8)},
    "first": Row(1, "biufc", lambda x: _part(x, [0] * LANES)),
    "last": Row(1, "biufc", lambda x: _part(x, [LANES - 1] * LANES)),
    "mirror": Row(1, "biufc", lambda x: _part(x, range(LANES - 1, -1, -1))),
    "hsum": Row(1, "iufc", lambda x: tree(x, operator.add)),
    "hprod": Row(1, "iufc", lambda x: tree(x, operator.mul)),
    "hmax": Row(1, "biuf", lambda x: tree(x, simd.maximum)),
    "hmin": Row(1, "biuf", lambda x: tree(x, simd.minimum)),
    "hany": Row(1, "biufc", lambda x: tree(cast(x, "b1"), operator.or_), "b1"),
    "hall": Row(1, "biufc", lambda x: tree(cast(x, "b1"), operator.and_), "b1"),
}
OPERATORS: dict[str, Row] = {
    "add": Row(2, "biufc", operator.add),
    "sub": Row(2, "iufc", operator.sub),
    "mul": Row(2, "biufc", operator.mul),
    "div": Row(2, "fc", operator.truediv),
    "floordiv": Row(2, "iuf", floor_divide),
    "mod": Row(2, "iuf", remainder),
    "and": Row(2, "biu", operator.and_),
    "or": Row(2, "biu", operator.or_),
    "xor": Row(2, "biu", operator.xor),
    "lshift": Row(2, "iu", _shift_left),
    "rshift": Row(2, "iu", _shift_right),
    "neg": Row(1, "iufc", operator.neg),
    "invert": Row(1, "biu", operator.invert),
    "lt": Row(2, "biuf", operator.lt, "b1"),
    "le": Row(2, "biuf", operator.le, "b1"),
    "gt": Row(2, "biuf", operator.gt, "b1"),
    "ge": Row(2, "biuf", operator.ge, "b1"),
    "eq": Row(2, "biufc", lambda a, b: a.eq(b), "b1"),
    "ne": Row(2, "biufc", lambda a, b: a.ne(b), "b1"),
}


# -- one table ------------------------------------------------------------------------------------
_SHORT = ("sqrt", "rsqrt", "square", "reciprocal")


def _math_row(name: str, arity: int, body: Callable[..., V]) -> Row:
    """Mathematics becomes a function of the module, except what is one or two instructions."""
    if name in _SHORT:
        return Row(arity, "f", body)
    return Row(arity, "f", lambda *args: simd.call_once_emitted(name, body, args))


_TABLES = (
    FUNCTIONS,
    OPERATORS,
    {name: _math_row(name, arity, body) for name, (arity, body) in vecmath.FUNCTIONS.items()},
    {
        name: Row(arity, "c", body, result)
        for name, (arity, body, result) in vecmath_complex.FUNCTIONS.items()
    },
)
_ROWS = {
    (name, kind): row for table in _TABLES for name, row in table.items() for kind in row.kinds
}
ARITY = {name: row.arity for (name, _), row in _ROWS.items()}
NAMES = tuple(name for name in ARITY if name not in OPERATORS)


def _row(name: str, code: str) -> Row | None:
    return _ROWS.get((name, "c" if code in FLOAT_OF else LANE[code].kind))


def result_code(name: str, codes: tuple[str, ...]) -> str | None:
    """The code of name(*operands of these codes), or None where there is no such operation."""
    if name == "select" and codes[0] != "b1":
        return None
    same = codes[1:] if name == "select" else codes
    row = _row(name, same[0]) if len(set(same)) == 1 else None
    if row is None or len(codes) != row.arity:
        return None
    if row.result in ("same", "b1"):
        return same[0] if row.result == "same" else "b1"
    return FLOAT_OF[same[0]] if row.result == "part" else COMPLEX_OF[same[0]]


def apply(name: str, values: list[Value]) -> Value:
    """Emit the operation for operands that `result_code` accepts."""
    row = _row(name, values[-1].code)
    assert row is not None, f"{name} has no meaning for {values[-1].code}"
    return row.apply(*values)
