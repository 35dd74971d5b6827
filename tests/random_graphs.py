"""Random graphs of ops for differential tests: each is well typed and its numbers stay tame."""

from __future__ import annotations

import numpy as np

import staticgraph as sg

ops = sg.ops
UNARY = (
    "tanh",
    "exp",
    "sigmoid",
    "relu",
    "square",
    "negative",
    "abs",
    "sin",
    "gelu",
    "silu",
    "softplus",
)
BINARY = ("add", "subtract", "multiply", "maximum", "minimum", "divide")
REDUCE = ("sum", "mean", "max", "min")


class Builder:
    """Grows a graph node by node from a random source with `choice` and `integer`."""

    def __init__(self, rng: np.random.Generator, dtype: str = "float32"):
        self.rng = rng
        self.dtype = dtype
        self.pool: list[sg.Tensor] = []
        self.inputs: list[sg.Tensor] = []

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def pick(self, items):
        return items[self.integer(0, len(items) - 1)]

    def leaf(self) -> sg.Tensor:
        shape = tuple(self.pick((1, 2, 3, 5, 16, 17, 33)) for _ in range(self.integer(0, 3)))
        t = sg.input(f"x{len(self.inputs)}", shape, self.dtype)
        self.inputs.append(t)
        return t

    def tamed(self, t: sg.Tensor) -> sg.Tensor:
        """Bounded, so that long chains neither overflow nor vanish."""
        return ops.tanh(t)

    def partner(self, t: sg.Tensor) -> sg.Tensor:
        """A tensor that broadcasts with `t`."""
        fits = [u for u in self.pool if _broadcasts(u.shape, t.shape)]
        return self.pick(fits) if fits else t

    def grow(self) -> None:
        t = self.pick(self.pool)
        kind = self.integer(0, 11)
        if kind <= 2:
            made = getattr(ops, self.pick(UNARY))(t)
            made = self.tamed(made) if self.integer(0, 1) else made
        elif kind <= 5:
            u = self.partner(t)
            name = self.pick(BINARY)
            if name == "divide":
                u = ops.square(u) + 1.0
            made = getattr(ops, name)(t, u)
        elif kind <= 7 and t.ndim:
            axis = self.pick([None, *range(t.ndim), *([(0, t.ndim - 1)] if t.ndim > 1 else [])])
            made = getattr(ops, self.pick(REDUCE))(t, axis=axis, keepdims=bool(self.integer(0, 1)))
        elif kind == 8 and t.ndim > 1:
            made = ops.transpose(t, tuple(int(i) for i in self.rng.permutation(t.ndim)))
        elif kind == 9 and t.ndim:
            a = self.integer(0, t.ndim - 1)
            made = self.pick(
                (
                    lambda: ops.concat([t, ops.sin(t)], axis=a),
                    lambda: ops.flip(t, a),
                    lambda: ops.pad(t, 1),
                    lambda: t.reshape(-1),
                    lambda: ops.split(t, [t.shape[a] // 2], a)[1] if t.shape[a] > 1 else t,
                )
            )()
        elif kind == 10 and t.ndim == 2:
            made = self.tamed(t @ ops.transpose(t))
        else:
            u = self.partner(t)
            made = ops.where(t > u, t, u * 0.5)
        if made.size <= 20000:
            self.pool.append(made)

    def build(self, steps: int, outputs: int) -> tuple[list[sg.Tensor], list[sg.Tensor]]:
        self.pool = [self.leaf() for _ in range(self.integer(1, 3))]
        for _ in range(steps):
            self.grow()
        chosen = [self.pool[-1]] + [self.pick(self.pool) for _ in range(outputs - 1)]
        return self.inputs, list(dict.fromkeys(chosen))

    def arrays(self) -> list[np.ndarray]:
        return [np.asarray(self.rng.uniform(-2, 2, t.shape), self.dtype) for t in self.inputs]


def _broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        return False
    return True
