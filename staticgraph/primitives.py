"""The one table of scalar primitives: NumPy meaning, CPU and CUDA spelling, partial derivatives.

A row is all there is to a primitive. Reading a graph, differentiating it and generating code for
any target go by this table.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from staticgraph.scalar import PRIMS, Prim, call, conj, const, where
from staticgraph.types import is_complex

# ---------------------------------------------------------------------------- derivative rules


def _power_vjp(g, y, a, b):
    # Catalogue 7.7: at b = 0 the slope in a is 0; at a = 0 that in b is 0, for b < 0 -inf.
    one = const(1, a.dtype)
    da = where(call("equal", b, 0), 0 * one, g * conj(b * call("power", a, b - 1)))
    flat = call("equal", a, 0)
    if not is_complex(b.dtype):
        flat = call("logical_and", flat, b >= 0)
    safe = where(flat, one, a)
    db = where(flat, 0 * one, g * conj(y * call("log", safe)))
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


def _sign_vjp(g, o, x):
    # x / abs(x) turns with x: g without its part along x, 0 at 0.
    if not is_complex(x.dtype):
        return (None,)
    size = call("abs", x)
    zero = call("equal", size, 0)
    along = call("real", g * conj(o))
    across = g - o * call("complex", along, const(0, along.dtype))
    safe = where(zero, const(1, size.dtype), size)
    turned = across / call("complex", safe, const(0, size.dtype))
    return (where(zero, const(0, g.dtype), turned),)


def _gelu_tanh_vjp(g, o, x):
    c = math.sqrt(2.0 / math.pi)
    x2 = x * x
    t = call("tanh", x * (c + (c * 0.044715) * x2))
    return (g * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * (c + (3.0 * c * 0.044715) * x2)),)


def _inverse(f: Callable) -> Callable:
    """Rule g / f(x) of the inverse functions."""
    return lambda g, o, x: (g / conj(f(x)),)


def _sqrt(x):
    return call("sqrt", x)


def _acosh_slope(x):
    # Of complex numbers the root of the product is not that of NumPy's branch of acosh.
    if is_complex(x.dtype):
        return _sqrt(x - 1.0) * _sqrt(x + 1.0)
    return _sqrt(x * x - 1.0)


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


PRIMS.update(
    (p.name, p)
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
            "realarith",
            _int_safe(np.floor_divide),
            "//",
            "floor_divide_{t}({0}, {1})",
            None,
            True,
        ),
        _row(
            "remainder",
            "realarith",
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
        _row("atan2", "realfloat2", np.arctan2, "atan2", "atan2_{t}({0}, {1})", _atan2_vjp),
        _row("hypot", "realfloat2", np.hypot, "hypot", "hypot_{t}({0}, {1})", _hypot_vjp),
        _row(
            "logaddexp",
            "realfloat2",
            np.logaddexp,
            "logaddexp",
            "logaddexp_{t}({0}, {1})",
            lambda g, o, x, y: (g * call("sigmoid", x - y), g * call("sigmoid", y - x)),
        ),
        _row(
            "copysign",
            "realfloat2",
            np.copysign,
            "copysign",
            "copysign_{t}({0}, {1})",
            lambda g, o, x, y: (g * call("sign", x) * call("copysign", const(1, y.dtype), y), None),
            True,
        ),
        _row("negative", "unary", np.negative, "-", "(-{0})", lambda g, o, x: (-g,), True),
        _row("abs", "modulus", np.abs, "abs_", "abs_{t}({0})", _abs_vjp, True),
        _row("sign", "unary", np.sign, "sign", "sign_{t}({0})", _sign_vjp, True),
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
            "cbrt",
            "realfloat1",
            np.cbrt,
            "cbrt",
            "cbrt_{t}({0})",
            lambda g, o, x: (g / (3.0 * o * o),),
        ),
        _row("exp", "float1", np.exp, "exp", "exp_{t}({0})", lambda g, o, x: (g * conj(o),)),
        _row(
            "exp2",
            "float1",
            np.exp2,
            "exp2",
            "exp2_{t}({0})",
            lambda g, o, x: (g * conj(o * math.log(2.0)),),
        ),
        _row(
            "expm1",
            "float1",
            np.expm1,
            "expm1",
            "expm1_{t}({0})",
            lambda g, o, x: (g * conj(o + 1.0),),
        ),
        _row("log", "float1", np.log, "log", "log_{t}({0})", lambda g, o, x: (g / conj(x),)),
        _row(
            "log1p",
            "float1",
            np.log1p,
            "log1p",
            "log1p_{t}({0})",
            lambda g, o, x: (g / conj(x + 1.0),),
        ),
        _row(
            "log2",
            "float1",
            np.log2,
            "log2",
            "log2_{t}({0})",
            lambda g, o, x: (g / conj(x * math.log(2.0)),),
        ),
        _row(
            "log10",
            "float1",
            np.log10,
            "log10",
            "log10_{t}({0})",
            lambda g, o, x: (g / conj(x * math.log(10.0)),),
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
            _inverse(_acosh_slope),
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
            "realfloat1",
            _keep(_erf),
            "erf",
            "erf_{t}({0})",
            lambda g, o, x: (g * (_erf_scale * call("exp", -(x * x))),),
        ),
        _row(
            "erfc",
            "realfloat1",
            _keep(_erfc),
            "erfc",
            "erfc_{t}({0})",
            lambda g, o, x: (-(g * (_erf_scale * call("exp", -(x * x)))),),
        ),
        _row(
            "erfinv",
            "realfloat1",
            _keep(_np_erfinv),
            "erfinv",
            "erfinv_{t}({0})",
            lambda g, o, x: (g * (call("exp", o * o) / _erf_scale),),
        ),
        _row(
            "ndtr",
            "realfloat1",
            _keep(_np_ndtr),
            "ndtr",
            "ndtr_{t}({0})",
            lambda g, o, x: (g * call("npdf", x),),
        ),
        _row(
            "npdf",
            "realfloat1",
            _keep(_np_npdf),
            "npdf",
            "npdf_{t}({0})",
            lambda g, o, x: (-(g * (x * o)),),
        ),
        _row(
            "sigmoid",
            "realfloat1",
            _np_sigmoid,
            "sigmoid",
            "sigmoid_{t}({0})",
            lambda g, o, x: (g * (o * (1.0 - o)),),
        ),
        _row(
            "softplus",
            "realfloat1",
            _np_softplus,
            "softplus",
            "softplus_{t}({0})",
            lambda g, o, x: (g * call("sigmoid", x),),
        ),
        _row(
            "log_sigmoid",
            "realfloat1",
            lambda x: -_np_softplus(-x),
            "log_sigmoid",
            "log_sigmoid_{t}({0})",
            lambda g, o, x: (g * call("sigmoid", -x),),
        ),
        _row(
            "gelu_tanh",
            "realfloat1",
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
        _row("signbit", "realtest", np.signbit, "signbit", "signbit_{t}({0})", None, True),
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
)
