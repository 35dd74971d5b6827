"""Smooth functions of one variable and of two, with what mpmath says they are.

Each row: the op it covers, our function, mpmath's, and the intervals its operands are drawn from.
`test_gradient` holds third derivatives to these, and fails for an elementwise op that has no row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mpmath as mp

from staticgraph import ops
from staticgraph.ir import apply
from staticgraph.registry import OPS


class Smooth(NamedTuple):
    op: str
    build: Callable
    exact: Callable
    spans: tuple[tuple[float, float], ...]
    label: str = ""

    @property
    def id(self) -> str:
        return f"{self.op}-{self.label}" if self.label else self.op


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def softplus(x):
    return mp.log1p(mp.exp(x))


def gelu_tanh(x):
    return x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)))


def entropy(p, t):
    return -(t * mp.log(p) + (1 - t) * mp.log(1 - p))


def number(op: str, **attrs: object) -> Callable:
    """An op as a function of tensors, with its attributes given."""
    return lambda *xs: apply(OPS[op], *xs, **attrs)


REAL, PLUS, UNIT, SHORT = (-3.0, 3.0), (0.3, 4.0), (0.1, 0.9), (-0.8, 0.8)
ONE = [
    ("negative", ops.negative, lambda x: -x, REAL),
    ("abs", ops.abs, lambda x: -x, (-3.0, -0.5)),
    ("square", ops.square, lambda x: x**2, REAL),
    ("reciprocal", ops.reciprocal, lambda x: 1 / x, (-3.0, -0.4)),
    ("sqrt", ops.sqrt, mp.sqrt, PLUS),
    ("rsqrt", ops.rsqrt, lambda x: 1 / mp.sqrt(x), PLUS),
    ("cbrt", ops.cbrt, mp.cbrt, PLUS),
    ("exp", ops.exp, mp.exp, REAL),
    ("exp2", ops.exp2, lambda x: mp.mpf(2) ** x, REAL),
    ("expm1", ops.expm1, mp.expm1, REAL),
    ("log", ops.log, mp.log, PLUS),
    ("log1p", ops.log1p, mp.log1p, (-0.6, 2.0)),
    ("log2", ops.log2, lambda x: mp.log(x) / mp.log(2), PLUS),
    ("log10", ops.log10, lambda x: mp.log(x) / mp.log(10), PLUS),
    ("sin", ops.sin, mp.sin, REAL),
    ("cos", ops.cos, mp.cos, REAL),
    ("tan", ops.tan, mp.tan, (-1.2, 1.2)),
    ("asin", ops.asin, mp.asin, SHORT),
    ("acos", ops.acos, mp.acos, SHORT),
    ("atan", ops.atan, mp.atan, REAL),
    ("sinh", ops.sinh, mp.sinh, REAL),
    ("cosh", ops.cosh, mp.cosh, REAL),
    ("tanh", ops.tanh, mp.tanh, REAL),
    ("asinh", ops.asinh, mp.asinh, REAL),
    ("acosh", ops.acosh, mp.acosh, (1.3, 4.0)),
    ("atanh", ops.atanh, mp.atanh, SHORT),
    ("erf", ops.erf, mp.erf, REAL),
    ("erfc", ops.erfc, mp.erfc, REAL),
    ("erfinv", ops.erfinv, mp.erfinv, SHORT),
    ("ndtr", ops.ndtr, mp.ncdf, REAL),
    ("sigmoid", ops.sigmoid, sigmoid, REAL),
    ("softplus", ops.softplus, softplus, REAL),
    ("log_sigmoid", ops.log_sigmoid, lambda x: -softplus(-x), REAL),
    ("silu", ops.silu, lambda x: x * sigmoid(x), REAL),
    ("gelu", ops.gelu, lambda x: x * mp.ncdf(x), REAL),
    ("gelu_tanh", number("gelu_tanh"), gelu_tanh, REAL),
    ("relu", ops.relu, lambda x: x, PLUS),
    ("relu6", ops.relu6, lambda x: x, PLUS),
    ("leaky_relu", lambda x: ops.leaky_relu(x, 0.2), lambda x: x / 5, (-3.0, -0.4)),
    ("elu", lambda x: ops.elu(x, 0.7), lambda x: mp.mpf("0.7") * mp.expm1(x), (-3.0, -0.4)),
    ("hard_sigmoid", lambda x: ops.hard_sigmoid(x, 0.25), lambda x: x / 4 + 0.5, (-1.9, 1.9)),
    ("hard_tanh", ops.hard_tanh, lambda x: x, SHORT),
    ("softsign", ops.softsign, lambda x: x / (1 - x), (-3.0, -0.4)),
    ("tanhshrink", ops.tanhshrink, lambda x: x - mp.tanh(x), REAL),
    ("softshrink", ops.softshrink, lambda x: x + 0.5, (-3.0, -0.6)),
    ("sinc", number("sinc", order=0), mp.sinc, REAL),
]
MORE = [
    ("cbrt", ops.cbrt, lambda x: -mp.cbrt(-x), (-4.0, -0.3), "negative"),
    ("abs", ops.abs, lambda x: x, PLUS, "positive"),
    ("reciprocal", ops.reciprocal, lambda x: 1 / x, PLUS, "positive"),
    ("relu6", ops.relu6, lambda x: mp.mpf(6), (6.5, 9.0), "flat"),
    ("elu", lambda x: ops.elu(x, 0.7), lambda x: x, PLUS, "positive"),
    ("sinc", number("sinc", order=0), mp.sinc, (8.0, 30.0), "far"),
    ("sinc", number("sinc", order=2), lambda x: mp.diff(mp.sinc, x, 2), (-1e-3, 1e-3), "near 0"),
    ("power", lambda x: x**3, lambda x: x**3, REAL, "cube"),
    ("power", lambda x: x**2.5, lambda x: x ** mp.mpf("2.5"), PLUS, "real"),
    ("power", lambda x: x**-1.5, lambda x: x ** mp.mpf("-1.5"), PLUS, "root"),
    ("power", lambda x: 3.0**x, lambda x: mp.mpf(3) ** x, REAL, "exponent"),
    ("sigmoid", ops.sigmoid, sigmoid, (8.0, 30.0), "far"),
    ("softplus", ops.softplus, softplus, (-30.0, -8.0), "far"),
    ("silu", ops.silu, lambda x: x * sigmoid(x), (8.0, 30.0), "far"),
    ("tanh", ops.tanh, mp.tanh, (3.0, 9.0), "far"),
    ("erf", ops.erf, mp.erf, (3.0, 5.0), "far"),
    ("log1p", ops.log1p, mp.log1p, (-1e-3, 1e-3), "near 0"),
    ("expm1", ops.expm1, mp.expm1, (-1e-3, 1e-3), "near 0"),
]
TWO = [
    ("add", ops.add, lambda x, y: x + y, REAL, REAL),
    ("subtract", ops.subtract, lambda x, y: x - y, REAL, REAL),
    ("multiply", ops.multiply, lambda x, y: x * y, REAL, REAL),
    ("divide", ops.divide, lambda x, y: x / y, REAL, PLUS),
    ("power", ops.power, lambda x, y: x**y, PLUS, REAL),
    ("maximum", ops.maximum, lambda x, y: y, (-3.0, -1.0), (0.5, 2.0)),
    ("minimum", ops.minimum, lambda x, y: x, (-3.0, -1.0), (0.5, 2.0)),
    ("atan2", ops.atan2, mp.atan2, PLUS, PLUS),
    ("hypot", ops.hypot, lambda x, y: mp.sqrt(x * x + y * y), PLUS, REAL),
    ("logaddexp", ops.logaddexp, lambda x, y: mp.log(mp.exp(x) + mp.exp(y)), REAL, REAL),
    ("copysign", ops.copysign, lambda x, y: -x, PLUS, (-3.0, -0.5)),
    ("prelu", number("prelu"), lambda x, w: w * x, (-3.0, -0.4), REAL),
    ("remainder", ops.remainder, lambda x, y: x - y, (1.2, 1.7), (0.9, 1.1)),
    ("binary_cross_entropy", number("binary_cross_entropy"), entropy, UNIT, UNIT),
    ("binary_cross_entropy_with_logits", number("binary_cross_entropy_with_logits"),
     lambda x, t: softplus(x) - x * t, REAL, UNIT),
]  # fmt: skip

SMOOTH = [
    *(Smooth(op, build, exact, (span,)) for op, build, exact, span in ONE),
    *(Smooth(op, build, exact, (span,), label) for op, build, exact, span, label in MORE),
    *(
        Smooth(op, build, exact, spans)
        for op, build, exact, *rest in TWO
        for spans in [tuple(rest)]
    ),
]

#: elementwise ops without a third derivative to test: of integers and bools, flat, complex, or no
#: function of their operand at all
OTHERS = {
    *("floor_divide", "sign", "floor", "ceil", "trunc", "round", "cast", "check_index"),
    *("conj", "real", "imag", "complex", "where", "stop_gradient"),
    *("straight_through", "binary_sigmoid", "binary_tanh", "quantize_linear", "top_k_grad"),
    *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
    *("logical_and", "logical_or", "logical_xor", "logical_not"),
    *("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_invert", "left_shift", "right_shift"),
    *("isnan", "isinf", "isfinite", "signbit"),
}
