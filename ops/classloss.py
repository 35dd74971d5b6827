"""Losses over classes: one number per row, and `reduction` of 'mean', 'sum' or 'none'.

Integer labels are compared with the positions along the class axis, so that picking the labelled
class is part of the same pass over a row as the softmax; labels must be in range.
"""

from __future__ import annotations

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.operands import as_tensor, cast, constant, normalize_axis, promoted
from staticgraph.ops.activation import relu
from staticgraph.ops.create import iota
from staticgraph.ops.declare import number
from staticgraph.ops.elementwise import (
    add,
    divide,
    equal,
    exp,
    less,
    log,
    logical_and,
    multiply,
    negative,
    not_equal,
    square,
    subtract,
    where,
)
from staticgraph.ops.index import checked_index
from staticgraph.ops.loss import pair, reduced
from staticgraph.ops.norm import below_max, log_softmax, real_floats
from staticgraph.ops.reduce import any, min, sum
from staticgraph.ops.shape import broadcast_to, expand_dims, reshape
from staticgraph.registry import public
from staticgraph.tensor import Tensor
from staticgraph.types import is_integer


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


def _per_class(op: str, weight: object, x: Tensor, axis: int) -> Tensor:
    """One number per class, in the shape of x."""
    w = cast(promoted(op, [weight], floating=True)[0], x.type.dtype)
    if w.shape != (x.shape[axis],):
        raise ShapeError(f"{op}: weight must have shape ({x.shape[axis]},), got {w.type}")
    spread = reshape(w, tuple(n if k == axis else 1 for k, n in enumerate(x.shape)))
    return broadcast_to(spread, x.shape)


# ---------------------------------------------------------------------------- cross entropy


@public
def softmax_cross_entropy(
    logits: object, labels: object, axis: int = -1, reduction: str = "none"
) -> Tensor:
    """-sum(t log_softmax(logits)) over `axis`, one number per row.

    `labels` are integers, one per row, or soft targets t.

    Shapes: integer labels have that of the logits without `axis`, soft targets that of the logits.
    Dtypes: real floats; integers become float32.
    Gradient: g (sum(t) softmax(x) - t); for soft targets also -g log_softmax(x).
    Raises ShapeError for shapes that do not fit and known labels out of range; others raise
    NumericError when the function runs.
    Source: BHG 13.3; BPR 5.2.
    """
    op = "softmax_cross_entropy"
    (x,) = real_floats(op, logits)
    a = normalize_axis(op, axis, x.ndim)
    if not _is_labels(labels):
        loss = negative(sum(multiply(_soft(op, x, labels), log_softmax(x, a)), a))
        return reduced(op, loss, reduction)
    mask = _label_mask(op, labels, x, a)
    x = below_max(op, x, a)
    # log sum - x[label], not the label's log_softmax: its gradient needs no second sum over a row.
    return reduced(op, subtract(log(sum(exp(x), a)), _picked(x, mask, a)), reduction)


