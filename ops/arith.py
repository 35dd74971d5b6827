"""Powers, sinc, and sums and products of lists."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, pi

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError
from staticgraph.ir import apply
from staticgraph.op import Elementwise, primitive
from staticgraph.operands import as_tensor, is_scalar, promoted, tensor_argument
from staticgraph.operands import cast as cast_tensor
from staticgraph.ops.declare import number
from staticgraph.ops.elementwise import add, multiply, reciprocal, round, rsqrt, sqrt, square
from staticgraph.registry import add_op, public
from staticgraph.scalar import Expr
from staticgraph.tensor import Tensor
from staticgraph.types import is_bool, is_complex, is_integer

_power = primitive("power", "", public_name="_power")


@public
def power(x1: object, x2: object) -> Tensor:
    """x1^x2. A constant exponent of 1, 2, 3, -1, 0.5 or -0.5 becomes the plain product or root.

    Shapes: operands broadcast. Dtypes: numbers, promoted to one dtype; integers stay integers.
    Gradient: (g x2 x1^(x2-1), 0 where x2 = 0; g y ln x1, 0 where x1 = 0 and x2 >= 0).
    Raises ShapeError where shapes do not broadcast, GraphTypeError for a negative constant
    exponent of integers.
    Source: BHG 7.7, 7.10, 7.13.
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
        exact = _power(cast_tensor(a, "float64"), cast_tensor(b, "float64"))
        return cast_tensor(round(exact), a.type.dtype)
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
def power_layer(x: object, power: float = 1.0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """(shift + scale x)^power.

    Shapes: that of x. Dtypes: floats; integers become float32.
    Gradient: g power scale (shift + scale x)^(power-1).
    Raises GraphTypeError for an attribute that is no number.
    Source: BPR 2.6.
    """
    op = "power_layer"
    exponent, factor, offset = (
        number(op, name, value, positive=None)
        for name, value in (("power", power), ("scale", scale), ("shift", shift))
    )
    (t,) = promoted(op, [x], floating=True)
    return pow(add(multiply(t, factor), offset), exponent)


@public
def identity(x: object) -> Tensor:
    """x itself; for a unit matrix see `eye`.

    Shapes: that of x. Dtypes: any.
    Gradient: g.
    Raises GraphTypeError for what is no tensor.
    Source: BHG 9.6.
    """
    return tensor_argument("identity", x)


def _folded(op: str, join: Callable, xs: object) -> Tensor:
    """A non-empty list of tensors joined from left to right."""
    if isinstance(xs, Tensor) or not hasattr(xs, "__iter__"):
        raise GraphTypeError(f"{op}: needs a list of tensors, got {xs!r}")
    items = list(xs)
    if not items:
        raise GraphTypeError(f"{op}: needs at least one tensor")
    total = tensor_argument(op, items[0])
    for x in items[1:]:
        total = join(total, x)
    return total


@public
def add_n(xs: object) -> Tensor:
    """The sum of a non-empty list of tensors, from left to right.

    Shapes: operands broadcast. Dtypes: numbers, promoted to one dtype.
    Gradient: g to each.
    Raises GraphTypeError for an empty list, ShapeError where shapes do not broadcast.
    Source: BHG 7.2.
    """
    return _folded("add_n", add, xs)


@public
def multiply_n(xs: object) -> Tensor:
    """The product of a non-empty list of tensors, from left to right.

    Shapes: operands broadcast. Dtypes: numbers, promoted to one dtype.
    Gradient: g times the product of the others, made of the products of those before and of those
    after, so that it is right where some are 0.
    Raises GraphTypeError for an empty list, ShapeError where shapes do not broadcast.
    Source: BHG 7.5.
    """
    return _folded("multiply_n", multiply, xs)


# ---------------------------------------------------------------------------- sinc

#: what rounding does not show: a series ends before its first term below it
_NEGLIGIBLE = 1e-18


def _sinc_series(x: Expr, order: int) -> Expr:
    """The series of a derivative of sin(x) / x for abs(x) < 1 + order, by Horner's rule in x^2."""
    terms: list[float] = []
    k = (order + 1) // 2
    while not terms or abs(terms[-1]) * (1.0 + order) ** (2 * k - order) > _NEGLIGIBLE:
        scale = factorial(2 * k - order) * factorial(2 * k + 1)
        terms.append((-1) ** k * factorial(2 * k) / scale)
        k += 1
    squared = x * x
    total = s.const(terms[-1], x.dtype)
    for c in reversed(terms[:-1]):
        total = total * squared + c
    return total * x if order % 2 else total


def _sinc(x: Expr, *, order: int = 0) -> Expr:
    # f_n = (sin^(n)(x) - n f_(n-1)) / x loses digits for small x, where the series has few terms.
    near = s.call("abs", x) < 1.0 + order
    safe = s.where(near, s.const(1, x.dtype), x)
    sin, cos = s.call("sin", safe), s.call("cos", safe)
    far = sin / safe
    for n in range(1, order + 1):
        turned = (sin, cos, -sin, -cos)[n % 4]
        far = (turned - n * far) / safe
    return s.where(near, _sinc_series(x, order), far)


class Sinc(Elementwise):
    """A derivative of sin(x) / x; its own derivative is that of one order more."""

    def __init__(self) -> None:
        super().__init__("sinc", _sinc)

    def vjp(self, node, cotangents):
        slope = apply(self, *node.operands, order=node.attrs.get("order", 0) + 1)
        return [multiply(cotangents[0], slope)]

    def jvp(self, node, tangents):
        return self.vjp(node, tangents)


SINC = add_op(Sinc())


@public
def sinc(x: object, normalized: bool = True) -> Tensor:
    """sin(pi x) / (pi x), or sin(x) / x where not `normalized`; 1 at 0.

    Shapes: that of x. Dtypes: floats; integers become float32.
    Gradient: g (cos(pi x) - y) / x, 0 at 0; near 0 all orders are taken from the series, so that
    the second derivative at 0 is -pi^2 / 3 (not normalised: -1 / 3).
    Raises GraphTypeError for complex numbers.
    Source: BHG 4.21, which is not normalised.
    """
    (t,) = promoted("sinc", [x], floating=True)
    if is_complex(t.type.dtype):
        raise GraphTypeError(f"sinc: needs real numbers, got {t.type}")
    return apply(SINC, multiply(t, pi) if normalized else t, order=0)


pow = power
