"""What users give an op, as its operands: tensors of one dtype, and axes in range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import CONSTANT, apply
from staticgraph.registry import OPS
from staticgraph.tensor import Tensor
from staticgraph.types import (
    DEFAULT_FLOAT,
    as_dtype,
    is_bool,
    is_complex,
    is_differentiable,
    is_integer,
    promote,
    scalar_dtype,
    weak,
)


def constant(value: object, dtype: object = None) -> Tensor:
    """A tensor whose numbers are known now; they are copied.

    Arrays keep their dtype and shape; Python floats, and lists of them, become float32, complex
    numbers complex64. `dtype` asks for another one.

    Gradient: none, it is zero.
    Raises GraphTypeError for what holds no numbers, and for numbers that `dtype` cannot hold.
    """
    array = numbers("constant", value, dtype)
    array.flags.writeable = False
    return apply(CONSTANT, value=array)


def numbers(op: str, value: object, dtype: object = None) -> np.ndarray:
    """What a user gives as numbers, in an array of our own; the message names the op."""
    if isinstance(value, Tensor):
        raise GraphTypeError(f"{op}: needs numbers, got a tensor ({value.type})")
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise GraphTypeError(
            f"{op}: cannot make an array of {type(value).__name__}: {error}"
        ) from None
    if array.dtype.kind not in "biufc":
        raise GraphTypeError(f"{op}: needs numbers, got an array of {array.dtype}")
    exact = isinstance(value, (np.ndarray, np.generic))
    target = as_dtype(dtype if dtype is not None else array.dtype)
    if dtype is None and not exact:
        target = {"float64": DEFAULT_FLOAT, "complex128": "complex64"}.get(target, target)
    fits = not is_complex(array.dtype.name) or is_complex(target)
    if is_integer(target) and array.size:
        fits = fits and bool(np.isfinite(array).all())
        if fits and not exact:  # arrays wrap around, as .astype() does
            fits = holds(target, int(array.min())) and holds(target, int(array.max()))
    if not fits:
        given = array.item() if array.ndim == 0 else f"an array of {array.dtype}"
        raise GraphTypeError(f"{op}: {target} cannot hold {given}")
    return np.array(array, dtype=target, order="C")


def as_tensor(x: object, dtype: str | None = None) -> Tensor:
    """A tensor as it is, anything else as a constant (of `dtype`, where one is given)."""
    if isinstance(x, Tensor):
        return x
    return constant(x.item() if dtype is not None and isinstance(x, np.generic) else x, dtype)


def is_scalar(x: object) -> bool:
    return isinstance(x, (bool, int, float, complex, np.generic))


def tensor_argument(op: str, x: object, name: str = "x") -> Tensor:
    """An operand that must be a tensor or an array; the message names the op."""
    if isinstance(x, (str, bytes, dict, set)) or x is None or callable(x):
        raise GraphTypeError(f"{op}: {name} must be a tensor or an array, got {type(x).__name__}")
    return as_tensor(x)


def common_dtype(op: str, xs: Sequence[object]) -> str:
    """Where operands meet: tensors and arrays promote, Python and NumPy scalars are weak."""
    strong = [as_tensor(x).type.dtype for x in xs if not is_scalar(x)]
    scalars = [x.item() if isinstance(x, np.generic) else x for x in xs if is_scalar(x)]
    if not strong:
        return promote(*(scalar_dtype(v) for v in scalars))
    try:
        dtype = promote(*strong)
    except GraphTypeError as error:
        raise GraphTypeError(f"{op}: {error.summary}") from None
    for v in scalars:
        dtype = weak(dtype, v)
    for v in scalars if is_integer(dtype) else ():
        if not holds(dtype, v):
            if op not in _COMPARISONS or dtype == "uint64" or not holds("int64", v):
                raise GraphTypeError(
                    f"{op}: {v} is out of range for {dtype}; cast the tensor with .astype"
                )
            dtype = "int64"  # in which the comparison is exact
    return dtype


_COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")


def holds(dtype: str, value: int) -> bool:
    """Whether an integer dtype has this number."""
    limits = np.iinfo(dtype)
    return limits.min <= value <= limits.max


def cast(x: object, dtype: str) -> Tensor:
    """A tensor in a dtype; no node where it has it already."""
    if not isinstance(x, Tensor):
        return as_tensor(x, dtype)
    return x if x.type.dtype == dtype else apply(OPS["cast"], x, dtype=dtype)


def promoted(op: str, xs: Sequence[object], *, floating: bool = False) -> list[Tensor]:
    """Operands of one dtype; with `floating`, integers become the default float first."""
    for i, x in enumerate(xs):
        if isinstance(x, (str, bytes, dict, set)) or x is None or callable(x):
            raise GraphTypeError(
                f"{op}: operand {i} must be a tensor, array or number, got {type(x).__name__}"
            )
    xs = [x if is_scalar(x) else as_tensor(x) for x in xs]
    dtype = common_dtype(op, xs)
    if floating and not is_differentiable(dtype):
        dtype = DEFAULT_FLOAT
    return [cast(x, dtype) for x in xs]


def normalize_axis(op: str, axis: object, ndim: int) -> int:
    """One axis as 0 <= axis < ndim."""
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise GraphTypeError(f"{op}: an axis is an int, got {axis!r}")
    if not -ndim <= axis < ndim:
        raise ShapeError(f"{op}: axis {axis} is out of range for {ndim} axes")
    return int(axis) % ndim


def normalize_axes(op: str, axis: object, ndim: int) -> tuple[int, ...]:
    """`axis` of a reduction: None is all, an int is one, a tuple is several different ones."""
    if axis is None:
        return tuple(range(ndim))
    items = axis if isinstance(axis, (tuple, list)) else (axis,)
    found = tuple(normalize_axis(op, a, ndim) for a in items)
    if len(set(found)) != len(found):
        raise ShapeError(f"{op}: axis {axis!r} names an axis twice")
    return tuple(sorted(found))


def as_bool(x: object) -> Tensor:
    """A bool tensor: numbers are true where they are not zero."""
    t = as_tensor(x)
    return t if is_bool(t.type.dtype) else apply(OPS["not_equal"], t, constant(0, t.type.dtype))
