"""Softmax and normalisations, as compositions: fusion makes each one region, any order derives.

Statistics stay nodes of the graph, so derivatives of every order run through them. Variances
divide by the count; only the running variance of batch_norm is the unbiased one, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import FUNCTIONS, Tensor
from staticgraph.op import cast, normalize_axes, normalize_axis, promoted, public, tensor_argument
from staticgraph.ops.elementwise import (
    add,
    divide,
    exp,
    log,
    multiply,
    rsqrt,
    square,
    stop_gradient,
    subtract,
)
from staticgraph.ops.reduce import max, mean, sum
from staticgraph.ops.shape import reshape
from staticgraph.types import is_complex, is_differentiable


def _floats(op: str, *xs: object) -> list[Tensor]:
    """Operands of one real floating dtype; None stays out."""
    found = promoted(op, [x for x in xs if x is not None], floating=True)
    if is_complex(found[0].type.dtype):
        raise GraphTypeError(f"{op}: needs real numbers, got {found[0].type}")
    return found


def below_max(op: str, x: object, axis: object) -> Tensor:
    """x - max(x) along the axis: its exponential does not overflow, and is the same function."""
    (t,) = _floats(op, x)
    over = normalize_axes(op, axis, t.ndim)
    return subtract(t, stop_gradient(max(t, over, keepdims=True)))


@public
def softmax(x: object, axis: int | tuple[int, ...] = -1) -> Tensor:
    """e^x / sum(e^x) along `axis`, without overflow. Gradient: y (g - sum(g y)). Catalogue 3.3."""
    raised = exp(below_max("softmax", x, axis))
    return divide(raised, sum(raised, axis, keepdims=True))


@public
def log_softmax(x: object, axis: int | tuple[int, ...] = -1) -> Tensor:
    """log(softmax(x)) along `axis`, accurate where softmax is near 0 or 1. Catalogue 3.3."""
    t = below_max("log_softmax", x, axis)
    return subtract(t, log(sum(exp(t), axis, keepdims=True)))


def _standardized(op: str, x: Tensor, over: Sequence[int], eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over some axes."""
    centred = subtract(x, mean(x, tuple(over), keepdims=True))
    variance = mean(square(centred), tuple(over), keepdims=True)
    return multiply(centred, _inverse_root(op, variance, eps))


def _inverse_root(op: str, variance: Tensor, eps: object) -> Tensor:
    """1 / sqrt(variance + eps)."""
    if isinstance(eps, bool) or not isinstance(eps, (int, float, np.number)) or not eps >= 0:
        raise GraphTypeError(f"{op}: eps is a number >= 0, got {eps!r}")
    return rsqrt(add(variance, float(eps)))


def _affine(
    op: str, y: Tensor, weight: Tensor | None, bias: Tensor | None, axes: Sequence[int]
) -> Tensor:
    """y * weight + bias, both of the shape of some axes of y."""
    wanted = tuple(y.shape[a] for a in axes)
    spread = tuple(n if a in axes else 1 for a, n in enumerate(y.shape))
    for role, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.shape != wanted:
            raise ShapeError(f"{op}: {role} must have shape {wanted} for x {y.type}, got {t.type}")
    if weight is not None:
        y = multiply(y, reshape(weight, spread))
    return y if bias is None else add(y, reshape(bias, spread))


def _with_parameters(
    op: str, x: object, weight: object, bias: object
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """x, weight and bias in one floating dtype."""
    found = iter(_floats(op, x, weight, bias))
    first = next(found)
    return first, *(None if p is None else next(found) for p in (weight, bias))  # type: ignore[return-value]


def _normalized_axes(op: str, x: Tensor, axis: object, normalized_shape: object) -> tuple[int, ...]:
    if normalized_shape is None:
        return normalize_axes(op, axis, x.ndim)
    sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)  # type: ignore[arg-type]
    if not sizes or x.shape[x.ndim - len(sizes) :] != sizes:
        raise ShapeError(f"{op}: {x.type} does not end with normalized_shape {sizes}")
    return tuple(range(x.ndim - len(sizes), x.ndim))


@public
def layer_norm(
    x: object,
    weight: object = None,
    bias: object = None,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
    *,
    normalized_shape: int | Sequence[int] | None = None,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) over `axis`, times weight plus bias.

    `normalized_shape` names the last axes by their sizes instead, as PyTorch does; weight and bias
    have the shape of the normalised axes. Catalogue 3.4.
    """
    t, w, b = _with_parameters("layer_norm", x, weight, bias)
    over = _normalized_axes("layer_norm", t, axis, normalized_shape)
    return _affine("layer_norm", _standardized("layer_norm", t, over, eps), w, b, over)


@public
def rms_norm(
    x: object,
    weight: object = None,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-6,
    *,
    normalized_shape: int | Sequence[int] | None = None,
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over `axis`, times weight of the shape of those axes."""
    t, w, _ = _with_parameters("rms_norm", x, weight, None)
    over = _normalized_axes("rms_norm", t, axis, normalized_shape)
    size = mean(square(t), over, keepdims=True)
    y = multiply(t, _inverse_root("rms_norm", size, eps))
    return _affine("rms_norm", y, w, None, over)


