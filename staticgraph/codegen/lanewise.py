"""What each lanewise operation of a `Vec` means, as one table row per name.

A row says for which kinds of lanes (b bool, i and u integers, f float, c complex) the operation
exists, and the code of its result. Semantics are NumPy's, made total: integer division by zero
gives 0 and nothing traps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llvmlite import ir

from staticgraph.codegen import simd, vecmath
from staticgraph.codegen.divide import floor_divide, remainder
from staticgraph.codegen.simd import LANE, LANES, V
from staticgraph.codegen.veccomplex import COMPLEX_FUNCTIONS, FLOAT_OF, C, select_complex

Value = V | C


class Row(NamedTuple):
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


def cast(x: Value, code: str) -> Value:
    if code in FLOAT_OF:
        if isinstance(x, C):
            return C(simd.cast(x.re, FLOAT_OF[code]), simd.cast(x.im, FLOAT_OF[code]))
        real = simd.cast(x, FLOAT_OF[code])
        return C(real, real.const(0.0))
    if isinstance(x, C):
        return x.re.ne(0) | x.im.ne(0) if code == "b1" else simd.cast(x.re, code)
    return simd.cast(x, code)


def tree(x: V, combine: Callable[[V, V], V]) -> V:
    """Combine the lanes by halves (8, 4, 2, 1): one fixed order, whatever the target machine is."""
    b, vector, code = x.b, x.v, x.code
    index = ir.IntType(32)
    width = LANES
    while width > 1:
        width //= 2
        halves = (
            V(b, b.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(index, width), order)), code)
            for order in (list(range(width)), list(range(width, 2 * width)))
        )
        vector = combine(*halves).v
    return splat(b, b.extract_element(vector, ir.Constant(index, 0)), code)


def _sum(x: Value) -> Value:
    if isinstance(x, C):
        return C(_sum(x.re), _sum(x.im))
    return tree(x, lambda a, b: a + b)


def _product(x: Value) -> Value:
    if not isinstance(x, C):
        return tree(x, lambda a, b: a * b)
    b, pair, index = x.re.b, x, ir.IntType(32)
    width = LANES
    while width > 1:
        width //= 2
        parts = []
        for order in (list(range(width)), list(range(width, 2 * width))):
            mask = ir.Constant(ir.VectorType(index, width), order)
            parts.append(
                C(*(v.like(b.shuffle_vector(v.v, v.v, mask)) for v in (pair.re, pair.im)))
            )
        pair = parts[0] * parts[1]
    first = ir.Constant(index, 0)
    return C(*(splat(b, b.extract_element(v.v, first), v.code) for v in (pair.re, pair.im)))


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


def _truth(x: Value) -> V:
    return cast(x, "b1")


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
    "copysign": Row(2, "f", V.copysign),
    "signbit": Row(1, "iuf", V.sign_bit, "b1"),
    "hsum": Row(1, "iufc", _sum),
    "hprod": Row(1, "iufc", _product),
    "hmax": Row(1, "biuf", lambda x: tree(x, simd.maximum)),
    "hmin": Row(1, "biuf", lambda x: tree(x, simd.minimum)),
    "hany": Row(1, "biufc", lambda x: tree(_truth(x), V.__or__), "b1"),
    "hall": Row(1, "biufc", lambda x: tree(_truth(x), V.__and__), "b1"),
}
OPERATORS: dict[str, Row] = {
    "add": Row(2, "biufc", lambda a, b: a + b),
    "sub": Row(2, "iufc", lambda a, b: a - b),
    "mul": Row(2, "biufc", lambda a, b: a * b),
    "div": Row(2, "fc", lambda a, b: a / b),
    "floordiv": Row(2, "iuf", floor_divide),
    "mod": Row(2, "iuf", remainder),
    "and": Row(2, "biu", V.__and__),
    "or": Row(2, "biu", V.__or__),
    "xor": Row(2, "biu", V.__xor__),
    "lshift": Row(2, "iu", _shift_left),
    "rshift": Row(2, "iu", _shift_right),
    "neg": Row(1, "iufc", lambda a: -a),
    "invert": Row(1, "biu", V.__invert__),
    "lt": Row(2, "biuf", V.__lt__, "b1"),
    "le": Row(2, "biuf", V.__le__, "b1"),
    "gt": Row(2, "biuf", V.__gt__, "b1"),
    "ge": Row(2, "biuf", V.__ge__, "b1"),
    "eq": Row(2, "biufc", lambda a, b: a.eq(b), "b1"),
    "ne": Row(2, "biufc", lambda a, b: a.ne(b), "b1"),
}



def _private(name: str, body: Callable[..., V]) -> Callable[..., V]:
    return lambda *args: simd.call_once_emitted(name, body, list(args))


_COMPLEX = {name: Row(1, "c", *entry) for name, entry in COMPLEX_FUNCTIONS.items()}
_MATH = {
    name: Row(arity, "f", _private(name, apply))
    for name, (arity, apply) in vecmath.FUNCTIONS.items()
}
ARITY = {
    name: row.arity for name, row in {**_COMPLEX, **FUNCTIONS, **OPERATORS, **_MATH}.items()
}


def _row(name: str, code: str) -> Row | None:
    """The row that gives `name` for lanes of this code."""
    kind = "c" if code in FLOAT_OF else LANE[code].kind
    for table in (FUNCTIONS, OPERATORS, _MATH, _COMPLEX):
        row = table.get(name)
        if row is not None and kind in row.kinds:
            return row
    return None


def result_code(name: str, codes: tuple[str, ...]) -> str | None:
    """The code of name(*operands of these codes), or None where there is no such operation."""
    same = codes[1:] if name == "select" else codes
    row = _row(name, same[0]) if len(set(same)) == 1 else None
    if row is None or len(codes) != row.arity or (name == "select" and codes[0] != "b1"):
        return None
    return {"same": same[0], "b1": "b1", "part": FLOAT_OF.get(same[0])}[row.result]


def apply(name: str, values: list[Value]) -> Value:
    """Emit the operation."""
    row = _row(name, values[-1].code)
    assert row is not None, f"{name} has no meaning for {values[-1].code}"
    return row.apply(*values)
