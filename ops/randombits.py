"""Keys and random bits: Threefry-2x32 with 20 rounds, as scalar expressions.

A key is a uint32[2] tensor. The bits of element i are the cipher of the counter i under the key, so
they fuse into whatever reads them, are computed again instead of kept, and are the same for every
number of threads and every target. Keys, `split`, `fold_in` and `bits` agree bit for bit with
`jax.random` (partitionable Threefry).
"""

from __future__ import annotations

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError
from staticgraph.ir import apply
from staticgraph.nest import Nest, axes
from staticgraph.op import NestOp
from staticgraph.operands import cast, constant, tensor_argument
from staticgraph.ops.elementwise import bitwise_or, multiply, right_shift
from staticgraph.ops.shape import linear_index
from staticgraph.registry import register
from staticgraph.tensor import Tensor
from staticgraph.types import TensorType, as_dtype, as_shape, is_float, is_integer

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
MANTISSA = {"float32": 24, "float64": 53}


def _rotate(x: s.Expr, left: int) -> s.Expr:
    return (x << left) | (x >> (32 - left))


def threefry(key: tuple[s.Expr, s.Expr], counter: tuple[s.Expr, s.Expr]) -> tuple[s.Expr, s.Expr]:
    """The two words of the cipher (Salmon et al., 2011), all words uint32."""
    words = (*key, key[0] ^ key[1] ^ s.const(0x1BD11BDA, "uint32"))
    x, y = counter[0] + words[0], counter[1] + words[1]
    for part in range(5):
        for turn in _ROTATIONS[part % 2]:
            x = x + y
            y = _rotate(y, turn) ^ x
        x = x + words[(part + 1) % 3]
        y = y + words[(part + 2) % 3] + (part + 1)
    return x, y


def _words(x: s.Expr) -> tuple[s.Expr, s.Expr]:
    """High and low half of an int64."""
    return s.cast(x >> 32, "uint32"), s.cast(x, "uint32")


def _key_words() -> tuple[s.Expr, s.Expr]:
    first, second = (s.load(0, (k,), "uint32") for k in (0, 1))
    return first, second


def _check_key(op: str, key: TensorType) -> None:
    if key != TensorType("uint32", (2,)):
        raise GraphTypeError(f"{op}: a key is a uint32[2] tensor, see sg.random.key; got {key}")


@register
class RandomBits(NestOp):
    """Independent uniform integers of 32 or 64 bits: element i is the cipher of i under the key."""

    name = "random_bits"

    def infer(self, key: TensorType, *, shape: tuple[int, ...], dtype: str) -> TensorType:
        _check_key(self.name, key)
        if dtype not in ("uint32", "uint64"):
            raise GraphTypeError(f"random_bits: dtype is uint32 or uint64, got {dtype}")
        return TensorType(dtype, tuple(shape))

    def nest(self, types, out, *, shape, dtype) -> Nest:
        place = linear_index(axes(out.ndim), out.shape)
        high, low = _words(place)
        if out.size <= 1 << 32:
            high = s.const(0, "uint32")
        x, y = threefry(_key_words(), (high, low))
        if dtype == "uint32":
            return Nest(out.shape, x ^ y)
        return Nest(out.shape, (s.cast(x, "uint64") << 32) | s.cast(y, "uint64"))

    def vjp(self, node, cotangents):
        return [None]

    def jvp(self, node, tangents):
        return [None]


@register
class RandomFold(NestOp):
    """A new key from a key and an int64 scalar."""

    name = "random_fold"

    def infer(self, key: TensorType, data: TensorType) -> TensorType:
        _check_key("fold_in", key)
        if data != TensorType("int64", ()):
            raise GraphTypeError(f"fold_in: needs an integer scalar, got {data}")
        return key

    def nest(self, types, out) -> Nest:
        x, y = threefry(_key_words(), _words(s.load(1, (), "int64")))
        return Nest(out.shape, s.where(s.call("equal", s.axis(0), 0), x, y))

    def vjp(self, node, cotangents):
        return [None, None]

    def jvp(self, node, tangents):
        return [None]


# ---------------------------------------------------------------------------- keys and bits


def key(seed: int) -> Tensor:
    """The key of an integer seed (modulo 2^64): a constant uint32[2] tensor.

    Raises GraphTypeError for a seed that is no int known while building.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise GraphTypeError(f"random.key: a seed is an int known while building, got {seed!r}")
    seed = int(seed)
    return constant(np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32))


def _key(op: str, key: object) -> Tensor:
    if isinstance(key, (int, np.integer)):
        raise GraphTypeError(f"{op}: key must be a key, got {key!r}; write sg.random.key({key!r})")
    t = tensor_argument(op, key, "key")
    _check_key(op, t.type)
    return t


def fold_in(key: object, data: object) -> Tensor:
    """A new key from a key and an integer, such as a step counter; `data` may be a tensor.

    Raises GraphTypeError for data that is no integer scalar, or what is no key.
    """
    t = tensor_argument("random.fold_in", data, "data")
    if not is_integer(t.type.dtype) or t.shape:
        raise GraphTypeError(f"random.fold_in: data is an integer scalar, got {t.type}")
    return apply(RandomFold, _key("random.fold_in", key), cast(t, "int64"))


def split(key: object, num: int = 2) -> tuple[Tensor, ...]:
    """`num` new independent keys.

    Raises GraphTypeError for a num that is no int >= 1, or what is no key.
    """
    if isinstance(num, bool) or not isinstance(num, (int, np.integer)) or num < 1:
        raise GraphTypeError(f"random.split: num is an int >= 1, got {num!r}")
    return tuple(fold_in(key, k) for k in range(num))


def random_bits(op: str, key: object, shape: object, dtype: str) -> Tensor:
    return apply(RandomBits, _key(op, key), shape=as_shape(shape), dtype=dtype)


def bits(key: object, shape: object = (), dtype: object = "uint32") -> Tensor:
    """Uniform random integers over all values of uint32 or uint64.

    Raises GraphTypeError for another dtype, or what is no key.
    """
    return random_bits("random.bits", key, shape, as_dtype(dtype))


def float_dtype(op: str, dtype: object) -> str:
    name = as_dtype(dtype)
    if not is_float(name):
        raise GraphTypeError(f"{op}: dtype is float32 or float64, got {name}")
    return name


def mantissa(op: str, key: object, shape: object, dtype: str) -> Tensor:
    """Uniform integers of as many bits as the significand of a float has."""
    if dtype == "float32":
        return cast(right_shift(random_bits(op, key, shape, "uint32"), 8), "int32")
    return cast(right_shift(random_bits(op, key, shape, "uint64"), 11), "int64")


def unit(op: str, key: object, shape: object, dtype: str) -> Tensor:
    """Uniform floats in [0, 1)."""
    return multiply(cast(mantissa(op, key, shape, dtype), dtype), 2.0 ** -MANTISSA[dtype])


def open_unit(op: str, key: object, shape: object, dtype: str) -> Tensor:
    """Uniform floats in (0, 1), odd multiples of 2^-24 (float64: 2^-53): both logarithms exist."""
    odd = bitwise_or(mantissa(op, key, shape, dtype), 1)
    return multiply(cast(odd, dtype), 2.0 ** -MANTISSA[dtype])
