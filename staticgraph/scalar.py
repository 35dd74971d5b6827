"""Scalar expressions as data, and the one table of scalar primitives.

An `Expr` is a hash-consed tree: equal expressions are one object. Leaves are `arg` (an operand's
element), `out` (the op's own result, in derivative rules), `const`, `axis` (a loop index) and
`load` (an operand's element at index expressions). NumPy, Numba and CUDA print or evaluate the
same trees; derivatives are trees too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np

from staticgraph.errors import GraphTypeError, InternalError
from staticgraph.types import (
    complex_of,
    is_bool,
    is_complex,
    is_float,
    is_integer,
    real_of,
)

_INTERNED: WeakValueDictionary[tuple, Expr] = WeakValueDictionary()


class Expr:
    """One scalar expression; build it with the functions of this module, never directly."""

    __slots__ = ("__weakref__", "args", "dtype", "key", "name", "value")

    name: str
    args: tuple[Expr, ...]
    dtype: str
    value: object

    def __add__(self, other):
        return call("add", self, other)

    def __radd__(self, other):
        return call("add", other, self)

    def __sub__(self, other):
        return call("subtract", self, other)

    def __rsub__(self, other):
        return call("subtract", other, self)

    def __mul__(self, other):
        return call("multiply", self, other)

    def __rmul__(self, other):
        return call("multiply", other, self)

    def __truediv__(self, other):
        return call("divide", self, other)

    def __rtruediv__(self, other):
        return call("divide", other, self)

    def __floordiv__(self, other):
        return call("floor_divide", self, other)

    def __mod__(self, other):
        return call("remainder", self, other)

    def __neg__(self):
        return call("negative", self)

    def __lt__(self, other):
        return call("less", self, other)

    def __le__(self, other):
        return call("less_equal", self, other)

    def __gt__(self, other):
        return call("greater", self, other)

    def __ge__(self, other):
        return call("greater_equal", self, other)

    def __and__(self, other):
        return call("bitwise_and", self, other)

    def __or__(self, other):
        return call("bitwise_or", self, other)

    def __xor__(self, other):
        return call("bitwise_xor", self, other)

    def __lshift__(self, other):
        return call("left_shift", self, other)

    def __rshift__(self, other):
        return call("right_shift", self, other)

    def __invert__(self):
        return call("bitwise_invert", self)

    def __repr__(self) -> str:
        return show(self)

    def __reduce__(self):
        return _intern, (self.name, self.args, self.dtype, self.value)


def _intern(name: str, args: tuple[Expr, ...], dtype: str, value: object = None) -> Expr:
    # repr keeps -0.0 apart from 0.0 and makes nan equal to itself.
    key = (name, dtype, repr(value), *map(id, args))
    found = _INTERNED.get(key)
    if found is None:
        found = object.__new__(Expr)
        found.name, found.args, found.dtype, found.value, found.key = name, args, dtype, value, key
        _INTERNED[key] = found
    return found


# ---------------------------------------------------------------------------- leaves


def arg(i: int, dtype: str) -> Expr:
    """The element of operand `i`."""
    return _intern("arg", (), dtype, i)


def out(dtype: str) -> Expr:
    """The op's own result, for derivative rules that reuse it."""
    return _intern("out", (), dtype)


def const(value: object, dtype: str) -> Expr:
    """A literal of a dtype."""
    kind = (
        bool
        if is_bool(dtype)
        else int
        if is_integer(dtype)
        else complex
        if is_complex(dtype)
        else float
    )
    try:
        value = kind(value)  # type: ignore[arg-type]
    except (OverflowError, ValueError):
        raise GraphTypeError(f"const: {value!r} is no {dtype}") from None
    if dtype == "float32" and math.isfinite(value):
        value = (
            float(np.float32(value))
            if abs(value) <= 3.4028235677973366e38
            else math.copysign(math.inf, value)
        )
    return _intern("const", (), dtype, value)


