"""Activations: one elementwise expression each, or a composition of a few.

Masks are comparisons of the operand or the result, and hence constants for every derivative. Kinks
follow section 7 of the catalogue: the slope at a kink is that of the flat or the lower side.
"""

from __future__ import annotations

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.op import Elementwise, elementwise, primitive
from staticgraph.operands import normalize_axis, promoted
from staticgraph.ops.declare import documented, number
from staticgraph.ops.elementwise import divide, greater, multiply, negative, sigmoid, where
from staticgraph.ops.join import concat
from staticgraph.ops.shape import reshape
from staticgraph.registry import add_op, public
from staticgraph.scalar import Expr
from staticgraph.tensor import Tensor
from staticgraph.types import is_complex

_FLOATS = "Shapes: that of x. Dtypes: floats; integers become float32."

_softplus = primitive("softplus", "", public_name="_softplus")
_gelu_tanh = primitive("gelu_tanh", "", public_name="_gelu_tanh")


def _doc(text: str, gradient: str, source: str, takes: str = _FLOATS) -> str:
    return documented(text, takes, gradient, 1, source)


def _zero(x: Expr) -> Expr:
    return s.const(0, x.dtype)


def _below(x: Expr) -> Expr:
    """min(x, 0); nan stays nan."""
    return s.where(x > 0, _zero(x), x)


def _bounded_below(x: Expr) -> Expr:
    # -inf times the 0 of a tail is nan where the limit is 0. Tails are 0 long before -1000.
    return s.where(x < -1000, s.const(-1000, x.dtype), x)


def _bounded(x: Expr) -> Expr:
    """The same for both tails."""
    return s.where(s.call("abs", x) > 1000, s.const(0, x.dtype), x)


def _clipped(x: Expr, low: float, high: float) -> Expr:
    """clip(x, low, high) with slope 0 on both bounds; nan stays nan."""
    inner = s.where(x >= high, s.const(high, x.dtype), x)
    return s.where(x <= low, s.const(low, x.dtype), inner)


# ---------------------------------------------------------------------------- without attributes


def _silu_vjp(g, y, x):
    sigmoid = s.call("sigmoid", x)
    return (g * (sigmoid + _bounded(x) * (sigmoid * (1.0 - sigmoid))),)


silu = elementwise(
    "silu",
    lambda x: _bounded_below(x) * s.call("sigmoid", x),
    _doc("x sigmoid(x), also known as swish.", "g s (1 + x (1 - s)), s = sigmoid(x)", "BHG 4.2"),
    vjp=_silu_vjp,
)
_gelu_exact = elementwise(
    "gelu",
    lambda x: _bounded_below(x) * s.call("ndtr", x),
    "",
    vjp=lambda g, y, x: (g * (s.call("ndtr", x) + _bounded(x) * s.call("npdf", x)),),
    public_name="_gelu_exact",
)
# Slopes are told by the result, which is kept anyway where the next layer reads it. Written as a
# select so that nan stays nan and the slope at 0 is 0.
relu = elementwise(
    "relu",
    lambda x: s.where(x <= 0, _zero(x), x),
    _doc(
        "max(x, 0).",
        "g where x > 0, else 0",
        "BHG 4.4; BPR 2.1; CN 1.8",
        "Shapes: that of x. Dtypes: real numbers.",
    ),
    vjp=lambda g, y, x: (s.where(y <= 0, _zero(g), g),),
    floating=False,
)
relu6 = elementwise(
    "relu6",
    lambda x: _clipped(x, 0, 6),
    _doc(
        "min(max(x, 0), 6).",
        "g where 0 < x < 6, else 0",
        "BHG 4.14",
        "Shapes: that of x. Dtypes: real numbers.",
    ),
    floating=False,
)


def _softsign(x: Expr) -> Expr:
    # At infinity the quotient is nan where the limit is the sign.
    size = s.call("abs", x)
    return s.where(s.call("isinf", x), s.call("sign", x), x / (1.0 + size))


