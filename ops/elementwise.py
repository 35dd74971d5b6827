"""Elementwise ops: rows of the primitive table, and compositions of them in one line each."""

from __future__ import annotations

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError
from staticgraph.ir import Node, Tensor, apply
from staticgraph.op import (
    Elementwise,
    add_op,
    as_tensor,
    elementwise,
    is_scalar,
    primitive,
    promoted,
    public,
    tensor_argument,
)
from staticgraph.op import cast as cast_tensor
from staticgraph.types import DTYPES, TensorType, as_dtype, is_bool, is_complex, is_integer

# ---------------------------------------------------------------------------- arithmetic

add = primitive("add", "x1 + x2, broadcast; gradient (g, g). Catalogue 3.6.")
subtract = primitive("subtract", "x1 - x2, broadcast; gradient (g, -g). Catalogue 3.6.")
multiply = primitive("multiply", "x1 * x2, broadcast; gradient (g x2, g x1). Catalogue 3.6.")
divide = primitive(
    "divide",
    "x1 / x2 in floating point (integers become float32); gradient (g/x2, -g y/x2). Catalogue 3.6.",
)
floor_divide = primitive(
    "floor_divide", "floor(x1 / x2) as NumPy; 0 for an integer division by zero; no gradient."
)
remainder = primitive(
    "remainder", "x1 - floor(x1 / x2) x2, the sign of x2 as NumPy; gradient (g, -g floor(x1/x2))."
)
negative = primitive("negative", "-x; gradient -g.")
abs = primitive(
    "abs", "Absolute value, modulus of a complex number; gradient g sign(x), 0 at 0. Catalogue 3.8."
)
sign = primitive("sign", "-1, 0 or 1 as NumPy; gradient 0. Catalogue 3.7.")
square = primitive("square", "x * x; gradient 2 x g.")
reciprocal = primitive("reciprocal", "1 / x; gradient -g y^2.")
sqrt = primitive("sqrt", "Square root; gradient g / (2 y), inf at 0.")
rsqrt = primitive("rsqrt", "1 / sqrt(x); gradient -g y^3 / 2.")
cbrt = primitive("cbrt", "Cube root; gradient g / (3 y^2).")
maximum = primitive(
    "maximum",
    "The larger one, nan where either is; at a tie each gets half the gradient. Catalogue 3.7.",
)
minimum = primitive(
    "minimum",
    "The smaller one, nan where either is; at a tie each gets half the gradient. Catalogue 3.7.",
)
_power = primitive("power", "", public_name="_power")
_conj = primitive("conj", "", public_name="_conj")
_real = primitive("real", "", public_name="_real")
imag = primitive("imag", "Imaginary part.")
complex_ = primitive("complex", "x1 + i x2.", public_name="complex_")

# --------------------------------------------------------------------------- exp, log, trigonometry

exp = primitive("exp", "e^x; gradient g y. Catalogue 3.8.")
exp2 = primitive("exp2", "2^x; gradient g y ln 2.")
expm1 = primitive("expm1", "e^x - 1, accurate near 0; gradient g (y + 1).")
log = primitive("log", "Natural logarithm; gradient g / x. Catalogue 3.8.")
log1p = primitive("log1p", "log(1 + x), accurate near 0; gradient g / (1 + x).")
log2 = primitive("log2", "Logarithm of base 2; gradient g / (x ln 2).")
log10 = primitive("log10", "Logarithm of base 10; gradient g / (x ln 10).")
logaddexp = primitive(
    "logaddexp", "log(e^x1 + e^x2) without overflow; gradient g sigmoid(+-(x1 - x2))."
)
sin = primitive("sin", "Sine; gradient g cos x. Catalogue 3.8.")
cos = primitive("cos", "Cosine; gradient -g sin x. Catalogue 3.8.")
tan = primitive("tan", "Tangent; gradient g (1 + y^2). Catalogue 3.8.")
asin = primitive("asin", "Inverse sine; gradient g / sqrt(1 - x^2). Catalogue 3.8.")
acos = primitive("acos", "Inverse cosine; gradient -g / sqrt(1 - x^2). Catalogue 3.8.")
atan = primitive("atan", "Inverse tangent; gradient g / (1 + x^2). Catalogue 3.8.")
atan2 = primitive(
    "atan2",
    "Angle of the point (x2, x1) in (-pi, pi]; gradient g (x2, -x1) / (x1^2 + x2^2), 0 at the"
    " origin. Catalogue 3.8.",
)
sinh = primitive("sinh", "Hyperbolic sine; gradient g cosh x. Catalogue 3.8.")
cosh = primitive("cosh", "Hyperbolic cosine; gradient g sinh x. Catalogue 3.8.")
tanh = primitive("tanh", "Hyperbolic tangent; gradient g (1 - y^2). Catalogue 3.3.")
asinh = primitive("asinh", "Inverse hyperbolic sine; gradient g / sqrt(x^2 + 1). Catalogue 3.8.")
acosh = primitive(
    "acosh", "Inverse hyperbolic cosine for x >= 1; gradient g / sqrt(x^2 - 1). Catalogue 3.8."
)
atanh = primitive("atanh", "Inverse hyperbolic tangent; gradient g / (1 - x^2). Catalogue 3.8.")
hypot = primitive(
    "hypot", "sqrt(x1^2 + x2^2) without overflow; gradient g (x1, x2) / y, 0 at the origin."
)
erf = primitive("erf", "Error function; gradient g 2/sqrt(pi) e^(-x^2).")
erfc = primitive("erfc", "1 - erf(x), accurate in the tail; gradient -g 2/sqrt(pi) e^(-x^2).")
erfinv = primitive("erfinv", "Inverse of erf; gradient g sqrt(pi)/2 e^(y^2).")
ndtr = primitive(
    "ndtr", "Standard normal distribution function; gradient g e^(-x^2/2) / sqrt(2 pi)."
)
copysign = primitive("copysign", "abs(x1) with the sign of x2.")