def axis(k: int) -> Expr:
    """Loop index `k`, an int64 that starts at 0."""
    return _intern("axis", (), "int64", k)


def load(
    operand: int,
    index: Sequence[Expr | int],
    dtype: str,
    guard: Expr | None = None,
    fill: object = 0,
) -> Expr:
    """Element of `operand` at the index; `fill` where `guard` is false, without touching memory."""
    items = tuple(const(i, "int64") if isinstance(i, int) else i for i in index)
    if guard is None:
        return _intern("load", items, dtype, (operand,))
    if guard.name == "const":
        return load(operand, items, dtype) if guard.value else const(fill, dtype)
    return _intern("load", (*items, guard), dtype, (operand, fill))


def is_guarded(e: Expr) -> bool:
    return e.name == "load" and len(e.value) == 2  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- primitives


@dataclass(frozen=True, slots=True)
class Prim:
    """One scalar primitive: a row of PRIMS."""

    name: str
    kind: str  # type rule, see result_dtype
    numpy: Callable
    cpu: str  # infix operator or function of codegen.vector
    cuda: (
        str  # for numba.cuda: operands {0} {1} {2}, code {t} of their dtype, functions of cudamath
    )
    vjp: Callable | None  # (g, out, *args) -> cotangent per argument; None: constant
    exact: bool  # IEEE leaves one possible result, so folding at compile time keeps the bits

    @property
    def arity(self) -> int:
        return _ARITY[self.kind]


_ARITY = {
    "arith": 2, "float2": 2, "compare": 2, "order": 2, "logical2": 2, "bit": 2, "shift": 2,
    "unary": 1, "float1": 1, "test": 1, "logical1": 1, "bit1": 1, "where": 3, "cast": 1,
    "modulus": 1, "realpart": 1, "complex": 2, "real1": 1, "fma": 3,
}  # fmt: skip


def result_dtype(kind: str, name: str, dtypes: Sequence[str]) -> str:
    """Type rule of a primitive; raises GraphTypeError with what it takes."""

    def need(ok: bool, what: str) -> None:
        if not ok:
            raise GraphTypeError(f"{name}: needs {what}, got {', '.join(dtypes)}")

    same = len(set(dtypes[1:] if kind == "where" else dtypes)) == 1
    first = dtypes[-1]
    if kind in ("arith", "unary"):
        need(same and not is_bool(first), "numbers of one dtype")
        return first
    if kind in ("float1", "float2"):
        need(same and (is_float(first) or is_complex(first)), "floats of one dtype")
        return first
    if kind == "real1":
        need(not is_complex(first) and not is_bool(first), "real numbers")
        return first
    if kind == "compare":
        need(same, "operands of one dtype")
        return "bool"
    if kind == "order":
        need(same and not is_complex(first), "real operands of one dtype")
        return "bool" if name in ("less", "less_equal", "greater", "greater_equal") else first
    if kind == "test":
        need(not is_bool(first), "numbers")
        return "bool"
    if kind in ("logical1", "logical2"):
        need(same and is_bool(first), "bools")
        return "bool"
    if kind in ("bit", "bit1"):
        need(same and (is_bool(first) or is_integer(first)), "integers or bools of one dtype")
        return first
    if kind == "shift":
        need(same and is_integer(first), "integers of one dtype")
        return first
    if kind == "where":
        need(same and is_bool(dtypes[0]), "a bool condition and two values of one dtype")
        return first
    if kind in ("modulus", "realpart"):
        need(not is_bool(first), "numbers")
        return real_of(first)
    if kind == "complex":
        need(same and is_float(first), "two floats of one dtype")
        return complex_of(first)
    raise InternalError(f"{name}: no type rule {kind!r}")


