"""Losses of regression and of two classes; `reduction` is 'mean', 'sum' or 'none'."""

from __future__ import annotations

from collections.abc import Callable

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import apply
from staticgraph.op import Elementwise
from staticgraph.operands import is_scalar, promoted
from staticgraph.ops.activation import relu, softplus
from staticgraph.ops.declare import number
from staticgraph.ops.elementwise import (
    abs,
    add,
    divide,
    log,
    maximum,
    multiply,
    negative,
    sigmoid,
    sqrt,
    square,
    subtract,
    where,
)
from staticgraph.ops.reduce import mean, sum
from staticgraph.ops.shape import sum_to
from staticgraph.registry import FUNCTIONS, add_op, public
from staticgraph.tensor import Tensor
from staticgraph.types import is_complex


def pair(op: str, x: object, target: object) -> list[Tensor]:
    """Prediction and target of one real floating dtype and one shape; a scalar fits any shape."""
    a, b = promoted(op, [x, target], floating=True)
    if is_complex(a.type.dtype):
        raise GraphTypeError(f"{op}: needs real numbers, got {a.type}")
    if a.shape != b.shape and not (is_scalar(target) or b.shape == ()):
        raise ShapeError(f"{op}: prediction {a.type} and target {b.type} must have one shape")
    return [a, b]


def reduced(op: str, loss: Tensor, reduction: str) -> Tensor:
    """The mean or the sum of a loss, or the loss itself."""
    if reduction == "mean":
        return mean(loss)
    if reduction == "sum":
        return sum(loss)
    if reduction == "none":
        return loss
    raise GraphTypeError(f"{op}: reduction is 'mean', 'sum' or 'none', got {reduction!r}")


# ---------------------------------------------------------------------------- regression


@public
def squared_error(x1: object, x2: object, reduction: str = "none") -> Tensor:
    """(x1 - x2)^2.

    Shapes: operands broadcast; a scalar if reduced. Dtypes: floats; integers become float32.
    Gradient: (2 g (x1 - x2), -2 g (x1 - x2)).
    Raises ShapeError where shapes do not broadcast, GraphTypeError for another reduction.
    Source: BHG 13.5.
    """
    error = subtract(*promoted("squared_error", [x1, x2], floating=True))
    return reduced("squared_error", square(error), reduction)


@public
def absolute_error(x1: object, x2: object, reduction: str = "none") -> Tensor:
    """abs(x1 - x2).

    Shapes: operands broadcast; a scalar if reduced. Dtypes: floats; integers become float32.
    Gradient: (g sign(x1 - x2), -g sign(x1 - x2)), 0 at a tie.
    Raises ShapeError where shapes do not broadcast, GraphTypeError for another reduction.
    Source: BHG 13.6.
    """
    error = subtract(*promoted("absolute_error", [x1, x2], floating=True))
    return reduced("absolute_error", abs(error), reduction)


@public
def mse_loss(x: object, target: object, reduction: str = "mean") -> Tensor:
    """(x - target)^2, reduced.

    Shapes: two of one shape, or a scalar target. Dtypes: real floats; integers become float32.
    Gradient: 2 g (x - target) / n for the mean of n; its negative for the target.
    Raises ShapeError for two shapes, GraphTypeError for another reduction.
    Source: THNN MSECriterion.
    """
    return reduced("mse_loss", squared_error(*pair("mse_loss", x, target)), reduction)


@public
def l1_loss(x: object, target: object, reduction: str = "mean") -> Tensor:
    """abs(x - target), reduced.

    Shapes: two of one shape, or a scalar target. Dtypes: real floats; integers become float32.
    Gradient: g sign(x - target) / n for the mean of n, 0 at a tie; its negative for the target.
    Raises ShapeError for two shapes, GraphTypeError for another reduction.
    Source: THNN AbsCriterion.
    """
    return reduced("l1_loss", absolute_error(*pair("l1_loss", x, target)), reduction)


@public
def half_squared_error(x: object, target: object) -> Tensor:
    """sum((x - target)^2) / 2, a scalar; also `mse`, its name in MP.

    Shapes: two of one shape, or a scalar target. Dtypes: real floats; integers become float32.
    Gradient: g (x - target); its negative for the target.
    Raises ShapeError for two shapes.
    Source: MP 3.
    """
    return multiply(sum(squared_error(*pair("half_squared_error", x, target))), 0.5)