# ---------------------------------------------------------------------- comparison, logic, rounding

equal = primitive("equal", "x1 == x2 as bool.")
not_equal = primitive("not_equal", "x1 != x2 as bool.")
less = primitive("less", "x1 < x2 as bool.")
less_equal = primitive("less_equal", "x1 <= x2 as bool.")
greater = primitive("greater", "x1 > x2 as bool.")
greater_equal = primitive("greater_equal", "x1 >= x2 as bool.")
logical_and = primitive("logical_and", "x1 and x2; not zero counts as true. Catalogue 3.7.")
logical_or = primitive("logical_or", "x1 or x2; not zero counts as true. Catalogue 3.7.")
logical_xor = primitive(
    "logical_xor", "Exactly one of x1, x2; not zero counts as true. Catalogue 3.7."
)
logical_not = primitive("logical_not", "x == 0. Catalogue 3.7.")
bitwise_and = primitive("bitwise_and", "Bits of both, for integers and bools.")
bitwise_or = primitive("bitwise_or", "Bits of either, for integers and bools.")
bitwise_xor = primitive("bitwise_xor", "Bits of exactly one, for integers and bools.")
bitwise_invert = primitive("bitwise_invert", "All bits inverted, for integers and bools.")
left_shift = primitive("left_shift", "x1 * 2^x2 for integers.")
right_shift = primitive("right_shift", "floor(x1 / 2^x2) for integers.")
isnan = primitive("isnan", "Whether x is nan.")
isinf = primitive("isinf", "Whether x is infinite.")
isfinite = primitive("isfinite", "Whether x is neither infinite nor nan.")
signbit = primitive("signbit", "Whether the sign bit is set, -0.0 included.")
floor = primitive("floor", "The largest integer <= x; gradient 0.")
ceil = primitive("ceil", "The smallest integer >= x; gradient 0.")
trunc = primitive("trunc", "The integer part; gradient 0.")
round = primitive("round", "The nearest integer, half to even; gradient 0.")
where = primitive(
    "where",
    "x1 where the condition holds, else x2; the gradient goes to the chosen one. Catalogue 3.7.",
)

# ---------------------------------------------------------------------------- activations

sigmoid = primitive(
    "sigmoid", "1 / (1 + e^-x), accurate in both tails; gradient g y (1 - y). Catalogue 3.3."
)
softplus = primitive(
    "softplus", "log(1 + e^x) without overflow; gradient g sigmoid(x). Catalogue 3.3."
)
log_sigmoid = primitive(
    "log_sigmoid", "log(sigmoid(x)) without overflow; gradient g sigmoid(-x). Catalogue 3.3."
)
_npdf = primitive("npdf", "", public_name="_npdf")
_gelu_tanh = primitive("gelu_tanh", "", public_name="_gelu_tanh")


def _nanmax0(x):
    # Written as a select so that nan stays nan and the slope at 0 is 0.
    return s.where(x <= 0, s.const(0, x.dtype), x)


def _bounded_below(x):
    # -inf times the 0 of a tail is nan where the limit is 0. Tails are 0 long before -1000.
    return s.where(x < -1000, s.const(-1000, x.dtype), x)


def _silu_vjp(g, y, x):
    sigmoid = s.call("sigmoid", x)
    return (g * (sigmoid + _bounded_below(x) * (sigmoid * (1.0 - sigmoid))),)