def call(name: str, *args: Expr | bool | int | float | complex, dtype: str | None = None) -> Expr:
    """Apply a primitive; Python literals take the dtype of the expressions beside them."""
    if name == "cast":
        return cast(args[0], dtype)  # type: ignore[arg-type]
    near = next((a.dtype for a in reversed(args) if isinstance(a, Expr)), None)
    if near is None:
        raise InternalError(f"{name}: a primitive needs at least one expression")
    if name == "where" and not isinstance(args[1], Expr) and not isinstance(args[2], Expr):
        raise InternalError("where: give one of the two values a dtype")
    items = tuple(a if isinstance(a, Expr) else const(a, near) for a in args)
    prim = PRIMS[name]
    result = result_dtype(prim.kind, name, [a.dtype for a in items])
    return _simplify(name, items, result) or _intern(name, items, result)


def cast(e: Expr, dtype: str) -> Expr:
    """The expression in another dtype, as NumPy's astype."""
    if e.dtype == dtype:
        return e
    whole = is_integer(e.dtype) or is_bool(e.dtype)
    exact = whole or (is_float(e.dtype) and (is_float(dtype) or is_complex(dtype)))
    if e.name == "const" and exact:
        return const(np.array(e.value, e.dtype).astype(dtype).item(), dtype)
    return _intern("cast", (e,), dtype)


def where(c: Expr, x, y) -> Expr:
    return call("where", c, x, y)


def _is_const(e: Expr, value: object) -> bool:
    return e.name == "const" and e.value == value and not is_bool(e.dtype)


def _simplify(name: str, args: tuple[Expr, ...], dtype: str) -> Expr | None:
    """Rewrites that keep every result, inf and nan included (a zero may lose its sign)."""
    if name == "add":
        x, y = args
        if _is_const(y, 0):
            return x
        if _is_const(x, 0):
            return y
        if is_integer(dtype) and x.name == y.name == "const":
            return const(int(np.array(x.value + y.value).astype(dtype)), dtype)
    elif name == "subtract":
        if _is_const(args[1], 0):
            return args[0]
    elif name == "multiply":
        x, y = args
        if _is_const(y, 1):
            return x
        if _is_const(x, 1):
            return y
        if is_integer(dtype):
            if _is_const(x, 0) or _is_const(y, 0):
                return const(0, dtype)
            if x.name == y.name == "const" and abs(x.value * y.value) < 2**31:
                return const(x.value * y.value, dtype)
        if _is_const(x, -1):
            return call("negative", y)
        if _is_const(y, -1):
            return call("negative", x)
    elif name == "divide":
        if _is_const(args[1], 1):
            return args[0]
    elif name == "negative":
        if args[0].name == "negative":
            return args[0].args[0]
        if args[0].name == "const" and not is_complex(dtype) and is_float(dtype):
            return const(-args[0].value, dtype)
    elif name in ("conj", "real") and not is_complex(args[0].dtype):
        return args[0]
    elif name == "where":
        if args[0].name == "const":
            return args[1] if args[0].value else args[2]
        if args[1] is args[2]:
            return args[1]
    elif name == "logical_and":
        for x, y in (args, args[::-1]):
            if x.name == "const":
                return y if x.value else x
        if args[0] is args[1]:
            return args[0]
    elif is_integer(dtype) and name == "floor_divide" and _is_const(args[1], 1):
        return args[0]
    return None


# ---------------------------------------------------------------------------- derivative rules


def _power_vjp(g, y, a, b):
    # Catalogue 7.7: at b = 0 the slope in a is 0; at a = 0 the slope in b is 0.
    one = const(1, a.dtype)
    da = where(call("equal", b, 0), 0 * one, g * conj(b * call("power", a, b - 1)))
    safe = where(call("equal", a, 0), one, a)
    db = where(call("equal", a, 0), 0 * one, g * conj(y * call("log", safe)))
    return da, db


def _tie(g, mine, theirs, wins: str):
    half = where(call("equal", mine, theirs), g * 0.5, const(0, g.dtype))
    return where(call(wins, mine, theirs), g, half)


