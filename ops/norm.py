"""Softmax and normalisations, as compositions: fusion makes each one region, any order derives.

Statistics stay nodes of the graph, so derivatives of every order run through them. Variances
divide by the count; only the running variance of batch_norm is the unbiased one, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.operands import (
    cast,
    constant,
    normalize_axes,
    normalize_axis,
    promoted,
    tensor_argument,
)
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
from staticgraph.ops.shape import broadcast_to, reshape
from staticgraph.registry import public
from staticgraph.tensor import Tensor
from staticgraph.types import is_complex, is_differentiable


def real_floats(op: str, *xs: object) -> list[Tensor]:
    """Operands of one real floating dtype; None stays out."""
    found = promoted(op, [x for x in xs if x is not None], floating=True)
    if is_complex(found[0].type.dtype):
        raise GraphTypeError(f"{op}: needs real numbers, got {found[0].type}")
    return found


def below_max(op: str, x: object, axis: object) -> Tensor:
    """x - max(x) along the axis: its exponential does not overflow, and is the same function."""
    (t,) = real_floats(op, x)
    over = normalize_axes(op, axis, t.ndim)
    if t.size == 0:
        return t
    return subtract(t, stop_gradient(max(t, over, keepdims=True)))


@public
def softmax(x: object, axis: int | tuple[int, ...] = -1) -> Tensor:
    """e^x / sum(e^x) along `axis`, without overflow.

    Shapes: that of x. Dtypes: real floats; integers become float32.
    Gradient: y (g - sum(g y)).
    Raises ShapeError for an axis that x has not, GraphTypeError for complex numbers.
    Source: BHG 4.6.
    """
    raised = exp(below_max("softmax", x, axis))
    return divide(raised, sum(raised, axis, keepdims=True))


@public
def log_softmax(x: object, axis: int | tuple[int, ...] = -1) -> Tensor:
    """log(softmax(x)) along `axis`, accurate where softmax is near 0 or 1.

    Shapes: that of x. Dtypes: real floats; integers become float32.
    Gradient: g - e^y sum(g).
    Raises ShapeError for an axis that x has not, GraphTypeError for complex numbers.
    Source: BHG 4.7.
    """
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


def _as_rows(
    op: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, over: tuple[int, ...]
) -> tuple[Tensor, Tensor | None, Tensor | None, tuple[int, ...]]:
    """x, weight, bias and axes; several last axes as one, so that sums over the rest run beside."""
    _check_shapes(op, x, weight, bias, over)
    first = x.ndim - len(over)
    if len(over) < 2 or over != tuple(range(first, x.ndim)):
        return x, weight, bias, over
    size = prod(x.shape[first:])
    flat = (None if p is None else reshape(p, (size,)) for p in (weight, bias))
    return reshape(x, (*x.shape[:first], size)), *flat, (first,)


def _check_shapes(
    op: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, axes: Sequence[int]
) -> None:
    wanted = tuple(x.shape[a] for a in axes)
    for role, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.shape != wanted:
            raise ShapeError(f"{op}: {role} must have shape {wanted} for x {x.type}, got {t.type}")


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None, axes: Sequence[int]) -> Tensor:
    """y * weight + bias, both of the shape of some axes of y."""
    spread = tuple(n if a in axes else 1 for a, n in enumerate(y.shape))
    if weight is not None:
        y = multiply(y, reshape(weight, spread))
    return y if bias is None else add(y, reshape(bias, spread))


def _with_parameters(
    op: str, x: object, weight: object, bias: object
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """x, weight and bias in one floating dtype."""
    found = iter(real_floats(op, x, weight, bias))
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

    `normalized_shape` names the last axes by their sizes instead, as PyTorch does.

    Shapes: that of x; weight and bias have that of the normalised axes. Dtypes: real floats;
    integers become float32.
    Gradient: w / sqrt(var + eps) (g - mean(g) - n mean(g n)) for the normalised n; the sums of g n
    and of g.
    Raises ShapeError for axes and shapes that do not fit, GraphTypeError for an eps not >= 0.
    Source: PyTorch; the family of BHG 5.1.
    """
    t, w, b = _with_parameters("layer_norm", x, weight, bias)
    over = _normalized_axes("layer_norm", t, axis, normalized_shape)
    rows, w, b, at = _as_rows("layer_norm", t, w, b, over)
    return reshape(_affine(_standardized("layer_norm", rows, at, eps), w, b, at), t.shape)