@public
def euclidean_loss(x: object, target: object) -> Tensor:
    """mean((x - target)^2) / 2, a scalar.

    Shapes: two of one shape, or a scalar target. Dtypes: real floats; integers become float32.
    Gradient: g (x - target) / n of n elements; its negative for the target.
    Raises ShapeError for two shapes.
    Source: BPR 5.1.
    """
    return multiply(mean(squared_error(*pair("euclidean_loss", x, target))), 0.5)


def _huber(op: str, x: object, target: object, delta: float) -> Tensor:
    error = subtract(*pair(op, x, target))
    size = abs(error)
    tail = multiply(subtract(size, 0.5 * delta), delta)
    return where(size < delta, multiply(square(error), 0.5), tail)


@public
def huber_loss(x: object, target: object, delta: float = 1.0, reduction: str = "mean") -> Tensor:
    """e^2 / 2 for errors e = x - target below delta, else delta (abs(e) - delta / 2), reduced.

    Shapes: two of one shape, or a scalar target. Dtypes: real floats; integers become float32.
    Gradient: g clip(e, -delta, delta) / n for the mean of n; its negative for the target.
    Raises ShapeError for two shapes or a delta not > 0, GraphTypeError for another reduction.
    Source: BHG 13.7, which has twice this.
    """
    delta = number("huber_loss", "delta", delta)
    return reduced("huber_loss", _huber("huber_loss", x, target, delta), reduction)


@public
def smooth_l1_loss(x: object, target: object, beta: float = 1.0, reduction: str = "mean") -> Tensor:
    """e^2 / (2 beta) for errors e = x - target below beta, else abs(e) - beta / 2, reduced.

    Shapes: two of one shape, or a scalar target. Dtypes: real floats; integers become float32.
    Gradient: g clip(e / beta, -1, 1) / n for the mean of n; its negative for the target.
    Raises ShapeError for two shapes or a beta not > 0, GraphTypeError for another reduction.
    Source: THNN SmoothL1Criterion.
    """
    beta = number("smooth_l1_loss", "beta", beta)
    loss = divide(_huber("smooth_l1_loss", x, target, beta), beta)
    return reduced("smooth_l1_loss", loss, reduction)


@public
def epsilon_insensitive_loss(
    x: object, target: object, epsilon: float, reduction: str = "mean"
) -> Tensor:
    """max(0, abs(x - target) - epsilon), reduced.

    Shapes: two of one shape, or a scalar target. Dtypes: real floats; integers become float32.
    Gradient: g sign(x - target) / n where abs(x - target) > epsilon, for the mean of n; its
    negative for the target.
    Raises ShapeError for two shapes or an epsilon below 0, GraphTypeError for another reduction.
    Source: BHG 13.8.
    """
    op = "epsilon_insensitive_loss"
    epsilon = number(op, "epsilon", epsilon, positive=False)
    loss = relu(subtract(absolute_error(*pair(op, x, target)), epsilon))
    return reduced(op, loss, reduction)


@public
def l2_penalty(x: object, scale: float = 1.0) -> Tensor:
    """scale sum(x^2): weight decay as a term of the loss.

    Shapes: any; the result is a scalar. Dtypes: floats; integers become float32.
    Gradient: 2 g scale x.
    Raises ShapeError for a scale below 0, GraphTypeError for one that is no number.
    Source: CN 1.16.
    """
    (t,) = promoted("l2_penalty", [x], floating=True)
    return multiply(sum(square(t)), number("l2_penalty", "scale", scale, positive=False))


@public
def total_variation(x: object, eps: float = 1e-12) -> Tensor:
    """Sum of sqrt(a^2 + b^2 + eps), a and b the differences along the last two axes.

    `eps` keeps the gradient finite where the image is flat.

    Shapes: (..., height, width); the result is a scalar. Dtypes: floats; integers become float32.
    Gradient: the adjoint of the differences applied to (a, b) g / sqrt(a^2 + b^2 + eps).
    Raises ShapeError for fewer than two axes or an eps below 0.
    Source: BPR 5.3.
    """
    (t,) = promoted("total_variation", [x], floating=True)
    if t.ndim < 2:
        raise ShapeError(f"total_variation: needs an image of two axes, got {t.type}")
    corner = t[..., :-1, :-1]
    across, down = subtract(t[..., :-1, 1:], corner), subtract(t[..., 1:, :-1], corner)
    eps = number("total_variation", "eps", eps, positive=False)
    return sum(sqrt(add(add(square(across), square(down)), eps)))


# ---------------------------------------------------------------------------- two classes