def _atan2_vjp(g, o, y, x):
    n = x * x + y * y
    origin = call("equal", n, 0)
    safe = where(origin, const(1, n.dtype), n)
    scaled = where(origin, const(0, n.dtype), g / safe)
    return scaled * x, -(scaled * y)


def _hypot_vjp(g, o, x, y):
    zero = call("equal", o, 0)
    scaled = where(zero, const(0, o.dtype), g / where(zero, const(1, o.dtype), o))
    return scaled * x, scaled * y


def _abs_vjp(g, o, x):
    if is_complex(x.dtype):
        safe = where(call("equal", o, 0), const(1, o.dtype), o)
        return (call("complex", g / safe, const(0, g.dtype)) * x,)
    return (g * call("sign", x),)


def _gelu_tanh_vjp(g, o, x):
    c = math.sqrt(2.0 / math.pi)
    x2 = x * x
    t = call("tanh", x * (c + (c * 0.044715) * x2))
    return (g * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * (c + (3.0 * c * 0.044715) * x2)),)


def conj(e: Expr) -> Expr:
    """Complex conjugate; nothing for a real expression."""
    return call("conj", e) if is_complex(e.dtype) else e


def _inverse(f: Callable) -> Callable:
    """Rule g / f(x) of the inverse functions."""
    return lambda g, o, x: (g / conj(f(x)),)


def _sqrt(x):
    return call("sqrt", x)


_erf_scale = 2.0 / math.sqrt(math.pi)

# The special functions have no NumPy name; math's are exact enough to be an oracle's core.
_erf = np.vectorize(math.erf, otypes=[float])
_erfc = np.vectorize(math.erfc, otypes=[float])


def _keep(f: Callable) -> Callable:
    """Compute in float64 and return the operand's dtype."""
    return lambda x: np.asarray(f(np.asarray(x, np.float64)), np.float64).astype(
        np.asarray(x).dtype
    )


def _np_sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def _np_softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _np_ndtr(x):
    return 0.5 * _erfc(-x / math.sqrt(2.0))


def _np_npdf(x):
    return np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def _np_gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _np_erfinv(x):
    from scipy.special import erfinv

    return erfinv(x)


def _int_safe(f: Callable) -> Callable:
    def run(x, y):
        with np.errstate(all="ignore"):
            return f(x, y)

    return run


def _row(name, kind, numpy, cpu, cuda, vjp, exact=False):
    return Prim(name, kind, numpy, cpu, cuda, vjp, exact)