def _channels(op: str, x: Tensor) -> None:
    if x.ndim < 2:
        raise ShapeError(f"{op}: needs x (N, C, ...), got {x.type}")


@public
def group_norm(
    x: object, num_groups: int, weight: object = None, bias: object = None, eps: float = 1e-5
) -> Tensor:
    """layer_norm of each sample over groups of channels: x (N, C, ...), weight and bias (C,)."""
    t, w, b = _with_parameters("group_norm", x, weight, bias)
    _channels("group_norm", t)
    channels = t.shape[1]
    if isinstance(num_groups, bool) or not isinstance(num_groups, (int, np.integer)):
        raise GraphTypeError(f"group_norm: num_groups is an int, got {num_groups!r}")
    if num_groups < 1 or channels % num_groups:
        raise ShapeError(f"group_norm: {channels} channels do not divide into {num_groups} groups")
    parts = (t.shape[0], int(num_groups), channels // int(num_groups), *t.shape[2:])
    y = _standardized("group_norm", reshape(t, parts), range(2, len(parts)), eps)
    return _affine("group_norm", reshape(y, t.shape), w, b, (1,))


@public
def instance_norm(
    x: object,
    weight: object = None,
    bias: object = None,
    eps: float = 1e-5,
    *,
    normalize_variance: bool = True,
    across_channels: bool = False,
) -> Tensor:
    """Each sample and channel of x (N, C, spatial...) normalised over its spatial axes.

    `across_channels` normalises all channels of a sample together; without `normalize_variance`
    only the mean is taken off (mean-variance normalisation). Catalogue 3.4.
    """
    t, w, b = _with_parameters("instance_norm", x, weight, bias)
    if t.ndim < 3:
        raise ShapeError(f"instance_norm: needs x (N, C, spatial...), got {t.type}")
    over = range(1 if across_channels else 2, t.ndim)
    if normalize_variance:
        y = _standardized("instance_norm", t, over, eps)
    else:
        y = subtract(t, mean(t, tuple(over), keepdims=True))
    return _affine("instance_norm", y, w, b, (1,))


@public
def batch_norm(
    x: object,
    weight: object = None,
    bias: object = None,
    running_mean: object = None,
    running_var: object = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    axis: int = 1,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Each channel (index on `axis`) normalised over all other axes, times weight plus bias.

    Training uses the statistics of x. Given running statistics, it also returns their new values
    (1 - momentum) * running + momentum * batch, for `updates`; the batch variance in them is the
    unbiased one, and no derivative runs through them. Without training the running statistics
    normalise. Catalogue 3.4.
    """
    op = "batch_norm"
    t, w, b = _with_parameters(op, x, weight, bias)
    a = normalize_axis(op, axis, t.ndim)
    if (running_mean is None) != (running_var is None):
        raise GraphTypeError(f"{op}: give both running_mean and running_var, or neither")
    if not training and running_mean is None:
        raise GraphTypeError(f"{op}: training=False needs running_mean and running_var")
    running = [
        tensor_argument(op, r, name)
        for r, name in ((running_mean, "running_mean"), (running_var, "running_var"))
        if r is not None
    ]
    for r in running:
        if r.shape != (t.shape[a],) or not is_differentiable(r.type.dtype):
            raise ShapeError(
                f"{op}: running statistics are floats of shape ({t.shape[a]},), got {r.type}"
            )
    over = tuple(k for k in range(t.ndim) if k != a)
    if not training:
        spread = tuple(n if k == a else 1 for k, n in enumerate(t.shape))
        m, v = (reshape(cast(r, t.type.dtype), spread) for r in running)
        y = multiply(subtract(t, m), _inverse_root(op, v, eps))
        return _affine(op, y, w, b, (a,))
    y = _affine(op, _standardized(op, t, over, eps), w, b, (a,))
    if not running:
        return y
    count = prod(t.shape[k] for k in over)
    if count < 2:
        raise ShapeError(f"{op}: running statistics need two values per channel, x is {t.type}")
    batch = mean(t, over), FUNCTIONS["var"](t, over, ddof=1)
    new = (
        add(
            multiply(r, 1.0 - momentum),
            multiply(cast(stop_gradient(s), r.type.dtype), float(momentum)),
        )
        for r, s in zip(running, batch, strict=True)
    )
    return y, *(stop_gradient(n) for n in new)  # type: ignore[return-value]
