"""Elementwise ops: rows of the primitive table, and what is made of few of them."""

from __future__ import annotations

from collections.abc import Callable

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError
from staticgraph.ir import Node, apply
from staticgraph.op import Elementwise, primitive
from staticgraph.operands import cast as cast_tensor
from staticgraph.operands import promoted, tensor_argument
from staticgraph.ops.declare import row
from staticgraph.registry import add_op, public
from staticgraph.tensor import Tensor
from staticgraph.types import DTYPES, TensorType, as_dtype, is_complex

# ---------------------------------------------------------------------------- arithmetic

add = row("add", "x1 + x2.", "(g, g)", "BHG 7.1, 7.8; MP 5; CN 1.25")
subtract = row("subtract", "x1 - x2.", "(g, -g)", "BHG 7.3, 7.11")
multiply = row("multiply", "x1 x2.", "(g x2, g x1)", "BHG 7.4, 7.9; CN 1.25")
divide = row("divide", "x1 / x2 in floating point.", "(g / x2, -g y / x2)", "BHG 7.6, 7.12")
floor_divide = row("floor_divide", "floor(x1 / x2) as NumPy; 0 for an integer division by zero.")
remainder = row(
    "remainder", "x1 - floor(x1 / x2) x2, with the sign of x2 as NumPy.", "(g, -g floor(x1 / x2))"
)
negative = row("negative", "-x.", "-g", "CN 1.23")
abs = row(
    "abs", "Absolute value, modulus of a complex number.", "g sign(x), 0 at 0", "BHG 9.3; BPR 2.5"
)
square = row("square", "x^2.", "2 x g", "CN 1.1, 1.8")
reciprocal = row("reciprocal", "1 / x.", "-g y^2", "CN 1.23")
sqrt = row("sqrt", "Square root.", "g / (2 y), inf at 0")
rsqrt = row("rsqrt", "1 / sqrt(x).", "-g y^3 / 2")
cbrt = row("cbrt", "Cube root.", "g / (3 y^2), inf at 0")
maximum = row(
    "maximum",
    "The larger of x1 and x2, nan where either is.",
    "g to the larger one, half of it to each at a tie",
    "BHG 8.3, 8.5; CN 1.25",
)
minimum = row(
    "minimum",
    "The smaller of x1 and x2, nan where either is.",
    "g to the smaller one, half of it to each at a tie",
    "BHG 8.2, 8.4",
)
_conj = primitive("conj", "", public_name="_conj")
_real = primitive("real", "", public_name="_real")
imag = row("imag", "Imaginary part.", "i g")
complex_ = row("complex", "x1 + i x2.", "(real(g), imag(g))", public_name="complex_")

# --------------------------------------------------------------------------- exp, log, trigonometry

exp = row("exp", "e^x.", "g y", "BHG 9.4")
exp2 = row("exp2", "2^x.", "g y ln 2")
expm1 = row("expm1", "e^x - 1, accurate near 0.", "g (y + 1)")
log = row("log", "Natural logarithm.", "g / x, inf at 0", "BHG 9.5")
log1p = row("log1p", "Natural logarithm of 1 + x, accurate near 0.", "g / (1 + x)")
log2 = row("log2", "Logarithm of base 2.", "g / (x ln 2)")
log10 = row("log10", "Logarithm of base 10.", "g / (x ln 10)")
logaddexp = row(
    "logaddexp",
    "log(e^x1 + e^x2) without overflow.",
    "(g sigmoid(x1 - x2), g sigmoid(x2 - x1))",
)
sin = row("sin", "Sine.", "g cos x", "BHG 9.11")
cos = row("cos", "Cosine.", "-g sin x", "BHG 9.12")
tan = row("tan", "Tangent.", "g (1 + y^2)", "BHG 9.13")
asin = row("asin", "Inverse sine.", "g / sqrt(1 - x^2)", "BHG 9.16")
acos = row("acos", "Inverse cosine.", "-g / sqrt(1 - x^2)", "BHG 9.17")
atan = row("atan", "Inverse tangent.", "g / (1 + x^2)", "BHG 9.18")
atan2 = row(
    "atan2",
    "Angle of the point (x2, x1), from -pi to pi.",
    "g (x2, -x1) / (x1^2 + x2^2), 0 at the origin",
    "BHG 9.19",
)
sinh = row("sinh", "Hyperbolic sine.", "g cosh x", "BHG 9.14")
cosh = row("cosh", "Hyperbolic cosine.", "g sinh x", "BHG 9.15")
tanh = row("tanh", "Hyperbolic tangent.", "g (1 - y^2)", "BHG 4.3; BPR 2.3; THNN Tanh")
asinh = row("asinh", "Inverse hyperbolic sine.", "g / sqrt(x^2 + 1)", "BHG 9.20")
acosh = row("acosh", "Inverse hyperbolic cosine, for x >= 1.", "g / sqrt(x^2 - 1)", "BHG 9.21")
atanh = row("atanh", "Inverse hyperbolic tangent.", "g / (1 - x^2)", "BHG 9.22")
hypot = row("hypot", "sqrt(x1^2 + x2^2) without overflow.", "g (x1, x2) / y, 0 at the origin")
erf = row("erf", "Error function.", "g 2 / sqrt(pi) e^(-x^2)")
erfc = row("erfc", "1 - erf(x), accurate in the tail.", "-g 2 / sqrt(pi) e^(-x^2)")
erfinv = row("erfinv", "Inverse of erf.", "g sqrt(pi) / 2 e^(y^2)")
ndtr = row("ndtr", "Standard normal distribution function.", "g e^(-x^2 / 2) / sqrt(2 pi)")
_npdf = primitive("npdf", "", public_name="_npdf")
sigmoid = row(
    "sigmoid",
    "1 / (1 + e^-x), accurate in both tails.",
    "g y (1 - y)",
    "BHG 4.1; BPR 2.4; CN 1.24; THNN Sigmoid",
)
log_sigmoid = row(
    "log_sigmoid",
    "Logarithm of sigmoid(x), min(x, 0) - log1p(e^-abs(x)).",
    "g sigmoid(-x)",
    "BHG 4.17; THNN LogSigmoid",
)
copysign = row("copysign", "abs(x1) with the sign of x2.", "(g sign(x1) sign(x2), none)")