PRIMS: dict[str, Prim] = {
    p.name: p
    for p in (
        # name, kind, NumPy, CPU (operator or function), CUDA, cotangents (g, out, *args), exact
        _row("add", "arith", np.add, "+", "({0} + {1})", lambda g, o, x, y: (g, g), True),
        _row(
            "subtract", "arith", np.subtract, "-", "({0} - {1})", lambda g, o, x, y: (g, -g), True
        ),
        _row(
            "multiply",
            "arith",
            np.multiply,
            "*",
            "multiply_{t}({0}, {1})",
            lambda g, o, x, y: (g * conj(y), g * conj(x)),
            True,
        ),
        _row(
            "divide",
            "float2",
            np.divide,
            "/",
            "({0} / {1})",
            lambda g, o, x, y: (g / conj(y), -(g * conj(o)) / conj(y)),
            True,
        ),
        _row(
            "floor_divide",
            "arith",
            _int_safe(np.floor_divide),
            "//",
            "floor_divide_{t}({0}, {1})",
            None,
            True,
        ),
        _row(
            "remainder",
            "arith",
            _int_safe(np.remainder),
            "%",
            "remainder_{t}({0}, {1})",
            lambda g, o, x, y: (g, -(g * call("floor", x / y))),
            True,
        ),
        _row("power", "float2", _int_safe(np.power), "power", "power_{t}({0}, {1})", _power_vjp),
        _row(
            "maximum",
            "order",
            np.maximum,
            "maximum",
            "maximum_{t}({0}, {1})",
            lambda g, o, x, y: (_tie(g, x, y, "greater"), _tie(g, y, x, "greater")),
            True,
        ),
        _row(
            "minimum",
            "order",
            np.minimum,
            "minimum",
            "minimum_{t}({0}, {1})",
            lambda g, o, x, y: (_tie(g, x, y, "less"), _tie(g, y, x, "less")),
            True,
        ),
        _row("atan2", "float2", np.arctan2, "atan2", "atan2_{t}({0}, {1})", _atan2_vjp),
        _row("hypot", "float2", np.hypot, "hypot", "hypot_{t}({0}, {1})", _hypot_vjp),
        _row(
            "logaddexp",
            "float2",
            np.logaddexp,
            "logaddexp",
            "logaddexp_{t}({0}, {1})",
            lambda g, o, x, y: (g * call("sigmoid", x - y), g * call("sigmoid", y - x)),
        ),
        _row(
            "copysign",
            "float2",
            np.copysign,
            "copysign",
            "copysign_{t}({0}, {1})",
            lambda g, o, x, y: (g * call("sign", x) * call("copysign", const(1, y.dtype), y), None),
            True,
        ),
        _row("negative", "unary", np.negative, "-", "(-{0})", lambda g, o, x: (-g,), True),
        _row("abs", "modulus", np.abs, "abs_", "abs_{t}({0})", _abs_vjp, True),
        _row("sign", "unary", np.sign, "sign", "sign_{t}({0})", None, True),
        _row(
            "square",
            "unary",
            np.square,
            "square",
            "multiply_{t}({0}, {0})",
            lambda g, o, x: (g * (2 * conj(x)),),
            True,
        ),
        _row(
            "reciprocal",
            "float1",
            np.reciprocal,
            "reciprocal",
            "reciprocal_{t}({0})",
            lambda g, o, x: (-g * conj(o * o),),
            True,
        ),
        _row(
            "sqrt",
            "float1",
            np.sqrt,
            "sqrt",
            "sqrt_{t}({0})",
            lambda g, o, x: (g * 0.5 / conj(o),),
            True,
        ),
        _row(
            "rsqrt",
            "float1",
            lambda x: (1 / np.sqrt(x)).astype(x.dtype),
            "rsqrt",
            "rsqrt_{t}({0})",
            lambda g, o, x: (g * -0.5 * conj(o * o * o),),
        ),
        _row(
            "cbrt", "float1", np.cbrt, "cbrt", "cbrt_{t}({0})", lambda g, o, x: (g / (3.0 * o * o),)
        ),
        _row("exp", "float1", np.exp, "exp", "exp_{t}({0})", lambda g, o, x: (g * conj(o),)),
        _row(
            "exp2",
            "float1",
            np.exp2,
            "exp2",
            "exp2_{t}({0})",
            lambda g, o, x: (g * (o * math.log(2.0)),),
        ),
        _row(
            "expm1", "float1", np.expm1, "expm1", "expm1_{t}({0})", lambda g, o, x: (g * (o + 1.0),)
        ),
        _row("log", "float1", np.log, "log", "log_{t}({0})", lambda g, o, x: (g / conj(x),)),
        _row(
            "log1p", "float1", np.log1p, "log1p", "log1p_{t}({0})", lambda g, o, x: (g / (x + 1.0),)
        ),
        _row(
            "log2",
            "float1",
            np.log2,
            "log2",
            "log2_{t}({0})",
            lambda g, o, x: (g / (x * math.log(2.0)),),
        ),
        _row(
            "log10",
            "float1",
            np.log10,
            "log10",
            "log10_{t}({0})",
            lambda g, o, x: (g / (x * math.log(10.0)),),
        ),
        _row(
            "sin",
            "float1",
            np.sin,
            "sin",
            "sin_{t}({0})",
            lambda g, o, x: (g * conj(call("cos", x)),),
        ),
        _row(
            "cos",
            "float1",
            np.cos,
            "cos",
            "cos_{t}({0})",
            lambda g, o, x: (-(g * conj(call("sin", x))),),
        ),
        _row(
            "tan", "float1", np.tan, "tan", "tan_{t}({0})", lambda g, o, x: (g * conj(1.0 + o * o),)
        ),
        _row(
            "asin",
            "float1",
            np.arcsin,
            "asin",
            "asin_{t}({0})",
            _inverse(lambda x: _sqrt(1.0 - x * x)),
        ),
        _row(
            "acos",
            "float1",
            np.arccos,
            "acos",
            "acos_{t}({0})",
            _inverse(lambda x: -_sqrt(1.0 - x * x)),
        ),
        _row("atan", "float1", np.arctan, "atan", "atan_{t}({0})", _inverse(lambda x: 1.0 + x * x)),
        _row(
            "sinh",
            "float1",
            np.sinh,
            "sinh",
            "sinh_{t}({0})",
            lambda g, o, x: (g * conj(call("cosh", x)),),
        ),
        _row(
            "cosh",
            "float1",
            np.cosh,
            "cosh",
            "cosh_{t}({0})",
            lambda g, o, x: (g * conj(call("sinh", x)),),
        ),
        _row(
            "tanh",
            "float1",
            np.tanh,
            "tanh",
            "tanh_{t}({0})",
            lambda g, o, x: (g * conj(1.0 - o * o),),
        ),
        _row(
            "asinh",
            "float1",
            np.arcsinh,
            "asinh",
            "asinh_{t}({0})",
            _inverse(lambda x: _sqrt(x * x + 1.0)),
        ),
        _row(
            "acosh",
            "float1",
            np.arccosh,
            "acosh",
            "acosh_{t}({0})",
            _inverse(lambda x: _sqrt(x * x - 1.0)),
        ),
        _row(
            "atanh",
            "float1",
            np.arctanh,
            "atanh",
            "atanh_{t}({0})",
            _inverse(lambda x: 1.0 - x * x),
        ),
        _row(
            "erf",
            "float1",
            _keep(_erf),
            "erf",
            "erf_{t}({0})",
            lambda g, o, x: (g * (_erf_scale * call("exp", -(x * x))),),
        ),
        _row(
            "erfc",
            "float1",
            _keep(_erfc),
            "erfc",
            "erfc_{t}({0})",
            lambda g, o, x: (-(g * (_erf_scale * call("exp", -(x * x)))),),
        ),
        _row(
            "erfinv",
            "float1",
            _keep(_np_erfinv),
            "erfinv",
            "erfinv_{t}({0})",
            lambda g, o, x: (g * (call("exp", o * o) / _erf_scale),),
        ),
        _row(
            "ndtr",
            "float1",
            _keep(_np_ndtr),
            "ndtr",
            "ndtr_{t}({0})",
            lambda g, o, x: (g * call("npdf", x),),
        ),
        _row(
            "npdf",
            "float1",
            _keep(_np_npdf),
            "npdf",
            "npdf_{t}({0})",
            lambda g, o, x: (-(g * (x * o)),),
        ),
        _row(
            "sigmoid",
            "float1",
            _np_sigmoid,
            "sigmoid",
            "sigmoid_{t}({0})",
            lambda g, o, x: (g * (o * (1.0 - o)),),
        ),
        _row(
            "softplus",
            "float1",
            _np_softplus,
            "softplus",
            "softplus_{t}({0})",
            lambda g, o, x: (g * call("sigmoid", x),),
        ),
        _row(
            "log_sigmoid",
            "float1",
            lambda x: -_np_softplus(-x),
            "log_sigmoid",
            "log_sigmoid_{t}({0})",
            lambda g, o, x: (g * call("sigmoid", -x),),
        ),
        _row(
            "gelu_tanh",
            "float1",
            _keep(_np_gelu_tanh),
            "gelu_tanh",
            "gelu_tanh_{t}({0})",
            _gelu_tanh_vjp,
        ),
        _row("floor", "real1", np.floor, "floor", "floor_{t}({0})", None, True),
        _row("ceil", "real1", np.ceil, "ceil", "ceil_{t}({0})", None, True),
        _row("trunc", "real1", np.trunc, "trunc", "trunc_{t}({0})", None, True),
        _row("round", "real1", np.rint, "rint", "round_{t}({0})", None, True),
        _row("isnan", "test", np.isnan, "isnan", "({0} != {0})", None, True),
        _row("isinf", "test", np.isinf, "isinf", "isinf_{t}({0})", None, True),
        _row("isfinite", "test", np.isfinite, "isfinite", "isfinite_{t}({0})", None, True),
        _row("signbit", "test", np.signbit, "signbit", "signbit_{t}({0})", None, True),
        _row("equal", "compare", np.equal, "==", "({0} == {1})", None, True),
        _row("not_equal", "compare", np.not_equal, "!=", "({0} != {1})", None, True),
        _row("less", "order", np.less, "<", "({0} < {1})", None, True),
        _row("less_equal", "order", np.less_equal, "<=", "({0} <= {1})", None, True),
        _row("greater", "order", np.greater, ">", "({0} > {1})", None, True),
        _row("greater_equal", "order", np.greater_equal, ">=", "({0} >= {1})", None, True),
        _row("logical_and", "logical2", np.logical_and, "&", "({0} & {1})", None, True),
        _row("logical_or", "logical2", np.logical_or, "|", "({0} | {1})", None, True),
        _row("logical_xor", "logical2", np.logical_xor, "^", "({0} ^ {1})", None, True),
        _row("logical_not", "logical1", np.logical_not, "~", "(not {0})", None, True),
        _row("bitwise_and", "bit", np.bitwise_and, "&", "({0} & {1})", None, True),
        _row("bitwise_or", "bit", np.bitwise_or, "|", "({0} | {1})", None, True),
        _row("bitwise_xor", "bit", np.bitwise_xor, "^", "({0} ^ {1})", None, True),
        _row("bitwise_invert", "bit1", np.invert, "~", "bitwise_invert_{t}({0})", None, True),
        _row("left_shift", "shift", np.left_shift, "<<", "left_shift_{t}({0}, {1})", None, True),
        _row("right_shift", "shift", np.right_shift, ">>", "right_shift_{t}({0}, {1})", None, True),
        _row(
            "where",
            "where",
            np.where,
            "select",
            "({1} if {0} else {2})",
            lambda g, o, c, x, y: (None, where(c, g, 0), where(c, const(0, g.dtype), g)),
            True,
        ),
        _row("conj", "unary", np.conj, "conj", "{0}.conjugate()", lambda g, o, x: (conj(g),), True),
        _row(
            "real",
            "realpart",
            np.real,
            "real",
            "{0}.real",
            lambda g, o, x: (call("complex", g, const(0, g.dtype)),),
            True,
        ),
        _row(
            "imag",
            "realpart",
            np.imag,
            "imag",
            "{0}.imag",
            lambda g, o, x: (call("complex", const(0, g.dtype), g),),
            True,
        ),
        _row(
            "complex",
            "complex",
            lambda x, y: x + 1j * y,
            "complex_",
            "complex({0}, {1})",
            lambda g, o, x, y: (call("real", g), call("imag", g)),
            True,
        ),
    )
}


