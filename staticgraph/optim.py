"""Optimizers: functions from a loss and its parameters to the `updates` of a compiled step.

The formulas are PyTorch's, so that the numbers agree up to rounding. A
parameter's update is elementwise, hence one kernel, and where its gradient is a matrix product the
update is the end of that kernel. State lives in variables made here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from staticgraph import tree
from staticgraph.errors import GradientError, GraphTypeError, ShapeError
from staticgraph.frontend import variable
from staticgraph.gradient import grad
from staticgraph.ir import Variable
from staticgraph.operands import as_tensor, cast, is_scalar
from staticgraph.registry import FUNCTIONS
from staticgraph.tensor import Tensor
from staticgraph.types import is_differentiable, real_of

Updates = dict[Variable, Tensor]
Rate = float | Tensor


def sgd(
    loss: Tensor, params: Any, lr: Rate = 1e-2, *, weight_decay: float = 0.0, grads: Any = None
) -> Updates:
    """Stochastic gradient descent: p - lr (g + weight_decay p).

    `params` is a Variable or a nesting of them, `lr` a number or a tensor. `grads`, in the form of
    `params`, takes the place of sg.grad(loss, params): clipped ones, for example. Returns updates
    for sg.compile. This holds for all optimizers here.
    """
    found: Updates = {}
    for p, g in _pairs("sgd", loss, params, grads):
        found[p] = p - _rate("sgd", lr, p) * _decayed(g, p, weight_decay)
    return found


def momentum(
    loss: Tensor,
    params: Any,
    lr: Rate = 1e-2,
    momentum: float = 0.9,
    *,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    grads: Any = None,
) -> Updates:
    """SGD with momentum: m = momentum m + g, p - lr m; with `nesterov`, p - lr (g + momentum m)."""
    _within("momentum", "momentum", momentum)
    found: Updates = {}
    for p, g in _pairs("momentum", loss, params, grads):
        g = _decayed(g, p, weight_decay)
        m = _state("momentum_m", p)
        found[m] = step = m * momentum + g
        found[p] = p - _rate("momentum", lr, p) * (g + momentum * step if nesterov else step)
    return found


def adam(
    loss: Tensor,
    params: Any,
    lr: Rate = 1e-3,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    grads: Any = None,
) -> Updates:
    """Adam with bias correction; `weight_decay` is added to the gradient, as in PyTorch's Adam.

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g g, t = t + 1,
    p - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
    """
    return _adam(
        "adam",
        loss,
        params,
        lr,
        betas,
        eps,
        grads,
        lambda g, p, rate: (_decayed(g, p, weight_decay), p),
    )


def adamw(
    loss: Tensor,
    params: Any,
    lr: Rate = 1e-3,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    grads: Any = None,
) -> Updates:
    """Adam with decoupled weight decay: p shrinks by lr weight_decay p beside Adam's step."""
    return _adam(
        "adamw",
        loss,
        params,
        lr,
        betas,
        eps,
        grads,
        lambda g, p, rate: (g, p * (1.0 - rate * weight_decay)),
    )


def _adam(
    name: str,
    loss: Tensor,
    params: Any,
    lr: Rate,
    betas: tuple[float, float],
    eps: float,
    grads: Any,
    decay: Callable[[Tensor, Variable, Rate], tuple[Tensor, Tensor]],
) -> Updates:
    b1, b2 = betas
    _within(name, "betas[0]", b1)
    _within(name, "betas[1]", b2)
    sqrt = FUNCTIONS["sqrt"]
    count = variable(np.int64(0), name=f"{name}_step")
    found: Updates = {count: count + 1}
    for p, g in _pairs(name, loss, params, grads):
        rate = _rate(name, lr, p)
        t = cast(found[count], real_of(p.type.dtype))
        # Multiplied through by sqrt(1 - b2^t): one division per element instead of two.
        scale = sqrt(_correction(b2, t))
        size = rate * scale / _correction(b1, t)
        g, start = decay(g, p, rate)
        m, v = _state(f"{name}_m", p), _state(f"{name}_v", p)
        found[m] = first = m + (g - m) * (1.0 - b1)
        found[v] = second = v * b2 + (g * (1.0 - b2)) * FUNCTIONS["conj"](g)
        found[p] = start - (first * size) / (sqrt(second) + eps * scale)
    return found


def _correction(beta: float, t: Tensor) -> Tensor:
    """1 - beta^t without the cancellation, so that float32 keeps all its digits."""
    return -FUNCTIONS["expm1"](t * math.log(beta)) if beta else FUNCTIONS["ones_like"](t)


def _pairs(name: str, loss: Tensor, params: Any, grads: Any) -> list[tuple[Variable, Tensor]]:
    """Parameters with their gradients."""
    leaves, form = tree.flatten(params)
    for p in leaves:
        if not isinstance(p, Variable):
            given = f"a tensor ({p.type})" if isinstance(p, Tensor) else type(p).__name__
            raise GraphTypeError(f"{name}: params must be variables (sg.variable), got {given}")
        if not is_differentiable(p.type.dtype):
            raise GradientError(
                f"{name}: variable {p.name!r} is {p.type}, and only floats have derivatives"
            )
    if len(set(leaves)) != len(leaves):
        raise GraphTypeError(f"{name}: params hold a variable twice")
    if grads is None:
        return list(zip(leaves, grad(loss, leaves), strict=True))
    given, other = tree.flatten(grads)
    if other != form:
        raise GraphTypeError(f"{name}: grads must have the form of params")
    made = [as_tensor(g) for g in given]
    for p, g in zip(leaves, made, strict=True):
        if g.shape != p.shape:
            raise ShapeError(f"{name}: variable {p.name!r} is {p.type}, its gradient is {g.type}")
    return [(p, cast(g, p.type.dtype)) for p, g in zip(leaves, made, strict=True)]


def _state(kind: str, p: Variable) -> Variable:
    return variable(np.zeros(p.shape, p.dtype), name=f"{kind}_{p.name}")


def _rate(name: str, lr: Rate, p: Variable) -> Rate:
    """The learning rate for a parameter: a number, or a scalar in its dtype."""
    if is_scalar(lr):
        return float(lr)  # type: ignore[arg-type]
    t = as_tensor(lr)
    if t.size != 1:
        raise ShapeError(f"{name}: lr must be a number or a scalar tensor, got {t.type}")
    return cast(FUNCTIONS["reshape"](t, ()), real_of(p.type.dtype))


def _decayed(g: Tensor, p: Variable, weight_decay: float) -> Tensor:
    return g + p * weight_decay if weight_decay else g


def _within(name: str, what: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise GraphTypeError(f"{name}: {what} must be in [0, 1), got {value!r}")