# ---------------------------------------------------------------------- comparison, logic, rounding

equal = row("equal", "x1 == x2 as bool.", source="BHG 8.9, 8.18")
not_equal = row("not_equal", "x1 != x2 as bool.", source="BHG 8.10, 8.19")
less = row("less", "x1 < x2 as bool.", source="BHG 8.14, 8.23")
less_equal = row("less_equal", "x1 <= x2 as bool.", source="BHG 8.13, 8.22")
greater = row("greater", "x1 > x2 as bool.", source="BHG 8.12, 8.21")
greater_equal = row("greater_equal", "x1 >= x2 as bool.", source="BHG 8.11, 8.20")
logical_and = row("logical_and", "Both are true.", source="BHG 8.6, 8.15")
logical_or = row("logical_or", "One or both are true.", source="BHG 8.7, 8.16")
logical_xor = row("logical_xor", "Exactly one is true.", source="BHG 8.8, 8.17")
logical_not = row("logical_not", "x == 0.", source="BHG 8.24")
bitwise_and = row("bitwise_and", "Bits of both.")
bitwise_or = row("bitwise_or", "Bits of either.")
bitwise_xor = row("bitwise_xor", "Bits of exactly one.")
bitwise_invert = row("bitwise_invert", "All bits inverted.")
left_shift = row("left_shift", "x1 * 2^x2.")
right_shift = row("right_shift", "floor(x1 / 2^x2).")
isnan = row("isnan", "Whether x is nan.")
isinf = row("isinf", "Whether x is infinite.")
isfinite = row("isfinite", "Whether x is neither infinite nor nan.")
signbit = row("signbit", "Whether the sign bit is set, -0.0 included.")
trunc = row("trunc", "The integer part.", "0")
where = row(
    "where", "x1 where the condition holds, else x2.", "g to the chosen one, 0 to the other",
    "BHG 8.25",
)  # fmt: skip
_sign = primitive("sign", "", public_name="_sign")
_round = primitive("round", "", public_name="_round")
_floor = primitive("floor", "", public_name="_floor")
_ceil = primitive("ceil", "", public_name="_ceil")


class StraightThrough(Elementwise):
    """The first operand, with the derivative of the second, its proxy."""

    def __init__(self) -> None:
        super().__init__(
            "straight_through", lambda value, proxy: value, lambda g, y, value, proxy: (None, g)
        )

    def infer(self, value: TensorType, proxy: TensorType) -> TensorType:
        if value != proxy:
            raise GraphTypeError(
                f"straight_through: value and proxy must be of one type, got {value} and {proxy}"
            )
        return value

    def simplify(self, node: Node) -> None:
        return None


STRAIGHT_THROUGH = add_op(StraightThrough())


def _stepped(op: str, step: Callable, x: object, ste: bool) -> Tensor:
    """A piecewise constant function, by choice with the gradient of x itself."""
    t = tensor_argument(op, x)
    if not isinstance(ste, bool):
        raise GraphTypeError(f"{op}: ste is a bool, got {ste!r}")
    return apply(STRAIGHT_THROUGH, step(t), t) if ste else step(t)


