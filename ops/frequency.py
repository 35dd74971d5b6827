"""What goes with `fft`: the frequencies of its elements, and moving 0 to their middle."""

from __future__ import annotations

from collections.abc import Sequence

from staticgraph.errors import GraphTypeError
from staticgraph.operands import cast, normalize_axes, tensor_argument
from staticgraph.ops.create import iota
from staticgraph.ops.elementwise import less, multiply, subtract, where
from staticgraph.ops.fft import length_argument
from staticgraph.ops.pad import roll
from staticgraph.registry import public
from staticgraph.tensor import Tensor
from staticgraph.types import DEFAULT_FLOAT, as_dtype, is_float


def _frequencies(op: str, count: int, n: int, d: object, dtype: object) -> Tensor:
    dtype = DEFAULT_FLOAT if dtype is None else as_dtype(dtype)
    if not is_float(dtype):
        raise GraphTypeError(f"{op}: dtype must be a float, got {dtype}")
    k = iota((count,))
    if count == n:
        k = where(less(k, (n + 1) // 2), k, subtract(k, n))
    return multiply(cast(k, dtype), 1.0 / (n * float(d)))


@public
def fftfreq(n: int, d: float = 1.0, dtype: object = None) -> Tensor:
    """The frequency of each element of `fft`: 0, 1, ..., then -n//2, ..., -1, over n d.

    d: the step between samples; dtype: float32 by default.
    """
    n = length_argument("fftfreq", n)
    return _frequencies("fftfreq", n, n, d, dtype)


@public
def rfftfreq(n: int, d: float = 1.0, dtype: object = None) -> Tensor:
    """The frequency of each element of `rfft`: 0, 1, ..., n//2, over n d. See `fftfreq`."""
    n = length_argument("rfftfreq", n)
    return _frequencies("rfftfreq", n // 2 + 1, n, d, dtype)


def _rolled(op: str, x: object, axes: object, back: bool) -> Tensor:
    t = tensor_argument(op, x)
    found = normalize_axes(op, axes, t.ndim)
    steps = [t.shape[a] // 2 for a in found]
    return roll(t, [-k if back else k for k in steps], list(found)) if found else t


@public
def fftshift(x: object, axes: int | Sequence[int] | None = None) -> Tensor:
    """Move frequency 0 to the middle: roll by size // 2 along `axes` (all by default)."""
    return _rolled("fftshift", x, axes, False)


@public
def ifftshift(x: object, axes: int | Sequence[int] | None = None) -> Tensor:
    """Undo `fftshift`: roll by -(size // 2) along `axes` (all by default)."""
    return _rolled("ifftshift", x, axes, True)