@public
def rms_norm(
    x: object,
    weight: object = None,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-6,
    *,
    normalized_shape: int | Sequence[int] | None = None,
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over `axis`, times weight.

    Shapes: that of x; weight has that of the normalised axes. Dtypes: real floats; integers become
    float32.
    Gradient: w / sqrt(mean(x^2) + eps) (g - n mean(g n)) for the normalised n; the sum of g n.
    Raises ShapeError for axes and shapes that do not fit, GraphTypeError for an eps not >= 0.
    Source: PyTorch; the family of BHG 5.1.
    """
    t, w, _ = _with_parameters("rms_norm", x, weight, None)
    over = _normalized_axes("rms_norm", t, axis, normalized_shape)
    rows, w, _, at = _as_rows("rms_norm", t, w, None, over)
    size = mean(square(rows), at, keepdims=True)
    y = multiply(rows, _inverse_root("rms_norm", size, eps))
    return reshape(_affine(y, w, None, at), t.shape)


def _channels(op: str, x: Tensor) -> None:
    if x.ndim < 2:
        raise ShapeError(f"{op}: needs x (N, C, ...), got {x.type}")


def _check_channels(op: str, role: str, p: Tensor | None, x: Tensor) -> None:
    if p is not None and p.shape != x.shape[1:2]:
        raise ShapeError(
            f"{op}: {role} must have shape {x.shape[1:2]} for x {x.type}, got {p.type}"
        )


@public
def group_norm(
    x: object, num_groups: int, weight: object = None, bias: object = None, eps: float = 1e-5
) -> Tensor:
    """layer_norm of each sample over groups of channels, times weight plus bias per channel.

    Shapes: x (N, C, ...), weight and bias (C,); the result has that of x. Dtypes: real floats;
    integers become float32.
    Gradient: that of layer_norm, per sample and group.
    Raises ShapeError where C does not divide into the groups or shapes do not fit, GraphTypeError
    for an eps not >= 0.
    Source: PyTorch; the family of BHG 5.1.
    """
    t, w, b = _with_parameters("group_norm", x, weight, bias)
    _channels("group_norm", t)
    channels = t.shape[1]
    if isinstance(num_groups, bool) or not isinstance(num_groups, (int, np.integer)):
        raise GraphTypeError(f"group_norm: num_groups is an int, got {num_groups!r}")
    if num_groups < 1 or channels % num_groups:
        raise ShapeError(f"group_norm: {channels} channels do not divide into {num_groups} groups")
    # One weight per sample and channel, in the shape of the groups: its derivative is summed within
    # the pass over the group, and the small rest over the samples.
    parts = (t.shape[0], int(num_groups), channels // int(num_groups), *t.shape[2:])
    for role, p in (("weight", w), ("bias", b)):
        _check_channels("group_norm", role, p, t)
    w, b = (None if p is None else broadcast_to(reshape(p, parts[1:3]), parts[:3]) for p in (w, b))
    y = _standardized("group_norm", reshape(t, parts), range(2, len(parts)), eps)
    return reshape(_affine(y, w, b, (0, 1, 2)), t.shape)


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
    """Each sample and channel normalised over its spatial axes (mean-variance normalisation).

    `across_channels` normalises all channels of a sample together; without `normalize_variance`
    only the mean is taken off.

    Shapes: x (N, C, spatial...), weight and bias (C,); the result has that of x. Dtypes: real
    floats; integers become float32.
    Gradient: that of layer_norm, per sample and channel.
    Raises ShapeError for shapes that do not fit, GraphTypeError for an eps not >= 0.
    Source: BPR 3.5.
    """
    t, w, b = _with_parameters("instance_norm", x, weight, bias)
    if t.ndim < 3:
        raise ShapeError(f"instance_norm: needs x (N, C, spatial...), got {t.type}")
    over = range(1 if across_channels else 2, t.ndim)
    if normalize_variance:
        y = _standardized("instance_norm", t, over, eps)
    else:
        y = subtract(t, mean(t, tuple(over), keepdims=True))
    # One weight per sample and channel: its derivative is a sum in the pass over the sample, and
    # a small one over the samples.
    for role, p in (("weight", w), ("bias", b)):
        _check_channels("instance_norm", role, p, t)
    w, b = (None if p is None else broadcast_to(p, t.shape[:2]) for p in (w, b))
    return _affine(y, w, b, (0, 1))


# ---------------------------------------------------------------------------- over the batch

Join = Callable[[Tensor], Tensor]


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
    (1 - momentum) running + momentum batch, for `updates`; the batch variance in them is the
    unbiased one, and no derivative runs through them. Without training the running statistics
    normalise.

    Shapes: weight, bias and running statistics (C,); the result has that of x. Dtypes: real
    floats; integers become float32.
    Gradient: w / sqrt(var + eps) (g - mean(g) - n mean(g n)) for the normalised n; the sums of g n
    and of g. Without training g w / sqrt(var + eps), and those of the running statistics.
    Raises ShapeError for shapes that do not fit, GraphTypeError for one running statistic alone.
    Source: BHG 5.1.
    """
    running = (running_mean, running_var)
    return _batch_norm("batch_norm", x, weight, bias, running, training, momentum, eps, axis, None)


@public
def sync_batch_norm(
    x: object,
    weight: object = None,
    bias: object = None,
    running_mean: object = None,
    running_var: object = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    axis: int = 1,
    *,
    join: Join | None = None,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """batch_norm over the parts of a batch that several processes hold.

    The statistics are made of three sums: the count, that of x, and that of the squared distances
    from the joint mean (a sum of x^2 loses its digits where the mean is large). `join` adds such a
    sum over the processes, and its derivative must do the same; without it there is one process,
    and the result is that of batch_norm.

    Shapes: as batch_norm. Dtypes: as batch_norm.
    Gradient: as batch_norm, with means over all processes.
    Raises as batch_norm, and GraphTypeError for a join that is no function.
    Source: BHG 5.2.
    """
    if join is not None and not callable(join):
        raise GraphTypeError(f"sync_batch_norm: join is a function of a tensor, got {join!r}")
    running = (running_mean, running_var)
    return _batch_norm(
        "sync_batch_norm", x, weight, bias, running, training, momentum, eps, axis, join
    )


def _batch_norm(
    op: str,
    x: object,
    weight: object,
    bias: object,
    running: tuple[object, object],
    training: bool,
    momentum: float,
    eps: float,
    axis: int,
    join: Join | None,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    t, w, b = _with_parameters(op, x, weight, bias)
    a = normalize_axis(op, axis, t.ndim)
    old = _running(op, running, t, a, training)
    _check_shapes(op, t, w, b, (a,))
    over = tuple(k for k in range(t.ndim) if k != a)
    spread = tuple(n if k == a else 1 for k, n in enumerate(t.shape))
    if not training:
        m, v = (reshape(cast(r, t.type.dtype), spread) for r in old)
        y = multiply(subtract(t, m), _inverse_root(op, v, eps))
        return _affine(y, w, b, (a,))
    count = prod(t.shape[k] for k in over)
    if old and count < 2 and join is None:
        raise ShapeError(f"{op}: running statistics need two values per channel, x is {t.type}")
    total = join or (lambda part: part)
    n = total(constant(count, t.type.dtype)) if join else float(count)
    m = divide(total(sum(t, over, keepdims=True)), n)
    centred = subtract(t, m)
    squares = total(sum(square(centred), over, keepdims=True))
    y = multiply(centred, _inverse_root(op, divide(squares, n), eps))
    y = _affine(y, w, b, (a,))
    if not old:
        return y
    batch = (m, divide(squares, subtract(n, 1.0) if join else n - 1.0))
    new = (_moved(r, s, float(momentum)) for r, s in zip(old, batch, strict=True))
    return y, *new  # type: ignore[return-value]


def _running(
    op: str, given: tuple[object, object], x: Tensor, axis: int, training: bool
) -> list[Tensor]:
    """The running statistics as tensors: two or none."""
    names = ("running_mean", "running_var")
    found = [
        tensor_argument(op, r, name) for r, name in zip(given, names, strict=True) if r is not None
    ]
    if len(found) == 1:
        raise GraphTypeError(f"{op}: give both running_mean and running_var, or neither")
    if not training and not found:
        raise GraphTypeError(f"{op}: training=False needs running_mean and running_var")
    for r in found:
        if r.shape != (x.shape[axis],) or not is_differentiable(r.type.dtype):
            raise ShapeError(
                f"{op}: running statistics are floats of shape ({x.shape[axis]},), got {r.type}"
            )
    return found


def _moved(old: Tensor, batch: Tensor, momentum: float) -> Tensor:
    """A running statistic, a step nearer to that of the batch."""
    now = reshape(cast(stop_gradient(batch), old.type.dtype), old.shape)
    return stop_gradient(add(multiply(old, 1.0 - momentum), multiply(now, momentum)))


mvn = instance_norm
