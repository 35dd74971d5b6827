"""The Numba type `Vec` (sixteen lanes of any dtype), its operators and its memory access.

Generated kernels are Python source over raw addresses and `Vec` values. `NAMESPACE` holds every
name such a source may use; the names are attributes of this module too. A name that ends in `_T`
exists for every type code T. Typing is strict: operands of one operation share their type and
`cast_T` converts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import imputils
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, models, register_model

from staticgraph.codegen import lanewise, simd, vecmemory
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
def _fixed(sig: Any, emit: Emit) -> Callable:
    """A rule with one signature; arguments are converted to it as in an ordinary Numba call."""
    return lambda *argument_types: (sig, emit)


def _define_memory() -> None:
    i64, void, mask, wide = types.int64, types.void, VEC["b1"], VEC["i64"]
    for code in CODES:
        vec, scalar = VEC[code], SCALAR[code]
        for name, sig, emitter in (
            ("ld", scalar(i64, i64), vecmemory.load_scalar),
            ("st", void(i64, i64, scalar), vecmemory.store_scalar),
            ("vld", vec(i64, i64), vecmemory.load_vector),
            ("vst", void(i64, i64, vec), vecmemory.store_vector),
            ("flow", void(i64, i64, vec), vecmemory.store_past),
            ("fetch", void(i64, i64), vecmemory.bring(write=False)),
            ("claim", void(i64, i64), vecmemory.bring(write=True)),
            ("vldm", vec(i64, i64, mask), vecmemory.load_masked),
            ("vld2", vec(i64, i64, mask), vecmemory.load_second),
            ("vstm", void(i64, i64, vec, mask), vecmemory.store_masked),
            ("vpack", void(i64, i64, vec, mask), vecmemory.store_packed),
            ("vgather", vec(i64, wide, mask), vecmemory.gather),
            ("vscatter", void(i64, wide, vec, mask), vecmemory.scatter),
        ):
            define(f"{name}_{code}", _fixed(sig, emitter(code)), len(sig.args))
    define("ptr", _fixed(i64(i64, i64), vecmemory.load_scalar("i64")), 2)
    define("settle", _fixed(void(), vecmemory.settle), 0)


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
    for name, mask in {"lanes": lanewise.first_lanes, "lane_at": lanewise.lane_at}.items():
        emit = lambda _, b, sig, args, mask=mask: mask(b, args[0])  # noqa: E731
        define(name, _fixed(VEC["b1"](types.int64), emit), 1)
    count = _fixed(types.int64(VEC["b1"]), lambda _, b, sig, args: lanewise.population(b, args[0]))
    define("count", count, 1)


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
    for name in lanewise.NAMES:
        rule = partial(_resolve, name)
        define(name, lambda *arguments, rule=rule: rule(arguments), lanewise.ARITY[name])


_define_memory()
_define_makers()
_define_functions()
globals().update(NAMESPACE)