# ---------------------------------------------------------------------------- walking


def postorder(roots: Sequence[Expr]) -> list[Expr]:
    """Every sub-expression once, operands first."""
    seen: set[int] = set()
    order: list[Expr] = []
    stack = [(r, False) for r in reversed(roots)]
    while stack:
        e, done = stack.pop()
        if done:
            order.append(e)
        elif id(e) not in seen:
            seen.add(id(e))
            stack.append((e, True))
            stack.extend((a, False) for a in reversed(e.args) if id(a) not in seen)
    return order


def transform(root: Expr, leaf: Callable[[Expr], Expr | None]) -> Expr:
    """Rebuild the tree with `leaf(e)` in place of each expression for which it is not None."""
    memo: dict[int, Expr] = {}
    for e in postorder([root]):
        new = leaf(e)
        if new is None:
            args = tuple(memo[id(a)] for a in e.args)
            new = e if all(a is b for a, b in zip(args, e.args, strict=True)) else rebuild(e, args)
        memo[id(e)] = new
    return memo[id(root)]


def rebuild(e: Expr, args: tuple[Expr, ...]) -> Expr:
    """The same operation on other arguments, simplified again."""
    if e.name == "load":
        if is_guarded(e):
            return load(e.value[0], args[:-1], e.dtype, args[-1], e.value[1])  # type: ignore[index]
        return load(e.value[0], args, e.dtype)  # type: ignore[index]
    if e.name == "cast":
        return cast(args[0], e.dtype)
    return call(e.name, *args)