class _Loss(Elementwise):
    """An elementwise loss whose derivative is better stated than taken from its expression."""

    def __init__(self, name: str, function: Callable, partials: Callable):
        super().__init__(name, function)
        self.partials = partials

    def vjp(self, node, cotangents):
        found = self.partials(*node.operands)
        return [
            sum_to(multiply(cotangents[0], p), t.shape)
            for p, t in zip(found, node.operands, strict=True)
        ]

    def jvp(self, node, tangents):
        return NotImplemented


def _cross_entropy(p: s.Expr, t: s.Expr) -> s.Expr:
    return -(t * _clamped(p) + (1.0 - t) * _clamped(-p))


def _clamped(p: s.Expr) -> s.Expr:
    """max(log p, -100); for an expression -p, that of 1 - p."""
    value = s.call("log1p", p) if p.name == "negative" else s.call("log", p)
    return s.call("maximum", value, -100.0)


def _cross_entropy_partials(p: Tensor, t: Tensor) -> list[Tensor]:
    scale = maximum(multiply(p, subtract(1.0, p)), 1e-12)
    low, high = (maximum(f(q), -100.0) for f, q in ((FUNCTIONS["log1p"], negative(p)), (log, p)))
    return [divide(subtract(p, t), scale), subtract(low, high)]


def _with_logits(x: s.Expr, t: s.Expr) -> s.Expr:
    away = s.call("log1p", s.call("exp", -s.call("abs", x)))
    return s.where(x > 0, x * (1.0 - t), -(x * t)) + away


BINARY_CROSS_ENTROPY = add_op(
    _Loss("binary_cross_entropy", _cross_entropy, _cross_entropy_partials)
)
WITH_LOGITS = add_op(
    _Loss(
        "binary_cross_entropy_with_logits",
        _with_logits,
        lambda x, t: [subtract(sigmoid(x), t), negative(x)],
    )
)


def _weighted(op: str, loss: Tensor, weight: object, reduction: str) -> Tensor:
    return reduced(op, loss if weight is None else multiply(loss, weight), reduction)


@public
def binary_cross_entropy(
    p: object, target: object, weight: object = None, reduction: str = "mean"
) -> Tensor:
    """-w (t log p + (1 - t) log(1 - p)) of probabilities p, reduced; logarithms are at least -100.

    Shapes: p and target of one shape, or a scalar target; the weight w broadcasts. Dtypes: real
    floats; integers become float32.
    Gradient: of p g w (p - t) / max(p (1 - p), 1e-12), of the target g w log((1 - p) / p) with the
    same bounds, each by n for the mean of n.
    Raises ShapeError for shapes that do not fit, GraphTypeError for another reduction.
    Source: BHG 13.2; THNN BCECriterion.
    """
    loss = apply(BINARY_CROSS_ENTROPY, *pair("binary_cross_entropy", p, target))
    return _weighted("binary_cross_entropy", loss, weight, reduction)


@public
def binary_cross_entropy_with_logits(
    x: object, target: object, weight: object = None, reduction: str = "mean"
) -> Tensor:
    """w (max(x, 0) - x t + log1p(e^-abs(x))), reduced: binary_cross_entropy of sigmoid(x).

    Accurate for any x.

    Shapes: x and target of one shape, or a scalar target; the weight w broadcasts. Dtypes: real
    floats; integers become float32.
    Gradient: (g w (sigmoid(x) - t), -g w x), each by n for the mean of n.
    Raises ShapeError for shapes that do not fit, GraphTypeError for another reduction.
    Source: BHG 13.1.
    """
    op = "binary_cross_entropy_with_logits"
    return _weighted(op, apply(WITH_LOGITS, *pair(op, x, target)), weight, reduction)


@public
def soft_margin_loss(x: object, target: object, reduction: str = "mean") -> Tensor:
    """log(1 + e^(-t x)) for targets t of -1 and 1, reduced.

    Shapes: two of one shape, or a scalar target. Dtypes: real floats; integers become float32.
    Gradient: (-g t sigmoid(-t x), -g x sigmoid(-t x)), each by n for the mean of n.
    Raises ShapeError for two shapes, GraphTypeError for another reduction.
    Source: THNN SoftMarginCriterion.
    """
    a, t = pair("soft_margin_loss", x, target)
    loss = softplus(negative(multiply(t, a)), threshold=None)
    return reduced("soft_margin_loss", loss, reduction)


mse = half_squared_error
sigmoid_cross_entropy = binary_cross_entropy_with_logits
