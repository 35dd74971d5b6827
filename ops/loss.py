"""Losses: one number per element or per row, and `reduction` of 'mean', 'sum' or 'none'.

Integer labels are compared with the positions along the class axis, so that picking the labelled
class is part of the same pass over a row as the softmax; labels must be in range.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import FUNCTIONS, Tensor, apply
from staticgraph.op import (
    Elementwise,
    add_op,
    as_tensor,
    cast,
    constant,
    is_scalar,
    normalize_axis,
    promoted,
    public,
)
from staticgraph.ops.elementwise import (
    abs,
    add,
    divide,
    equal,
    exp,
    log,
    maximum,
    multiply,
    negative,
    not_equal,
    relu,
    sigmoid,
    sqrt,
    square,
    subtract,
    where,
)
from staticgraph.ops.index import checked_index
from staticgraph.ops.norm import below_max, log_softmax
from staticgraph.ops.reduce import mean, sum
from staticgraph.ops.shape import expand_dims, iota, sum_to
from staticgraph.types import is_complex, is_integer


def _pair(op: str, x: object, target: object) -> list[Tensor]:
    """Prediction and target of one real floating dtype and one shape; a scalar fits any shape."""
    a, b = promoted(op, [x, target], floating=True)
    if is_complex(a.type.dtype):
        raise GraphTypeError(f"{op}: needs real numbers, got {a.type}")
    if a.shape != b.shape and not (is_scalar(target) or b.shape == ()):
        raise ShapeError(f"{op}: prediction {a.type} and target {b.type} must have one shape")
    return [a, b]


def _number(op: str, name: str, value: object, *, positive: bool = True) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise GraphTypeError(f"{op}: {name} is a number, got {value!r}")
    if value < 0 or (positive and value == 0):
        raise ShapeError(f"{op}: {name} must be {'> 0' if positive else '>= 0'}, got {value!r}")
    return float(value)


def _reduced(op: str, loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return mean(loss)
    if reduction == "sum":
        return sum(loss)
    if reduction == "none":
        return loss
    raise GraphTypeError(f"{op}: reduction is 'mean', 'sum' or 'none', got {reduction!r}")


# ---------------------------------------------------------------------------- regression


@public
def squared_error(x1: object, x2: object) -> Tensor:
    """(x1 - x2)^2, broadcast. Catalogue 3.12."""
    return square(subtract(*promoted("squared_error", [x1, x2], floating=True)))


@public
def absolute_error(x1: object, x2: object) -> Tensor:
    """abs(x1 - x2), broadcast; the gradient at a tie is 0. Catalogue 3.12."""
    return abs(subtract(*promoted("absolute_error", [x1, x2], floating=True)))


@public
def mse_loss(x: object, target: object, reduction: str = "mean") -> Tensor:
    """Mean squared error. Catalogue 4."""
    return _reduced("mse_loss", squared_error(*_pair("mse_loss", x, target)), reduction)


@public
def l1_loss(x: object, target: object, reduction: str = "mean") -> Tensor:
    """Mean absolute error; the gradient at a tie is 0. Catalogue 4."""
    return _reduced("l1_loss", absolute_error(*_pair("l1_loss", x, target)), reduction)


@public
def half_squared_error(x: object, target: object) -> Tensor:
    """Half the squared Euclidean distance, a scalar. Catalogue 3.12."""
    return multiply(sum(squared_error(*_pair("half_squared_error", x, target))), 0.5)


@public
def euclidean_loss(x: object, target: object) -> Tensor:
    """Half the mean squared error, a scalar. Catalogue 3.12."""
    return multiply(mean(squared_error(*_pair("euclidean_loss", x, target))), 0.5)


def _huber(op: str, x: object, target: object, delta: float) -> Tensor:
    error = subtract(*_pair(op, x, target))
    size = abs(error)
    tail = multiply(subtract(size, 0.5 * delta), delta)
    return where(size < delta, multiply(square(error), 0.5), tail)


@public
def huber_loss(x: object, target: object, delta: float = 1.0, reduction: str = "mean") -> Tensor:
    """e^2 / 2 for errors below delta, else delta (abs(e) - delta / 2). Catalogue 3.12."""
    delta = _number("huber_loss", "delta", delta)
    return _reduced("huber_loss", _huber("huber_loss", x, target, delta), reduction)


@public
def smooth_l1_loss(x: object, target: object, beta: float = 1.0, reduction: str = "mean") -> Tensor:
    """e^2 / (2 beta) for errors below beta, else abs(e) - beta / 2. Catalogue 4."""
    beta = _number("smooth_l1_loss", "beta", beta)
    loss = divide(_huber("smooth_l1_loss", x, target, beta), beta)
    return _reduced("smooth_l1_loss", loss, reduction)


@public
def epsilon_insensitive_loss(
    x: object, target: object, epsilon: float, reduction: str = "mean"
) -> Tensor:
    """max(0, abs(x - target) - epsilon). Catalogue 3.12."""
    op = "epsilon_insensitive_loss"
    epsilon = _number(op, "epsilon", epsilon, positive=False)
    loss = relu(subtract(absolute_error(*_pair(op, x, target)), epsilon))
    return _reduced(op, loss, reduction)


@public
def l2_penalty(x: object, scale: float = 1.0) -> Tensor:
    """scale * sum(x^2): weight decay as a term of the loss. Catalogue 3.12."""
    (t,) = promoted("l2_penalty", [x], floating=True)
    return multiply(sum(square(t)), _number("l2_penalty", "scale", scale, positive=False))


@public
def total_variation(x: object, eps: float = 1e-12) -> Tensor:
    """Sum of sqrt(a^2 + b^2 + eps), a and b the differences along the last two axes.

    `eps` keeps the gradient finite where the image is flat. Catalogue 3.12.
    """
    (t,) = promoted("total_variation", [x], floating=True)
    if t.ndim < 2:
        raise ShapeError(f"total_variation: needs an image of two axes, got {t.type}")
    corner = t[..., :-1, :-1]
    across, down = subtract(t[..., :-1, 1:], corner), subtract(t[..., 1:, :-1], corner)
    eps = _number("total_variation", "eps", eps, positive=False)
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
    return _reduced(op, loss if weight is None else multiply(loss, weight), reduction)


@public
def binary_cross_entropy(
    p: object, target: object, weight: object = None, reduction: str = "mean"
) -> Tensor:
    """-(t log p + (1 - t) log(1 - p)) of probabilities p.

    As in PyTorch the logarithms are at least -100, and the gradient (p - t) / (p (1 - p)) has a
    denominator of at least 1e-12. Catalogue 3.12, 7.
    """
    loss = apply(BINARY_CROSS_ENTROPY, *_pair("binary_cross_entropy", p, target))
    return _weighted("binary_cross_entropy", loss, weight, reduction)


@public
def binary_cross_entropy_with_logits(
    x: object, target: object, weight: object = None, reduction: str = "mean"
) -> Tensor:
    """binary_cross_entropy of sigmoid(x), accurate for any x; gradient sigmoid(x) - t.

    Catalogue 3.12.
    """
    op = "binary_cross_entropy_with_logits"
    return _weighted(op, apply(WITH_LOGITS, *_pair(op, x, target)), weight, reduction)


# ---------------------------------------------------------------------------- several classes


def _is_labels(labels: object) -> bool:
    dtype = labels.type.dtype if isinstance(labels, Tensor) else np.asarray(labels).dtype.name
    return is_integer(dtype)


def _label_mask(op: str, labels: object, x: Tensor, axis: int) -> Tensor:
    """True at the labelled class of each row of x."""
    wanted = (*x.shape[:axis], *x.shape[axis + 1 :])
    n = x.shape[axis]
    t = checked_index(op, labels, n, f"the classes of {x.type}")
    if t.shape != wanted:
        raise ShapeError(
            f"{op}: integer labels for {x.type} with classes on axis {axis} must have shape"
            f" {wanted}, got {t.type}"
        )
    return equal(iota(x.shape, axis, t.dtype), expand_dims(t, axis))


def _picked(x: Tensor, mask: Tensor, axis: int) -> Tensor:
    """The element of each row where the mask is true."""
    return sum(where(mask, x, constant(0, x.type.dtype)), axis)


def _soft(op: str, x: Tensor, target: object) -> Tensor:
    t = promoted(op, [target], floating=True)[0]
    if t.shape != x.shape:
        raise ShapeError(f"{op}: soft targets must have the shape of {x.type}, got {t.type}")
    return cast(t, x.type.dtype)


def _real(op: str, x: object) -> Tensor:
    (t,) = promoted(op, [x], floating=True)
    if is_complex(t.type.dtype):
        raise GraphTypeError(f"{op}: needs real numbers, got {t.type}")
    return t


@public
def softmax_cross_entropy(logits: object, labels: object, axis: int = -1) -> Tensor:
    """-sum(t log_softmax(logits)) over `axis`, one number per row.

    `labels` are integers, one per row, or soft targets t of the shape of the logits. A label out
    of range raises NumericError when the function runs. Gradient: sum(t) softmax(x) - t; for soft
    targets also -log_softmax(x). Catalogue 3.12.
    """
    op = "softmax_cross_entropy"
    x = _real(op, logits)
    a = normalize_axis(op, axis, x.ndim)
    if not _is_labels(labels):
        return negative(sum(multiply(_soft(op, x, labels), log_softmax(x, a)), a))
    mask = _label_mask(op, labels, x, a)
    x = below_max(op, x, a)
    # log sum - x[label], not the label's log_softmax: its gradient needs no second sum over a row.
    return subtract(log(sum(exp(x), a)), _picked(x, mask, a))


@public
def cross_entropy(
    logits: object,
    labels: object,
    axis: int = -1,
    weight: object = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """softmax_cross_entropy with a reduction; `weight` and `ignore_index` as in nll_loss."""
    if weight is None and ignore_index is None:
        loss = softmax_cross_entropy(logits, labels, axis)
        return _reduced("cross_entropy", loss, reduction)
    if not _is_labels(labels):
        raise GraphTypeError("cross_entropy: weight and ignore_index need integer labels")
    return nll_loss(log_softmax(logits, axis), labels, axis, weight, ignore_index, reduction)


@public
def nll_loss(
    x: object,
    labels: object,
    axis: int = 1,
    weight: object = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-w[t] x[t] of log-probabilities x (N, C, ...) with classes on `axis` and integer labels.

    `weight` holds one number per class; labels equal to `ignore_index` count nothing. The mean
    divides by the sum of the weights that count. Catalogue 4.
    """
    op = "nll_loss"
    t = _real(op, x)
    a = normalize_axis(op, axis, t.ndim)
    if not _is_labels(labels):
        raise GraphTypeError(f"{op}: labels are integers; use softmax_cross_entropy for soft ones")
    kept = None
    if ignore_index is not None:
        labels = cast(as_tensor(labels), "int64")
        kept = not_equal(labels, ignore_index)
        labels = where(kept, labels, 0)
    mask = _label_mask(op, labels, t, a)
    loss, scale = negative(_picked(t, mask, a)), None
    if weight is not None:
        w = cast(promoted(op, [weight], floating=True)[0], t.type.dtype)
        if w.shape != (t.shape[a],):
            raise ShapeError(f"{op}: weight must have shape ({t.shape[a]},), got {w.type}")
        per_class = w.reshape(tuple(n if k == a else 1 for k, n in enumerate(t.shape)))
        scale = _picked(FUNCTIONS["broadcast_to"](per_class, t.shape), mask, a)
        loss = multiply(loss, scale)
    if kept is not None:
        zero = constant(0, t.type.dtype)
        loss = where(kept, loss, zero)
        scale = cast(kept, t.type.dtype) if scale is None else where(kept, scale, zero)
    if scale is None or reduction != "mean":
        return _reduced(op, loss, reduction)
    return divide(sum(loss), sum(scale))


