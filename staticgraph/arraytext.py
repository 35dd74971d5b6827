"""Arrays as text, exact to the bit, and back: numbers where they are few, packed bytes else."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from staticgraph.types import TensorType, is_bool, is_complex, is_float

#: larger arrays are packed, unless all their elements have the same bits
INLINE = 16


def packed(array: np.ndarray) -> str:
    """All bits of an array on one line."""
    return f"zlib'{base64.b64encode(zlib.compress(_little(array), 1)).decode()}'"


def digest(array: np.ndarray) -> str:
    """A stand-in for an array: for reading and comparing, not for parsing."""
    return f"sha'{hashlib.sha256(_little(array)).hexdigest()[:32]}'"


def _little(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).tobytes()


def write(array: np.ndarray, pack: Callable[[np.ndarray], str]) -> str:
    """One number for a uniform array, nested lists for a small one, else `pack(array)`."""
    if array.size == 0:
        return "[]"
    flat = np.ascontiguousarray(array).reshape(-1)
    raw = flat.view(np.uint8).reshape(array.size, -1)
    if bool((raw == raw[0]).all()):
        return _number(flat[0]) or pack(array)
    if array.size > INLINE:
        return pack(array)
    numbers = [_number(x) for x in flat]
    return pack(array) if None in numbers else _nested(iter(numbers), array.shape)


def _nested(numbers: Iterator[str | None], shape: tuple[int, ...]) -> str:
    if not shape:
        return str(next(numbers))
    return f"[{', '.join(_nested(numbers, shape[1:]) for _ in range(shape[0]))}]"


def _number(x: np.generic) -> str | None:
    """The shortest text with the same bits; None where there is none (a nan with a payload)."""
    if isinstance(x, np.complexfloating):
        real, imag = _number(x.real), _number(x.imag)
        return f"complex({real}, {imag})" if real and imag else None
    if not isinstance(x, np.floating):
        return str(x.item())
    sign = "-" if np.isnan(x) and np.signbit(x) else ""
    # A reader goes through double, where the shortest text of a float32 may round twice.
    for text in (sign + str(x), repr(float(x))):
        if type(x)(float(text)).tobytes() == x.tobytes():
            return text
    return None


def read(value: object, type: TensorType) -> np.ndarray:
    """The array of nested lists, or of one number everywhere; raises ValueError."""
    if not isinstance(value, list):
        return np.full(type.shape, _typed(value, type.dtype), type.dtype)
    if type.size == 0:
        if value:
            raise ValueError("it has no elements, so its data is []")
        return np.empty(type.shape, type.dtype)
    flat: list[Any] = [value]
    for n in type.shape:
        if any(not isinstance(v, list) or len(v) != n for v in flat):
            raise ValueError("the nested lists have another shape")
        flat = [x for v in flat for x in v]
    array = np.empty(type.size, type.dtype)
    for i, v in enumerate(flat):
        array[i] = _typed(v, type.dtype)
    return array.reshape(type.shape)


def _typed(value: object, dtype: str) -> Any:
    """The value, if the dtype takes its kind of number."""
    kinds: tuple[Any, ...] = (int,)
    if is_bool(dtype):
        kinds = (bool,)
    elif is_float(dtype):
        kinds = (int, float)
    elif is_complex(dtype):
        kinds = (int, float, complex)
    if not isinstance(value, kinds) or isinstance(value, bool) != is_bool(dtype):
        raise ValueError(f"{value!r} is no {dtype}")
    return value


def unpack(body: str, type: TensorType) -> np.ndarray:
    """The array that `packed` wrote; raises ValueError for anything else."""
    try:
        decoder = zlib.decompressobj()
        # The limit keeps a small text from unfolding into more than the type it states.
        data = decoder.decompress(base64.b64decode(body, validate=True), type.nbytes + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"the packed data is damaged: {error}") from None
    if len(data) != type.nbytes or not decoder.eof:
        raise ValueError("the packed data has another size")
    if is_bool(type.dtype) and data.strip(b"\0\1"):
        raise ValueError("a bool is 0 or 1")
    little = np.frombuffer(data, np.dtype(type.dtype).newbyteorder("<"))
    return little.astype(type.dtype).reshape(type.shape)