def _softsign_vjp(g, y, x):
    # The square of the reciprocal: that of 1 + abs(x) overflows.
    part = s.call("reciprocal", 1.0 + s.call("abs", x))
    return (g * (part * part),)


softsign = elementwise(
    "softsign", _softsign, _doc("x / (1 + abs(x)).", "g / (1 + abs(x))^2", "BHG 4.19"),
    vjp=_softsign_vjp,
)  # fmt: skip


def _tanhshrink_vjp(g, y, x):
    t = s.call("tanh", x)
    return (g * (t * t),)


tanhshrink = elementwise(
    "tanhshrink", lambda x: x - s.call("tanh", x),
    _doc("x - tanh(x).", "g tanh(x)^2", "BHG 4.20"), vjp=_tanhshrink_vjp,
)  # fmt: skip

# ---------------------------------------------------------------------------- with attributes

_leaky_relu = elementwise(
    "leaky_relu",
    lambda x, *, negative_slope=0.01: s.where(x > 0, x, x * negative_slope),
    "",
    public_name="_leaky_relu",
)


def _elu_expr(x: Expr, *, alpha=1.0, scale=1.0, input_scale=1.0) -> Expr:
    below = (scale * alpha) * s.call("expm1", input_scale * _below(x))
    return s.where(x > 0, scale * x, below)


def _elu_vjp(g, y, x, *, alpha=1.0, scale=1.0, input_scale=1.0):
    return (s.where(x > 0, g * scale, g * (input_scale * (y + scale * alpha))),)


_elu = elementwise("elu", _elu_expr, "", vjp=_elu_vjp, public_name="_elu")
_hard_sigmoid = elementwise(
    "hard_sigmoid",
    lambda x, *, slope=1 / 6: _clipped(x * slope + 0.5, 0, 1),
    "",
    public_name="_hard_sigmoid",
)
_hard_tanh = elementwise(
    "hard_tanh", lambda x, *, min=-1.0, max=1.0: _clipped(x, min, max), "", public_name="_hard_tanh"
)


def _softshrink_expr(x: Expr, *, lambd: float = 0.5) -> Expr:
    return s.where(s.call("abs", x) <= lambd, _zero(x), x - lambd * s.call("sign", x))


_softshrink = elementwise("softshrink", _softshrink_expr, "", public_name="_softshrink")


@public
def leaky_relu(x: object, negative_slope: float = 0.01) -> Tensor:
    """x where x > 0, else negative_slope x.

    Shapes: that of x. Dtypes: floats; integers become float32.
    Gradient: g where x > 0, else negative_slope g, at 0 too.
    Raises GraphTypeError for a slope that is no number.
    Source: BHG 4.5; BPR 2.2; THNN LeakyReLU.
    """
    slope = number("leaky_relu", "negative_slope", negative_slope, positive=None)
    return _leaky_relu(x, negative_slope=slope)


