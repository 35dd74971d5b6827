"""What a row of the op tables is: a `Sample`, and the ways to draw its arrays."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from staticgraph.types import complex_of


@dataclass(frozen=True)
class Draw:
    """One operand: a function of a random generator. Floats take the dtype under test."""

    make: Callable[[np.random.Generator], np.ndarray]
    floating: bool = True


def normal(*shape: int) -> Draw:
    return Draw(lambda rng: rng.standard_normal(shape))


def between(low: float, high: float, *shape: int) -> Draw:
    return Draw(lambda rng: rng.uniform(low, high, shape))


def positive(*shape: int) -> Draw:
    return between(0.3, 3.0, *shape)


def off_zero(*shape: int) -> Draw:
    """Both signs, nothing near 0."""
    return Draw(lambda rng: rng.uniform(0.3, 3.0, shape) * rng.choice([-1.0, 1.0], shape))


def distinct(*shape: int) -> Draw:
    """Numbers that a small step leaves in their order and on their side of integers."""
    size = int(np.prod(shape))
    return Draw(lambda rng: (rng.permutation(size).reshape(shape) - size / 2) / 7 + 0.0313)


def ints(low: int, high: int, *shape: int, dtype: str = "int64") -> Draw:
    return Draw(lambda rng: rng.integers(low, high, shape).astype(dtype), floating=False)


def bools(*shape: int) -> Draw:
    return Draw(lambda rng: rng.random(shape) < 0.5, floating=False)


def fixed(values: object, dtype: str | None = None) -> Draw:
    """These values, in the dtype under test where none is given."""
    return Draw(lambda rng: np.array(values, dtype or np.float64), floating=dtype is None)


@dataclass(frozen=True)
class Sample:
    """One op, or function of ops, on operands of given kinds.

    `build` makes the tensor or tensors from tensors, `oracle` the arrays from arrays, floats in
    float64. Derivatives with respect to the floats are checked up to order `orders`. The oracle's
    dtype is the result's, but its float64 stands for the dtype under test unless `result` names
    another one.
    """

    name: str
    build: Callable
    draws: tuple[Draw, ...]
    oracle: Callable
    orders: int = 2
    label: str = ""
    result: str = ""

    @property
    def id(self) -> str:
        return f"{self.name}-{self.label}" if self.label else self.name

    @property
    def floats(self) -> list[int]:
        """Positions of the operands that have derivatives."""
        return [k for k, d in enumerate(self.draws) if d.floating]

    def arrays(self, dtype: str) -> list[np.ndarray]:
        """Operands that depend on the row alone."""
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        drawn = [(d, d.make(rng)) for d in self.draws]
        return [np.asarray(a, dtype) if d.floating else np.asarray(a) for d, a in drawn]

    def wanted(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The oracle's results for `arrays`, in float64."""
        wide = [a.astype("float64") if k in self.floats else a for k, a in enumerate(arrays)]
        with np.errstate(all="ignore"):
            found = self.oracle(*wide)
        return [np.asarray(a) for a in (found if isinstance(found, (tuple, list)) else [found])]

    def dtype_of(self, wanted: np.ndarray, dtype: str) -> str:
        """The dtype a result must have where the oracle gives `wanted`."""
        if self.result:
            return self.result
        if not self.floats or wanted.dtype.name not in ("float64", "complex128"):
            return wanted.dtype.name
        return dtype if wanted.dtype.kind == "f" else complex_of(dtype)


def row(name, build, draws, oracle, orders=2, label="", result="") -> Sample:
    draws = tuple(draws) if isinstance(draws, (list, tuple)) else (draws,)
    return Sample(name, build, draws, oracle, orders, label, result)
