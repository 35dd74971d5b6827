"""`check_grad`: derivatives of every order against central differences, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from staticgraph import closure, tree
from staticgraph.errors import GradientError
from staticgraph.gradient import grad, jvp
from staticgraph.interpret import run
from staticgraph.ir import Graph
from staticgraph.operands import as_tensor, cast, constant
from staticgraph.registry import FUNCTIONS
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, is_complex, is_differentiable

#: entries that the search for the worst one looks at
SEARCHED = 2000


def check_grad(
    fn: Callable,
    args: Any,
    order: int = 2,
    *,
    directions: int = 3,
    step: float = 1e-4,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    seed: int = 0,
) -> None:
    """Compare the derivatives of `fn`, up to `order`, with central differences.

    `fn` takes tensors and returns a tensor, or a nesting of them, which is reduced to one number by
    random weights. `args` is a tuple of arrays or nestings; floats are taken to float64. The
    derivative of order n along n random directions must equal the difference of that of order n-1,
    by reverse sweeps and by forward sweeps. Raises GradientError that names the worst entry.
    """
    closure.needs_function("check_grad", fn)
    if order < 1:
        raise GradientError(f"check_grad: order must be at least 1, got {order}")
    rng = np.random.default_rng(seed)
    leaves, form = tree.flatten(args if isinstance(args, (tuple, list)) else (args,))
    arrays = [_wide(a) for a in leaves]
    inputs = [
        closure.placeholder(f"x{k}", TensorType(a.dtype.name, a.shape))
        for k, a in enumerate(arrays)
    ]
    moving = [k for k, a in enumerate(arrays) if is_differentiable(a.dtype.name)]
    if not moving:
        raise GradientError(
            "check_grad: no argument is a float, so there is nothing to differentiate"
        )
    xs = [inputs[k] for k in moving]
    points = [arrays[k] for k in moving]
    value = _scalar(fn(*tree.unflatten(form, inputs)), rng)
    at = _Point(inputs, arrays, moving, step)
    names = [_path(k, args, form) for k in moving]
    for n in range(1, order + 1):
        vs = [closure.placeholder(f"v{n}_{k}", x.type) for k, x in zip(moving, xs, strict=True)]
        slopes = grad(value, xs)
        reverse, forward = _along(slopes, vs), jvp(value, xs, vs)
        for _ in range(directions):
            drawn = [_normal(rng, p) for p in points]
            wanted = at.difference(value, drawn)
            for mode, t in (("reverse", reverse), ("forward", forward)):
                got = at.value(t, vs, drawn)
                if not _close(got, wanted, rtol, atol):
                    where = _worst(at, value, slopes, xs, vs, names, mode, rng)
                    raise GradientError(
                        f"check_grad: the {_ordinal(n)} derivative is wrong ({mode} sweep):"
                        f" {where}; along a random direction {got:.10g} instead of {wanted:.10g}"
                    )
        at.fix(vs, [_normal(rng, p) for p in points])
        value = reverse


class _Point:
    """Where functions are evaluated: values of all inputs, and of directions already chosen."""

    def __init__(
        self, inputs: list[Tensor], arrays: list[np.ndarray], moving: list[int], step: float
    ):
        self.inputs = list(inputs)
        self.arrays = list(arrays)
        self.moving = moving
        self.step = step

    def fix(self, more: Sequence[Tensor], values: Sequence[np.ndarray]) -> None:
        self.inputs += more
        self.arrays += values

    def value(
        self, t: Tensor, more: Sequence[Tensor] = (), values: Sequence[np.ndarray] = ()
    ) -> float:
        return float(run(Graph([*self.inputs, *more], [t]), [*self.arrays, *values])[0].real)

    def difference(self, t: Tensor, direction: Sequence[np.ndarray]) -> float:
        """Slope of `t` along a direction by the central difference of fourth order."""
        graph = Graph(self.inputs, [t])

        def moved(h: float) -> float:
            arrays = list(self.arrays)
            for k, v in zip(self.moving, direction, strict=True):
                arrays[k] = arrays[k] + h * v
            return float(run(graph, arrays)[0].real)

        h = self.step
        return (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)


def _worst(
    at: _Point,
    value: Tensor,
    slopes: Sequence[Tensor],
    xs: Sequence[Tensor],
    vs: Sequence[Tensor],
    names: Sequence[str],
    mode: str,
    rng: np.random.Generator,
) -> str:
    """The entry of an argument at which the derivative is furthest off, as text."""
    sizes = [x.size for x in xs]
    entries = [(k, i) for k, n in enumerate(sizes) for i in range(n)]
    if len(entries) > SEARCHED:
        entries = [entries[i] for i in sorted(rng.choice(len(entries), SEARCHED, replace=False))]
    tables = run(Graph(at.inputs, slopes), at.arrays) if mode == "reverse" else []
    pushed = None if mode == "reverse" else jvp(value, xs, vs)
    worst = (-1.0, "")
    for k, i in entries:
        unit = [np.zeros(x.shape, x.type.dtype) for x in xs]
        unit[k].flat[i] = 1
        got = float(tables[k].flat[i].real) if pushed is None else at.value(pushed, vs, unit)
        wanted = at.difference(value, unit)
        off = abs(got - wanted) / max(1.0, abs(wanted))
        if not off <= worst[0]:
            place = ", ".join(map(str, np.unravel_index(i, xs[k].shape)))
            entry = f"{names[k]}[{place}]" if place else names[k]
            text = f"worst at {entry}, {got:.10g} instead of {wanted:.10g}"
            worst = (np.inf if np.isnan(off) else off, text)
    return worst[1]


def _scalar(result: Any, rng: np.random.Generator) -> Tensor:
    """One real number of all that a function returns: its sum with random weights."""
    leaves, _ = tree.flatten(result)
    total: Tensor | None = None
    outputs = [t for t in map(as_tensor, leaves) if is_differentiable(t.type.dtype)]
    for t in outputs:
        if len(outputs) == 1 and t.size == 1 and not is_complex(t.type.dtype):
            return cast(FUNCTIONS["reshape"](t, ()), "float64")
        weights = constant(
            _normal(rng, np.zeros(t.shape, "complex128" if is_complex(t.type.dtype) else "float64"))
        )
        part = FUNCTIONS["sum"](FUNCTIONS["real"](FUNCTIONS["conj"](weights) * t))
        total = part if total is None else total + part
    if total is None:
        raise GradientError(
            "check_grad: the function returned no float, so there is nothing to differentiate"
        )
    return total


def _along(slopes: Sequence[Tensor], vs: Sequence[Tensor]) -> Tensor:
    """The slope along a direction: the real inner product with the gradient."""
    real, conj, sum_ = FUNCTIONS["real"], FUNCTIONS["conj"], FUNCTIONS["sum"]
    parts = [sum_(real(conj(g) * v)) for g, v in zip(slopes, vs, strict=True)]
    return FUNCTIONS["add_n"](parts)


def _normal(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    v = rng.standard_normal(like.shape)
    return v + 1j * rng.standard_normal(like.shape) if like.dtype.kind == "c" else v


def _wide(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise GradientError(
            f"check_grad: args must be arrays or numbers, got {type(value).__name__}"
        )
    return array.astype({"f": "float64", "c": "complex128"}.get(array.dtype.kind, array.dtype))


def _close(got: float, wanted: float, rtol: float, atol: float) -> bool:
    return bool(abs(got - wanted) <= atol + rtol * max(abs(got), abs(wanted)))


def _path(k: int, args: Any, form: Any) -> str:
    """'args[0]['w']': how a user reaches leaf k of the arguments."""
    if not isinstance(args, (tuple, list)):
        return "args"
    paths: list[str] = []

    def walk(f: Any, path: str) -> None:
        if f is None:
            return
        if isinstance(f, str):
            paths.append(path)
            return
        kind, parts = f
        for key, part in parts if kind is dict else enumerate(parts):
            walk(part, f"{path}[{key!r}]")

    walk(form, "args")
    return paths[k]


def _ordinal(n: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(n, f"{n}th")