@public
def categorical_cross_entropy(p: object, labels: object, axis: int = -1) -> Tensor:
    """-sum(t log p) of probabilities p over `axis`, one number per row.

    `labels` are integers, one per row, or soft targets t of the shape of p. Catalogue 3.12.
    """
    op = "categorical_cross_entropy"
    x = _real(op, p)
    a = normalize_axis(op, axis, x.ndim)
    if _is_labels(labels):
        return negative(log(_picked(x, _label_mask(op, labels, x, a), a)))
    return negative(sum(multiply(_soft(op, x, labels), log(x)), a))


@public
def kl_multinomial(p: object, q: object, base_axis: int = 1) -> Tensor:
    """sum(p log(p / q)) over the axes from `base_axis` on; a p of 0 counts 0.

    The arguments are probabilities in the order of the formula: PyTorch's kl_div takes
    (log q, p). Catalogue 3.12, 7.
    """
    a, b = _pair("kl_multinomial", p, q)
    first = normalize_axis("kl_multinomial", base_axis, a.ndim)
    zero = equal(a, 0)
    ratio = subtract(log(where(zero, constant(1, a.type.dtype), a)), log(b))
    terms = where(zero, constant(0, a.type.dtype), multiply(a, ratio))
    return sum(terms, tuple(range(first, a.ndim)))


@public
def multiclass_hinge_loss(
    scores: object, labels: object, margin: float = 1.0, axis: int = -1
) -> Tensor:
    """Sum over the classes j other than the label of max(0, s_j - s_label + margin), per row.

    Catalogue 3.12.
    """
    op = "multiclass_hinge_loss"
    x = _real(op, scores)
    a = normalize_axis(op, axis, x.ndim)
    mask = _label_mask(op, labels, x, a)
    own = expand_dims(_picked(x, mask, a), a)
    over = relu(add(subtract(x, own), _number(op, "margin", margin, positive=False)))
    return sum(where(mask, constant(0, x.type.dtype), over), a)


sigmoid_cross_entropy = binary_cross_entropy_with_logits