def substitute(root: Expr, args: Sequence[Expr]) -> Expr:
    """Replace `arg` leaves by expressions."""
    return transform(root, lambda e: args[e.value] if e.name == "arg" else None)  # type: ignore[index]


def vjp(root: Expr, n_args: int, g: Expr) -> list[Expr | None]:
    """Cotangents of the `arg` leaves for cotangent `g` of `root`: reverse mode on the tree.

    Every elementwise Jacobian is diagonal, so the same expressions with a tangent for `g` are the
    contributions to a JVP.
    """
    order = postorder([root])
    adjoint: dict[int, Expr] = {id(root): g}
    result: list[Expr | None] = [None] * n_args
    for e in reversed(order):
        ge = adjoint.get(id(e))
        if ge is None:
            continue
        if e.name == "arg":
            result[e.value] = ge  # type: ignore[index]
        elif e.name == "cast":
            _accumulate(adjoint, e.args[0], _cast_cotangent(ge, e.args[0].dtype))
        elif e.name in PRIMS and PRIMS[e.name].vjp is not None:
            rule = PRIMS[e.name].vjp
            o = out(e.dtype) if e is root else e
            for a, ga in zip(e.args, rule(ge, o, *e.args), strict=True):  # type: ignore[misc]
                _accumulate(adjoint, a, ga)
    return result


def _cast_cotangent(g: Expr, dtype: str) -> Expr | None:
    if not (is_float(dtype) or is_complex(dtype)):
        return None
    if is_complex(g.dtype) and not is_complex(dtype):
        g = call("real", g)
    return cast(g, dtype)


def _accumulate(adjoint: dict[int, Expr], e: Expr, g: Expr | None) -> None:
    if g is None or e.name == "const" or not (is_float(e.dtype) or is_complex(e.dtype)):
        return
    if is_complex(g.dtype) and not is_complex(e.dtype):
        g = call("real", g)
    old = adjoint.get(id(e))
    adjoint[id(e)] = g if old is None else old + g


def show(e: Expr) -> str:
    """One line, for messages and the text form."""
    if e.name in ("arg", "axis"):
        return f"{e.name[0]}{e.value}"
    if e.name == "out":
        return "out"
    if e.name == "const":
        return repr(e.value)
    if e.name == "load":
        return f"load{e.value[0]}[{', '.join(map(show, e.args))}]"  # type: ignore[index]
    if e.name == "cast":
        return f"{e.dtype}({show(e.args[0])})"
    return f"{e.name}({', '.join(map(show, e.args))})"