@public
def sign(x: object, ste: bool = False) -> Tensor:
    """-1, 0 or 1 by the sign of x; nan stays nan.

    Shapes: that of x. Dtypes: numbers; of a complex number x / abs(x), as NumPy.
    Gradient: 0, of complex numbers (g - y real(conj(y) g)) / abs(x); with `ste`
    (straight-through) g.
    Raises GraphTypeError for bools.
    Source: BHG 8.1.
    """
    return _stepped("sign", _sign, x, ste)


@public
def round(x: object, ste: bool = False) -> Tensor:
    """The nearest integer, half to even.

    Shapes: that of x. Dtypes: real numbers.
    Gradient: 0; with `ste` (straight-through) g.
    Raises GraphTypeError for any other dtype.
    Source: BHG 9.8.
    """
    return _stepped("round", _round, x, ste)


@public
def ceil(x: object, ste: bool = False) -> Tensor:
    """The smallest integer >= x.

    Shapes: that of x. Dtypes: real numbers.
    Gradient: 0; with `ste` (straight-through) g.
    Raises GraphTypeError for any other dtype.
    Source: BHG 9.9.
    """
    return _stepped("ceil", _ceil, x, ste)


@public
def floor(x: object, ste: bool = False) -> Tensor:
    """The largest integer <= x.

    Shapes: that of x. Dtypes: real numbers.
    Gradient: 0; with `ste` (straight-through) g.
    Raises GraphTypeError for any other dtype.
    Source: BHG 9.10.
    """
    return _stepped("floor", _floor, x, ste)


# ---------------------------------------------------------------------------- functions


@public
def conj(x: object) -> Tensor:
    """Complex conjugate; a real tensor is its own.

    Shapes: that of x. Dtypes: numbers.
    Gradient: the conjugate of g.
    Raises GraphTypeError for what is no tensor.
    """
    t = tensor_argument("conj", x)
    return _conj(t) if is_complex(t.type.dtype) else t


@public
def real(x: object) -> Tensor:
    """Real part; a real tensor is its own.

    Shapes: that of x. Dtypes: numbers; the result is real.
    Gradient: g.
    Raises GraphTypeError for what is no tensor.
    """
    t = tensor_argument("real", x)
    return _real(t) if is_complex(t.type.dtype) else t


@public
def clip(x: object, min: object = None, max: object = None) -> Tensor:
    """Limit x to [min, max], each of which may be None; nan stays nan.

    Shapes: operands broadcast. Dtypes: real numbers, promoted to one dtype.
    Gradient: g inside and on the bounds; beyond a bound g goes to the bound.
    Raises ShapeError where shapes do not broadcast, GraphTypeError for complex numbers.
    Source: catalogue 7, 8.
    """
    t = tensor_argument("clip", x)
    if is_complex(t.type.dtype):
        raise GraphTypeError(f"clip: complex numbers have no order, got {t.type}")
    if min is None and max is None:
        return t
    if min is not None:
        t, low = promoted("clip", [t, min])
        t = where(less(t, low), low, t)
    if max is not None:
        t, high = promoted("clip", [t, max])
        t = where(greater(t, high), high, t)
    return t


class Cast(Elementwise):
    """The elements in another dtype, as NumPy's astype."""

    def __init__(self) -> None:
        super().__init__("cast", lambda x, *, dtype: s.cast(x, dtype))

    def infer(self, x: TensorType, *, dtype: str) -> TensorType:
        if dtype not in DTYPES:
            raise GraphTypeError(f"cast: there is no dtype {dtype!r}")
        return TensorType(dtype, x.shape)

    def simplify(self, node: Node):
        x = node.operands[0]
        if x.type.dtype == node.attrs["dtype"]:
            return [x]
        return None


CAST = add_op(Cast())


@public
def astype(x: object, dtype: object) -> Tensor:
    """The tensor in another dtype (NumPy's astype); complex to real drops the imaginary part.

    Shapes: that of x. Dtypes: any to any.
    Gradient: g in the dtype of x; none through integers and bools.
    Raises GraphTypeError for a dtype that there is not.
    """
    return cast_tensor(tensor_argument("astype", x), as_dtype(dtype))


class StopGradient(Elementwise):
    """The value itself, a constant for every derivative."""

    def __init__(self) -> None:
        super().__init__("stop_gradient", lambda x: x)

    def vjp(self, node, cotangents):
        return [None]

    def jvp(self, node, tangents):
        return [None]

    def simplify(self, node):
        return None


STOP_GRADIENT = add_op(StopGradient())


@public
def stop_gradient(x: object) -> Tensor:
    """The value of x; derivatives do not pass through it.

    Shapes: that of x. Dtypes: any.
    Gradient: none, a constant for every derivative.
    Raises GraphTypeError for what is no tensor.
    """
    return apply(STOP_GRADIENT, tensor_argument("stop_gradient", x))


true_divide = divide
mod = remainder
