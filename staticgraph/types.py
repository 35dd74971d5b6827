"""What a tensor is: a dtype and a static shape. Also the facts about dtypes and their promotion."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from staticgraph.errors import GraphTypeError, ShapeError

SHORT = {
    "bool": "b1",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "float32": "f32",
    "float64": "f64",
    "complex64": "c64",
    "complex128": "c128",
}
LONG = {short: name for name, short in SHORT.items()}
DTYPES = tuple(SHORT)
DEFAULT_FLOAT = "float32"
ITEMSIZE = {name: np.dtype(name).itemsize for name in DTYPES}
_REAL_OF = {"complex64": "float32", "complex128": "float64"}
_COMPLEX_OF = {"float32": "complex64", "float64": "complex128"}


def is_bool(dtype: str) -> bool:
    return dtype == "bool"


def is_integer(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


def is_unsigned(dtype: str) -> bool:
    return dtype.startswith("uint")


def is_float(dtype: str) -> bool:
    return dtype.startswith("float")


def is_complex(dtype: str) -> bool:
    return dtype.startswith("complex")


def is_differentiable(dtype: str) -> bool:
    return is_float(dtype) or is_complex(dtype)


def real_of(dtype: str) -> str:
    return _REAL_OF.get(dtype, dtype)


def complex_of(dtype: str) -> str:
    return _COMPLEX_OF.get(dtype, dtype)


def as_dtype(dtype: object) -> str:
    """The canonical name of a dtype given as a string, NumPy dtype or Python type."""
    if isinstance(dtype, str) and dtype in SHORT:
        return dtype
    if isinstance(dtype, str) and dtype in LONG:
        return LONG[dtype]
    if dtype is float:
        return DEFAULT_FLOAT
    if dtype is None:  # NumPy would take it for float64
        raise GraphTypeError(f"a dtype is needed, got None; the dtypes are {', '.join(DTYPES)}")
    try:
        name = np.dtype(dtype).name  # type: ignore[arg-type]
    except TypeError:
        name = str(dtype)
    if name not in SHORT:
        raise GraphTypeError(f"dtype {name!r} is not supported; the dtypes are {', '.join(DTYPES)}")
    return name


def as_shape(shape: object) -> tuple[int, ...]:
    """A static shape from an int or a sequence of ints."""
    if isinstance(shape, (int, np.integer)):
        shape = (shape,)
    if isinstance(shape, (str, bytes, dict)) or not hasattr(shape, "__len__"):
        raise ShapeError(f"a shape is an int or a sequence of ints, got {shape!r}")
    items = tuple(shape)  # type: ignore[arg-type]
    for n in items:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
            raise ShapeError(f"a shape holds static ints, got {n!r} in {items!r}")
        if n < 0:
            raise ShapeError(f"a shape holds ints >= 0, got {tuple(items)!r}")
    return tuple(int(n) for n in items)


@dataclass(frozen=True, slots=True)
class TensorType:
    """dtype and static shape of a tensor; prints as f32[128, 784]."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements alone."""
        return self.size * ITEMSIZE[self.dtype]

    def __str__(self) -> str:
        return f"{SHORT[self.dtype]}[{', '.join(map(str, self.shape))}]"


def spec(shape: object, dtype: object = DEFAULT_FLOAT) -> TensorType:
    """The type of an argument, to compile ahead of time: `f.lower(sg.spec((128, 784), "float32"))`.

    Raises ShapeError for a shape that holds anything but ints >= 0, GraphTypeError for an unknown
    dtype.
    """
    return TensorType(as_dtype(dtype), as_shape(shape))


def promote(*dtypes: str) -> str:
    """The dtype in which operands of these dtypes meet.

    Within a kind as the array API standard says; an integer or bool that meets a float takes the
    float's dtype, so float32 stays float32 (PyTorch and JAX). int64 with uint64 has no common
    integer and is refused.
    """
    kinds = [d for d in dtypes if is_complex(d)] or [d for d in dtypes if is_float(d)]
    if kinds:
        wide = any(d in ("float64", "complex128") for d in dtypes)
        if any(is_complex(d) for d in dtypes):
            return "complex128" if wide else "complex64"
        return "float64" if wide else "float32"
    result = np.result_type(*dtypes).name
    if result not in SHORT or is_float(result):
        raise GraphTypeError(
            f"no integer dtype holds both {' and '.join(dtypes)}; cast one operand with .astype"
        )
    return result


def weak(dtype: str, value: bool | int | float | complex) -> str:
    """The dtype of a Python scalar that meets a `dtype` tensor: it never widens within a kind."""
    if isinstance(value, bool):
        return dtype
    if isinstance(value, int):
        return "int64" if is_bool(dtype) else dtype
    if isinstance(value, float):
        return dtype if is_differentiable(dtype) else DEFAULT_FLOAT
    return complex_of(dtype if is_differentiable(dtype) else DEFAULT_FLOAT)


def scalar_dtype(value: bool | int | float | complex) -> str:
    """The dtype of a Python scalar on its own."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64"
    return "complex64" if isinstance(value, complex) else DEFAULT_FLOAT


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The NumPy broadcast of the shapes, or None where there is none."""
    rank = max(map(len, shapes), default=0)
    out = []
    for i in range(rank):
        sizes = {s[i - rank + len(s)] for s in shapes if i - rank + len(s) >= 0} - {1}
        if len(sizes) > 1:
            return None
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)