@public
def cross_entropy(
    logits: object,
    labels: object,
    axis: int = -1,
    weight: object = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """softmax_cross_entropy, reduced; `weight` and `ignore_index` as in nll_loss.

    Of soft targets t, weights count as t weight, and the mean divides by the number of rows.

    Shapes: as softmax_cross_entropy, weight one number per class. Dtypes: real floats; integers
    become float32.
    Gradient: that of softmax_cross_entropy, by n for the mean of n.
    Raises as softmax_cross_entropy, and GraphTypeError for soft targets with `ignore_index`.
    Source: BHG 13.3; BPR 5.2; PyTorch.
    """
    if weight is None and ignore_index is None:
        return reduced("cross_entropy", softmax_cross_entropy(logits, labels, axis), reduction)
    if _is_labels(labels):
        return nll_loss(log_softmax(logits, axis), labels, axis, weight, ignore_index, reduction)
    op = "cross_entropy"
    if ignore_index is not None:
        raise GraphTypeError(f"{op}: ignore_index needs integer labels, got soft ones")
    (x,) = real_floats(op, logits)
    a = normalize_axis(op, axis, x.ndim)
    target = multiply(_soft(op, x, labels), _per_class(op, weight, x, a))
    return reduced(op, softmax_cross_entropy(x, target, a), reduction)


@public
def nll_loss(
    x: object,
    labels: object,
    axis: int = 1,
    weight: object = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-w[t] x[t] of log-probabilities x and integer labels t, reduced.

    Labels equal to `ignore_index` count nothing. The mean divides by the sum of the weights that
    count.

    Shapes: x (N, C, ...) with classes on `axis`, labels that shape without it, weight (C,).
    Dtypes: real floats; integers become float32.
    Gradient: -g w[t] at class t, 0 elsewhere; for the mean divided by the sum of weights.
    Raises ShapeError for shapes that do not fit and known labels out of range, GraphTypeError for
    labels that are no integers.
    Source: THNN ClassNLLCriterion, SpatialClassNLLCriterion.
    """
    op = "nll_loss"
    (t,) = real_floats(op, x)
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
        scale = _picked(_per_class(op, weight, t, a), mask, a)
        loss = multiply(loss, scale)
    if kept is not None:
        zero = constant(0, t.type.dtype)
        loss = where(kept, loss, zero)
        scale = cast(kept, t.type.dtype) if scale is None else where(kept, scale, zero)
    if scale is None or reduction != "mean":
        return reduced(op, loss, reduction)
    return divide(sum(loss), sum(scale))


@public
def categorical_cross_entropy(
    p: object, labels: object, axis: int = -1, reduction: str = "none"
) -> Tensor:
    """-sum(t log p) of probabilities p over `axis`, one number per row.

    `labels` are integers, one per row, or soft targets t.

    Shapes: integer labels have that of p without `axis`, soft targets that of p. Dtypes: real
    floats; integers become float32.
    Gradient: -g t / p; for soft targets also -g log p.
    Raises ShapeError for shapes that do not fit and known labels out of range; others raise
    NumericError when the function runs.
    Source: BHG 13.4.
    """
    op = "categorical_cross_entropy"
    (x,) = real_floats(op, p)
    a = normalize_axis(op, axis, x.ndim)
    if _is_labels(labels):
        loss = negative(log(_picked(x, _label_mask(op, labels, x, a), a)))
    else:
        loss = negative(sum(multiply(_soft(op, x, labels), log(x)), a))
    return reduced(op, loss, reduction)


@public
def kl_multinomial(p: object, q: object, base_axis: int = 1, reduction: str = "none") -> Tensor:
    """sum(p log(p / q)) over the axes from `base_axis` on; a p of 0 counts 0.

    The arguments are probabilities in the order of the formula: PyTorch's kl_div takes (log q, p).

    Shapes: two of one shape; the result has their axes before `base_axis`. Dtypes: real floats;
    integers become float32.
    Gradient: (g (log(p / q) + 1), -g p / q), both 0 where p is 0.
    Raises ShapeError for two shapes or an axis out of range, GraphTypeError for another reduction.
    Source: BHG 13.9.
    """
    op = "kl_multinomial"
    a, b = pair(op, p, q)
    first = normalize_axis(op, base_axis, a.ndim)
    zero = equal(a, 0)
    one = constant(1, a.type.dtype)
    ratio = subtract(log(where(zero, one, a)), log(where(zero, one, b)))
    terms = where(zero, constant(0, a.type.dtype), multiply(a, ratio))
    return reduced(op, sum(terms, tuple(range(first, a.ndim))), reduction)


# ---------------------------------------------------------------------------- margins


def _over_margin(x: Tensor, mask: Tensor, margin: float, axis: int) -> Tensor:
    """max(0, x_j - x_label + margin) for every class."""
    own = expand_dims(_picked(x, mask, axis), axis)
    return relu(add(subtract(x, own), margin))


@public
def multiclass_hinge_loss(
    scores: object, labels: object, margin: float = 1.0, axis: int = -1, reduction: str = "none"
) -> Tensor:
    """Sum over the classes j other than the label of max(0, s_j - s_label + margin), per row.

    Shapes: labels have that of the scores without `axis`, which holds the classes. Dtypes: real
    floats; integers become float32.
    Gradient: g for each class over the margin, minus their number for the label.
    Raises ShapeError for shapes that do not fit, a margin below 0 and known labels out of range.
    Source: CN 1.16.
    """
    op = "multiclass_hinge_loss"
    (x,) = real_floats(op, scores)
    a = normalize_axis(op, axis, x.ndim)
    mask = _label_mask(op, labels, x, a)
    over = _over_margin(x, mask, number(op, "margin", margin, positive=False), a)
    return reduced(op, sum(where(mask, constant(0, x.type.dtype), over), a), reduction)


@public
def multi_margin_loss(
    x: object,
    labels: object,
    p: int = 1,
    margin: float = 1.0,
    weight: object = None,
    axis: int = -1,
    reduction: str = "mean",
) -> Tensor:
    """Sum over the classes j other than the label of w max(0, margin - x_label + x_j)^p / C.

    w is the weight of the label's class.

    Shapes: labels have that of x without `axis`, which holds the C classes, weight (C,). Dtypes:
    real floats; integers become float32.
    Gradient: h = g w / C (p = 2: 2 z g w / C) for each class with z > 0 over the margin, minus
    their sum for the label, by n for the mean of n rows.
    Raises ShapeError for shapes that do not fit and known labels out of range, GraphTypeError for
    a p other than 1 and 2.
    Source: THNN MultiMarginCriterion.
    """
    op = "multi_margin_loss"
    if p not in (1, 2):
        raise GraphTypeError(f"{op}: p is 1 or 2, got {p!r}")
    (t,) = real_floats(op, x)
    a = normalize_axis(op, axis, t.ndim)
    mask = _label_mask(op, labels, t, a)
    over = _over_margin(t, mask, number(op, "margin", margin, positive=None), a)
    terms = where(mask, constant(0, t.type.dtype), square(over) if p == 2 else over)
    loss = divide(sum(terms, a), float(t.shape[a]))
    if weight is not None:
        loss = multiply(loss, _picked(_per_class(op, weight, t, a), mask, a))
    return reduced(op, loss, reduction)


@public
def multilabel_margin_loss(x: object, target: object, reduction: str = "mean") -> Tensor:
    """Sum over the row's labels j and all other classes i of max(0, 1 - x_j + x_i) / C.

    `target` lists the labels of each row and is ended by a negative number; a class that is listed
    twice counts twice, as in PyTorch.

    Shapes: x and target (..., C). Dtypes: real floats; integers become float32.
    Gradient: -g / C at j and g / C at i for every positive term, by n for the mean of n rows.
    Raises ShapeError for two shapes and known labels out of range, GraphTypeError for labels that
    are no integers; others out of range raise NumericError when the function runs.
    Source: THNN MultiLabelMarginCriterion.
    """
    op = "multilabel_margin_loss"
    (t,) = real_floats(op, x)
    listed = as_tensor(target)
    if not is_integer(listed.type.dtype):
        raise GraphTypeError(f"{op}: target lists integer labels, got {listed.type}")
    if t.ndim == 0 or listed.shape != t.shape:
        raise ShapeError(f"{op}: target must have the shape of x {t.type}, got {listed.type}")
    slots, counts, taken = _lists(op, target, listed, t)
    block = (*slots.shape, t.shape[-1])
    mask = equal(iota(block, -1, slots.type.dtype), expand_dims(slots, -1))
    across = broadcast_to(expand_dims(t, -2), block)
    over = _over_margin(across, mask, 1.0, -1)
    zero = constant(0, t.type.dtype)
    own = sum(where(expand_dims(taken, -2), zero, over), -1)
    loss = divide(sum(where(counts, own, zero), -1), float(t.shape[-1]))
    return reduced(op, loss, reduction)


def _lists(op: str, given: object, listed: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The places of each list, which of them come before its end, and which classes it has.

    Known lists are as long as the longest; all else about them is known as well.
    """
    what, classes = f"the classes of {x.type}", x.shape[-1]
    if not isinstance(given, Tensor):
        lists = np.asarray(given)
        slots = checked_index(op, np.maximum(lists, 0), classes, what)
        counts = np.logical_and.accumulate(lists >= 0, -1)
        taken = np.zeros(lists.shape, bool)
        taken[(*np.nonzero(counts)[:-1], lists[counts])] = True
        longest = max([1, *counts.sum(-1).flat]) if classes else 0
        return slots[..., :longest], constant(counts[..., :longest]), constant(taken)
    places = iota(listed.shape, -1)
    end = min(where(less(listed, 0), places, classes), -1, keepdims=True)
    slots = checked_index(op, where(less(listed, 0), 0, listed), classes, what)
    counts = less(places, end)
    own = equal(expand_dims(slots, -1), iota((*listed.shape, classes), -1, slots.type.dtype))
    return slots, counts, any(logical_and(own, expand_dims(counts, -1)), -2)