silu = elementwise(
    "silu",
    lambda x: _bounded_below(x) * s.call("sigmoid", x),
    "x sigmoid(x), also known as swish. Catalogue 3.3.",
    vjp=_silu_vjp,
)
_gelu_exact = elementwise(
    "gelu",
    lambda x: _bounded_below(x) * s.call("ndtr", x),
    "",
    vjp=lambda g, y, x: (g * (s.call("ndtr", x) + _bounded_below(x) * s.call("npdf", x)),),
    public_name="_gelu_exact",
)
# Slopes are told by the result, which is kept anyway where the next layer reads it.
relu = elementwise(
    "relu",
    _nanmax0,
    "max(x, 0); the gradient at 0 is 0. Catalogue 3.3.",
    vjp=lambda g, y, x: (s.where(y <= 0, s.const(0, g.dtype), g),),
    floating=False,
)
relu6 = elementwise(
    "relu6",
    lambda x: s.where(x <= 0, s.const(0, x.dtype), s.where(x >= 6, s.const(6, x.dtype), x)),
    "min(max(x, 0), 6); gradient 0 at both kinks. Catalogue 3.3.",
    floating=False,
)
_leaky_relu = elementwise(
    "_leaky_relu", lambda x, *, negative_slope=0.01: s.where(x > 0, x, x * negative_slope), ""
)
_elu = elementwise(
    "_elu",
    lambda x, *, alpha=1.0: s.where(
        x > 0, x, alpha * s.call("expm1", s.where(x > 0, s.const(0, x.dtype), x))
    ),
    "",
)


@public
def conj(x: object) -> Tensor:
    """Complex conjugate; a real tensor is its own."""
    t = tensor_argument("conj", x)
    return _conj(t) if is_complex(t.type.dtype) else t


@public
def real(x: object) -> Tensor:
    """Real part; a real tensor is its own."""
    t = tensor_argument("real", x)
    return _real(t) if is_complex(t.type.dtype) else t


@public
def leaky_relu(x: object, negative_slope: float = 0.01) -> Tensor:
    """x where x > 0, else negative_slope * x; at 0 the slope is negative_slope. Catalogue 3.3."""
    return _leaky_relu(x, negative_slope=float(negative_slope))


@public
def elu(x: object, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else alpha (e^x - 1); the slope at 0 is alpha. Catalogue 3.3."""
    return _elu(x, alpha=float(alpha))


@public
def gelu(x: object, approximate: str | bool = "none") -> Tensor:
    """x Phi(x), or its tanh form with approximate="tanh" (as PyTorch). Catalogue 3.3."""
    if approximate in ("tanh", True):
        return _gelu_tanh(x)
    if approximate in ("none", False):
        return _gelu_exact(x)
    raise GraphTypeError(f"gelu: approximate is 'none' or 'tanh', got {approximate!r}")


@public
def power(x1: object, x2: object) -> Tensor:
    """x1 ** x2, broadcast; integers stay integers for an integer exponent >= 0.

    Gradient (g x2 x1^(x2-1), 0 where x2 = 0; g y ln x1, 0 where x1 = 0). A constant exponent of
    1, 2, 3, -1, 0.5 or -0.5 becomes the plain product or root. Catalogue 3.6.
    """
    if is_scalar(x2):
        value = x2.item() if hasattr(x2, "item") else x2
        x = as_tensor(x1)
        if is_integer(x.type.dtype) and isinstance(value, int) and not isinstance(value, bool):
            if value < 0:
                raise GraphTypeError(
                    f"power: integers ({x.type}) take no negative exponent ({value});"
                    " use .astype('float32')"
                )
            return _integer_power(x, value)
        if value == 2:
            return square(x) if not is_bool(x.type.dtype) else x
        if value == 1:
            return x
        if value == 3:
            return multiply(square(x), x)
        if value == -1:
            return reciprocal(x)
        if value == 0.5:
            return sqrt(x)
        if value == -0.5:
            return rsqrt(x)
    a, b = promoted("power", [x1, x2])
    if is_integer(a.type.dtype):
        return cast_tensor(
            round(_power(cast_tensor(a, "float64"), cast_tensor(b, "float64"))), a.type.dtype
        )
    return _power(a, b)


def _integer_power(x: Tensor, n: int) -> Tensor:
    if n == 0:
        from_one = multiply(x, 0)
        return add(from_one, 1)
    result: Tensor | None = None
    while n:
        if n & 1:
            result = x if result is None else multiply(result, x)
        n >>= 1
        if n:
            x = multiply(x, x)
    assert result is not None
    return result


@public
def clip(x: object, min: object = None, max: object = None) -> Tensor:
    """Limit to [min, max] (each may be None); the gradient is 1 on the bounds too. Catalogue 7."""
    t = tensor_argument("clip", x)
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
    """The tensor in another dtype (NumPy's astype); complex to real drops the imaginary part."""
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
    """The value of x; derivatives do not pass through it."""
    return apply(STOP_GRADIENT, tensor_argument("stop_gradient", x))


@public
def add_n(xs: object) -> Tensor:
    """The sum of a non-empty list of tensors of one shape, from left to right."""
    items = list(xs)  # type: ignore[call-overload]
    if not items:
        raise GraphTypeError("add_n: needs at least one tensor")
    total = as_tensor(items[0])
    for x in items[1:]:
        total = add(total, x)
    return total


swish = silu
pow = power
true_divide = divide
mod = remainder