@public
def elu(x: object, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    """scale x where x > 0, else scale alpha (e^(input_scale x) - 1).

    Shapes: that of x. Dtypes: floats; integers become float32.
    Gradient: g scale where x > 0, else g input_scale (y + scale alpha), at 0 too.
    Raises GraphTypeError for an attribute that is no number.
    Source: BHG 4.8; THNN ELU.
    """
    given = {"alpha": alpha, "scale": scale, "input_scale": input_scale}
    return _elu(x, **{k: number("elu", k, v, positive=None) for k, v in given.items()})


@public
def selu(x: object) -> Tensor:
    """Self-normalising elu: scale x where x > 0, else scale alpha (e^x - 1).

    scale = 1.0507009873554805, alpha = 1.6732632423543772.

    Shapes: that of x. Dtypes: floats; integers become float32.
    Gradient: g scale where x > 0, else g (y + scale alpha), at 0 too.
    Raises GraphTypeError for any other dtype.
    Source: BHG 4.9.
    """
    return _elu(x, alpha=1.6732632423543772, scale=1.0507009873554805, input_scale=1.0)


@public
def celu(x: object, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else alpha (e^(x / alpha) - 1), as PyTorch and JAX; see also `concat_elu`.

    Shapes: that of x. Dtypes: floats; integers become float32.
    Gradient: g where x > 0, else g e^(x / alpha): both are g at 0.
    Raises GraphTypeError for an alpha that is no number, ShapeError for one that is not > 0.
    Source: catalogue 7.
    """
    a = number("celu", "alpha", alpha)
    return _elu(x, alpha=a, scale=1.0, input_scale=1.0 / a)


@public
def crelu(x: object, axis: int = 1) -> Tensor:
    """Concatenation of relu(x) and relu(-x) along `axis`.

    Shapes: that of x with twice the size on `axis`. Dtypes: real numbers.
    Gradient: g1 where x > 0, -g2 where x < 0, else 0, for the two halves g1 and g2 of g.
    Raises ShapeError for an axis that x has not.
    Source: BHG 4.10.
    """
    (t,) = promoted("crelu", [x])
    a = normalize_axis("crelu", axis, t.ndim)
    return concat([relu(t), relu(negative(t))], a)


@public
def concat_elu(x: object, alpha: float = 1.0, axis: int = 1) -> Tensor:
    """Concatenation of elu(x, alpha) and elu(-x, alpha) along `axis` (the seed's CELU).

    Shapes: that of x with twice the size on `axis`. Dtypes: floats; integers become float32.
    Gradient: g1 elu'(x) - g2 elu'(-x) for the two halves g1 and g2 of g.
    Raises ShapeError for an axis that x has not, GraphTypeError for an alpha that is no number.
    Source: BHG 4.11.
    """
    (t,) = promoted("concat_elu", [x], floating=True)
    a = normalize_axis("concat_elu", axis, t.ndim)
    alpha = number("concat_elu", "alpha", alpha, positive=None)
    return concat([elu(t, alpha), elu(negative(t), alpha)], a)


@public
def gelu(x: object, approximate: str | bool = "none") -> Tensor:
    """x Phi(x), Phi the normal distribution function; with approximate="tanh" its tanh form
    x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).

    Shapes: that of x. Dtypes: floats; integers become float32.
    Gradient: g (Phi(x) + x phi(x)); of the tanh form its own derivative.
    Raises GraphTypeError for another `approximate`.
    Source: BHG 4.13.
    """
    if approximate in ("tanh", True):
        return _gelu_tanh(x)
    if approximate in ("none", False):
        return _gelu_exact(x)
    raise GraphTypeError(f"gelu: approximate is 'none' or 'tanh', got {approximate!r}")


@public
def hard_sigmoid(x: object, slope: float = 1 / 6) -> Tensor:
    """clip(slope x + 1/2, 0, 1).

    Shapes: that of x. Dtypes: floats; integers become float32.
    Gradient: g slope where 0 < slope x + 1/2 < 1, else 0.
    Raises GraphTypeError for a slope that is no number, ShapeError for one that is not > 0.
    Source: BHG 4.15, whose slope is 0.2.
    """
    return _hard_sigmoid(x, slope=number("hard_sigmoid", "slope", slope))


@public
def hard_tanh(x: object, min: float = -1.0, max: float = 1.0) -> Tensor:
    """clip(x, min, max), with slope 0 on the bounds; see also `clip`.

    Shapes: that of x. Dtypes: floats; integers become float32.
    Gradient: g where min < x < max, else 0.
    Raises GraphTypeError for a bound that is no number, ShapeError where min is not below max.
    Source: BHG 4.16; THNN HardTanh.
    """
    low, high = (
        number("hard_tanh", name, value, positive=None)
        for name, value in (("min", min), ("max", max))
    )
    if not low < high:
        raise ShapeError(f"hard_tanh: min must be below max, got {min!r} and {max!r}")
    return _hard_tanh(x, min=low, max=high)


@public
def softplus(x: object, beta: float = 1.0, threshold: float | None = 20.0) -> Tensor:
    """log(1 + e^(beta x)) / beta without overflow, and x where beta x > threshold.

    The form is stable without a threshold (None), which then is exact in float64 too: at 20 the
    two differ by 2e-9.

    Shapes: that of x. Dtypes: floats; integers become float32.
    Gradient: g sigmoid(beta x), and g where beta x > threshold.
    Raises GraphTypeError for an attribute that is no number, ShapeError for a beta not > 0.
    Source: BHG 4.18; THNN SoftPlus.
    """
    b = number("softplus", "beta", beta)
    (t,) = promoted("softplus", [x], floating=True)
    scaled = t if b == 1 else multiply(t, b)
    y = _softplus(scaled)
    y = y if b == 1 else divide(y, b)
    if threshold is None:
        return y
    return where(greater(scaled, number("softplus", "threshold", threshold, positive=None)), t, y)


@public
def softshrink(x: object, lambd: float = 0.5) -> Tensor:
    """sign(x) max(abs(x) - lambd, 0).

    Shapes: that of x. Dtypes: floats; integers become float32.
    Gradient: g where abs(x) > lambd, else 0.
    Raises GraphTypeError for a lambd that is no number, ShapeError for one below 0.
    Source: THNN SoftShrink.
    """
    return _softshrink(x, lambd=number("softshrink", "lambd", lambd, positive=False))


# ---------------------------------------------------------------------------- prelu, glu


def _prelu_vjp(g, y, x, w):
    below = _below(x)
    return s.where(x > 0, g, g * w), g * below


PRELU = add_op(Elementwise("prelu", lambda x, w: s.where(x > 0, x, w * _below(x)), _prelu_vjp))


@public
def prelu(x: object, weight: object) -> Tensor:
    """x where x > 0, else w x: one number w for all of x, or one per channel (axis 1).

    Shapes: weight () or (1,), or (C,) for x (N, C, ...); the result has that of x. Dtypes: floats;
    integers become float32.
    Gradient: g where x > 0, else g w, at 0 too; of the weight the sum of g min(x, 0).
    Raises ShapeError for a weight of another shape.
    Source: BHG 4.12.
    """
    t, w = promoted("prelu", [x, weight], floating=True)
    if is_complex(t.type.dtype):
        raise GraphTypeError(f"prelu: needs real numbers, got {t.type}")
    channels = t.shape[1:2]
    if w.size == 1 and w.ndim < 2:
        w = reshape(w, ())
    elif w.shape == channels:
        w = reshape(w, (*channels, *(1,) * (t.ndim - 2)))
    else:
        wanted = " or ".join(str(n) for n in ((), (1,), *([channels] if channels else ())))
        raise ShapeError(f"prelu: weight must have shape {wanted} for x {t.type}, got {w.type}")
    return apply(PRELU, t, w)


@public
def glu(x: object, axis: int = -1) -> Tensor:
    """a sigmoid(b) for the two halves a and b of x along `axis`.

    Shapes: that of x with half the size on `axis`. Dtypes: floats; integers become float32.
    Gradient: g sigmoid(b) and g a sigmoid(b) (1 - sigmoid(b)), one after the other.
    Raises ShapeError for an axis that x has not, or of odd size.
    Source: THNN GatedLinearUnit.
    """
    (t,) = promoted("glu", [x], floating=True)
    a = normalize_axis("glu", axis, t.ndim)
    if t.shape[a] % 2:
        raise ShapeError(f"glu: axis {axis} of {t.type} must have an even size")
    lead, half = (slice(None),) * a, t.shape[a] // 2
    return multiply(t[(*lead, slice(half))], sigmoid(t[(*lead, slice(half, None))]))


swish = silu
