"""The Numba type `Vec` (sixteen lanes of any dtype), its operators and its memory access.

Generated kernels are Python source over raw addresses and `Vec` values. `NAMESPACE` holds every name
such a source may use; the names are attributes of this module too. A name that ends in `_T` exists
for every type code T. Typing is strict: operands of one operation share their type, `cast_T`
converts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import imputils
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, models, register_model

from staticgraph.codegen import lanewise, simd, vecmath
from staticgraph.codegen.simd import LANE, LANES, V
from staticgraph.codegen.veccomplex import FLOAT_OF, C, pair_type

CODES = (*LANE, *FLOAT_OF)
SCALAR = {
    "b1": types.boolean,
    "f32": types.float32,
    "f64": types.float64,
    "c64": types.complex64,
    "c128": types.complex128,
    **{f"i{n}": getattr(types, f"int{n}") for n in (8, 16, 32, 64)},
    **{f"u{n}": getattr(types, f"uint{n}") for n in (8, 16, 32, 64)},
}
NAMESPACE: dict[str, Callable] = {}

Value = V | C
Emit = Callable[..., ir.Value]


class Vec(types.Type):
    """Sixteen lanes of one type code."""

    def __init__(self, code: str):
        self.code = code
        super().__init__(name=f"Vec({code})")


@register_model(Vec)
class VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec):
        code = fe_type.code
        be_type = pair_type(code) if code in FLOAT_OF else LANE[code].vector
        super().__init__(dmm, fe_type, be_type)


VEC = {code: Vec(code) for code in CODES}


def wrap(b: ir.IRBuilder, value: ir.Value, code: str) -> Value:
    return C.unpack(b, value, code) if code in FLOAT_OF else V(b, value, code)


def unwrap(value: Value) -> ir.Value:
    return value.pack() if isinstance(value, C) else value.v


def define(name: str, rule: Callable[..., tuple[Any, Emit] | None], arity: int) -> None:
    """Offer `name` to generated source.

    `rule(*argument types)` gives the signature and the emitter of LLVM code, or None where the
    types do not fit.
    """
    parameters = ", ".join(f"a{k}" for k in range(arity))
    scope = {"rule": rule}
    exec(f"def {name}(typing_context, {parameters}):\n    return rule({parameters})", scope)
    NAMESPACE[name] = intrinsic(scope[name])


# -- memory ---------------------------------------------------------------------------------------
def address(b: ir.IRBuilder, base: ir.Value, index: ir.Value, code: str) -> ir.Value:
    """Pointer to element `index` of the array at address `base`."""
    cell = _cell(code)
    return b.gep(b.inttoptr(base, ir.PointerType()), [index], source_etype=cell)


def _cell(code: str) -> ir.Type:
    """How one element lies in memory: a bool takes a byte."""
    if code in FLOAT_OF:
        part = LANE[FLOAT_OF[code]].llvm
        return ir.ArrayType(part, 2)
    return ir.IntType(8) if code == "b1" else LANE[code].llvm


def _align(code: str) -> int:
    return max(1, LANE[FLOAT_OF.get(code, code)].bits // 8)


def _shuffle(b: ir.IRBuilder, one: ir.Value, two: ir.Value, order: list[int]) -> ir.Value:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
    return b.shuffle_vector(one, two, mask)


def _interleave(b: ir.IRBuilder, even: ir.Value, odd: ir.Value) -> ir.Value:
    return _shuffle(b, even, odd, [k // 2 + LANES * (k % 2) for k in range(2 * LANES)])


def _from_cells(b: ir.IRBuilder, cells: ir.Value, code: str) -> ir.Value:
    """Registers from the vector of memory cells (a complex one comes as 32 floats)."""
    if code == "b1":
        return b.icmp_unsigned("!=", cells, simd.splat_constant("u8", 0))
    if code in FLOAT_OF:
        part = FLOAT_OF[code]
        re, im = (_shuffle(b, cells, cells, list(range(k, 2 * LANES, 2))) for k in (0, 1))
        return C(V(b, re, part), V(b, im, part)).pack()
    return cells


def _to_cells(b: ir.IRBuilder, value: ir.Value, code: str) -> ir.Value:
    if code == "b1":
        return b.zext(value, LANE["u8"].vector)
    if code in FLOAT_OF:
        return _interleave(b, b.extract_value(value, 0), b.extract_value(value, 1))
    return value


def _cells_type(code: str) -> ir.VectorType:
    if code in FLOAT_OF:
        return ir.VectorType(LANE[FLOAT_OF[code]].llvm, 2 * LANES)
    return ir.VectorType(_cell(code), LANES)


def _cells_mask(b: ir.IRBuilder, mask: ir.Value, code: str) -> ir.Value:
    return _interleave(b, mask, mask) if code in FLOAT_OF else mask


def _align_constant(code: str) -> ir.Constant:
    return ir.Constant(ir.IntType(32), _align(code))


def _load_vector(code: str) -> Emit:
    def emit(_, b, sig, args):
        pointer = address(b, args[0], args[1], code)
        return _from_cells(b, b.load(pointer, align=_align(code), typ=_cells_type(code)), code)

    return emit


def _store_vector(code: str) -> Emit:
    def emit(context, b, sig, args):
        pointer = address(b, args[0], args[1], code)
        b.store(_to_cells(b, args[2], code), pointer, align=_align(code))
        return context.get_dummy_value()

    return emit


def _load_masked(code: str) -> Emit:
    def emit(_, b, sig, args):
        cells = _cells_type(code)
        pointer = address(b, args[0], args[1], code)
        mask = _cells_mask(b, args[2], code)
        zero = ir.Constant(cells, None)
        name = f"llvm.masked.load.{simd.mangled(cells)}.p0"
        got = simd.call(b, name, cells, [pointer, _align_constant(code), mask, zero])
        return _from_cells(b, got, code)

    return emit


def _store_masked(code: str) -> Emit:
    def emit(context, b, sig, args):
        cells = _to_cells(b, args[2], code)
        pointer = address(b, args[0], args[1], code)
        mask = _cells_mask(b, args[3], code)
        name = f"llvm.masked.store.{simd.mangled(cells.type)}.p0"
        simd.call(b, name, ir.VoidType(), [cells, pointer, _align_constant(code), mask])
        return context.get_dummy_value()

    return emit


def _pointers(b: ir.IRBuilder, base: ir.Value, index: ir.Value, code: str, part: int) -> ir.Value:
    """Sixteen element pointers; `part` 1 is the imaginary half of a complex element."""
    size = _align(code)
    stride = 2 * size if code in FLOAT_OF else size
    wide = LANE["i64"].vector
    start = b.add(base, ir.Constant(base.type, part * size)) if part else base
    offset = b.mul(index, simd.splat_constant("i64", stride)) if stride > 1 else index
    total = b.add(lanewise.broadcast(b, start, "i64"), offset)
    return b.inttoptr(total, ir.VectorType(ir.PointerType(), wide.count))


def _gather(code: str) -> Emit:
    def emit(_, b, sig, args):
        base, index, mask = args
        part = FLOAT_OF.get(code, code)
        cells = ir.VectorType(_cell(part), LANES)
        name = f"llvm.masked.gather.{simd.mangled(cells)}.v{LANES}p0"

        def gather(half):
            pointers = _pointers(b, base, index, code, half)
            zero = ir.Constant(cells, None)
            return simd.call(b, name, cells, [pointers, _align_constant(code), mask, zero])

        if code in FLOAT_OF:
            return C(V(b, gather(0), part), V(b, gather(1), part)).pack()
        return _from_cells(b, gather(0), code)

    return emit


def _scatter(code: str) -> Emit:
    def emit(context, b, sig, args):
        base, index, value, mask = args

        def scatter(cells, half):
            pointers = _pointers(b, base, index, code, half)
            name = f"llvm.masked.scatter.{simd.mangled(cells.type)}.v{LANES}p0"
            simd.call(b, name, ir.VoidType(), [cells, pointers, _align_constant(code), mask])

        if code in FLOAT_OF:
            scatter(b.extract_value(value, 0), 0)
            scatter(b.extract_value(value, 1), 1)
        else:
            scatter(_to_cells(b, value, code), 0)
        return context.get_dummy_value()

    return emit


def _load_scalar(code: str) -> Emit:
    def emit(context, b, sig, args):
        pointer = address(b, args[0], args[1], code)
        if code in FLOAT_OF:
            number = context.make_complex(b, sig.return_type)
            part = LANE[FLOAT_OF[code]].llvm
            pair = b.load(pointer, align=_align(code), typ=_cell(code))
            number.real, number.imag = b.extract_value(pair, 0), b.extract_value(pair, 1)
            assert number.real.type == part
            return number._getvalue()
        got = b.load(pointer, align=_align(code), typ=_cell(code))
        return b.icmp_unsigned("!=", got, ir.Constant(got.type, 0)) if code == "b1" else got

    return emit


def _store_scalar(code: str) -> Emit:
    def emit(context, b, sig, args):
        pointer = address(b, args[0], args[1], code)
        value = args[2]
        if code in FLOAT_OF:
            number = context.make_complex(b, sig.args[2], value)
            pair = ir.Constant(_cell(code), ir.Undefined)
            value = b.insert_value(b.insert_value(pair, number.real, 0), number.imag, 1)
        elif code == "b1":
            value = b.zext(value, ir.IntType(8))
        b.store(value, pointer, align=_align(code))
        return context.get_dummy_value()

    return emit


def _fixed(sig: Any, emit: Emit) -> Callable:
    """A rule with one signature; arguments are converted to it as in an ordinary Numba call."""
    return lambda *argument_types: (sig, emit)


def _define_memory() -> None:
    i64, void, mask, wide = types.int64, types.void, VEC["b1"], VEC["i64"]
    for code in CODES:
        vec, scalar = VEC[code], SCALAR[code]
        for name, sig, emitter in (
            ("ld", scalar(i64, i64), _load_scalar),
            ("st", void(i64, i64, scalar), _store_scalar),
            ("vld", vec(i64, i64), _load_vector),
            ("vst", void(i64, i64, vec), _store_vector),
            ("vldm", vec(i64, i64, mask), _load_masked),
            ("vstm", void(i64, i64, vec, mask), _store_masked),
            ("vgather", vec(i64, wide, mask), _gather),
            ("vscatter", void(i64, wide, vec, mask), _scatter),
        ):
            define(f"{name}_{code}", _fixed(sig, emitter(code)), len(sig.args))
    define("ptr", _fixed(i64(i64, i64), _load_scalar("i64")), 2)


# -- making vectors -------------------------------------------------------------------------------
def _splat(code: str) -> Callable:
    def rule(number):
        scalar = SCALAR[code]
        source = types.unliteral(number)
        if not isinstance(source, (types.Number, types.Boolean)):
            return None

        def emit(context, b, sig, args):
            if code in FLOAT_OF:
                value = context.make_complex(b, scalar, context.cast(b, args[0], source, scalar))
                parts = (value.real, value.imag)
                return C(*(lanewise.splat(b, p, FLOAT_OF[code]) for p in parts)).pack()
            known = args[0].constant if isinstance(args[0], ir.Constant) else None
            if isinstance(known, (int, float)):
                return simd.splat_constant(code, known)
            value = context.cast(b, args[0], source, scalar)
            return lanewise.splat(b, value, code).v

        return signature(VEC[code], source), emit

    return rule


def _cast(code: str) -> Callable:
    def rule(vec):
        if not isinstance(vec, Vec):
            return None

        def emit(_, b, sig, args):
            return unwrap(lanewise.cast(wrap(b, args[0], vec.code), code))

        return signature(VEC[code], vec), emit

    return rule


def _lane0(code: str) -> Emit:
    def emit(context, b, sig, args):
        first = ir.Constant(ir.IntType(32), 0)
        if code in FLOAT_OF:
            number = context.make_complex(b, sig.return_type)
            number.real = b.extract_element(b.extract_value(args[0], 0), first)
            number.imag = b.extract_element(b.extract_value(args[0], 1), first)
            return number._getvalue()
        return b.extract_element(args[0], first)

    return emit


def _define_makers() -> None:
    for code in CODES:
        define(f"splat_{code}", _splat(code), 1)
        define(f"cast_{code}", _cast(code), 1)
        define(f"lane0_{code}", _fixed(SCALAR[code](VEC[code]), _lane0(code)), 1)
    steps = ir.Constant(LANE["i64"].vector, list(range(LANES)))
    define("iota", _fixed(VEC["i64"](), lambda _, b, sig, args: steps), 0)
    define(
        "lanes",
        _fixed(VEC["b1"](types.int64), lambda _, b, sig, args: lanewise.first_lanes(b, args[0])),
        1,
    )


# -- operators and functions ----------------------------------------------------------------------
def _resolve(name: str, arguments: tuple) -> tuple[Any, Emit] | None:
    """Signature and emitter of the lanewise function `name` for these types."""
    if not arguments or not all(isinstance(a, Vec) for a in arguments):
        return None
    codes = tuple(a.code for a in arguments)
    result = lanewise.result_code(name, codes)
    if result is None:
        return None

    def emit(_, b, sig, args):
        values = [wrap(b, value, code) for value, code in zip(args, codes, strict=True)]
        return unwrap(lanewise.apply(name, values))

    return signature(VEC[result], *arguments), emit


def _define_operator(op: Callable, name: str) -> None:
    @infer_global(op)
    class Operator(AbstractTemplate):
        def generic(self, args, kws):
            resolved = None if kws else _resolve(name, args)
            return resolved and resolved[0]

    Operator.__name__ = f"Vec_{name}"
    arity = lanewise.ARITY[name]

    @imputils.lower_builtin(op, *[Vec] * arity)
    def lower(context, b, sig, args):
        return _resolve(name, sig.args)[1](context, b, sig, args)


def _define_functions() -> None:
    for op, name in (
        (operator.add, "add"),
        (operator.sub, "sub"),
        (operator.mul, "mul"),
        (operator.truediv, "div"),
        (operator.floordiv, "floordiv"),
        (operator.mod, "mod"),
        (operator.and_, "and"),
        (operator.or_, "or"),
        (operator.xor, "xor"),
        (operator.lshift, "lshift"),
        (operator.rshift, "rshift"),
        (operator.neg, "neg"),
        (operator.invert, "invert"),
        (operator.lt, "lt"),
        (operator.le, "le"),
        (operator.gt, "gt"),
        (operator.ge, "ge"),
        (operator.eq, "eq"),
        (operator.ne, "ne"),
    ):
        _define_operator(op, name)
    for name in (*lanewise.FUNCTIONS, *vecmath.FUNCTIONS):
        arity = lanewise.ARITY[name]
        define(name, lambda *arguments, name=name: _resolve(name, arguments), arity)


_define_memory()
_define_makers()
_define_functions()
globals().update(NAMESPACE)
