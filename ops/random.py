"""Random numbers as pure functions of a key: Threefry-2x32 with 20 rounds, as scalar expressions.

A key is a uint32[2] tensor. The bits of element i are the cipher of the counter i under the key, so
they fuse into whatever reads them, are computed again instead of kept, and are the same for every
number of threads and every target. Keys, `split`, `fold_in` and `bits` agree bit for bit with
`jax.random` (partitionable Threefry). Published as `staticgraph.random`, all but `dropout`.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from staticgraph import scalar as s
from staticgraph.errors import GraphTypeError, ShapeError
from staticgraph.ir import Tensor, apply
from staticgraph.nest import Nest, axes
from staticgraph.op import NestOp, cast, constant, promoted, public, register, tensor_argument
from staticgraph.ops.elementwise import (
    add,
    bitwise_and,
    divide,
    erfinv,
    less,
    multiply,
    remainder,
    right_shift,
    subtract,
    where,
)
from staticgraph.ops.shape import broadcast_to, linear_index
from staticgraph.types import TensorType, as_dtype, as_shape, broadcast_shapes, is_float, is_integer

__all__ = ["bernoulli", "bits", "fold_in", "key", "normal", "randint", "split", "uniform"]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_MANTISSA = {"float32": 24, "float64": 53}


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
    """The key of an integer seed (modulo 2^64): a constant uint32[2] tensor."""
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
    """A new key from a key and an integer, such as a step counter; `data` may be a tensor."""
    t = tensor_argument("random.fold_in", data, "data")
    if not is_integer(t.type.dtype) or t.shape:
        raise GraphTypeError(f"random.fold_in: data is an integer scalar, got {t.type}")
    return apply(RandomFold, _key("random.fold_in", key), cast(t, "int64"))


def split(key: object, num: int = 2) -> tuple[Tensor, ...]:
    """`num` new independent keys."""
    if isinstance(num, bool) or not isinstance(num, (int, np.integer)) or num < 1:
        raise GraphTypeError(f"random.split: num is an int >= 1, got {num!r}")
    return tuple(fold_in(key, k) for k in range(num))


def _bits(op: str, key: object, shape: object, dtype: str) -> Tensor:
    return apply(RandomBits, _key(op, key), shape=as_shape(shape), dtype=dtype)


def bits(key: object, shape: object = (), dtype: object = "uint32") -> Tensor:
    """Uniform random integers over all values of uint32 or uint64."""
    return _bits("random.bits", key, shape, as_dtype(dtype))


def _float_dtype(op: str, dtype: object) -> str:
    name = as_dtype(dtype)
    if not is_float(name):
        raise GraphTypeError(f"{op}: dtype is float32 or float64, got {name}")
    return name


def _mantissa(op: str, key: object, shape: object, dtype: str) -> Tensor:
    """Uniform integers of as many bits as the significand of a float has."""
    if dtype == "float32":
        return cast(right_shift(_bits(op, key, shape, "uint32"), 8), "int32")
    return cast(right_shift(_bits(op, key, shape, "uint64"), 11), "int64")


def _unit(op: str, key: object, shape: object, dtype: str) -> Tensor:
    """Uniform floats in [0, 1)."""
    return multiply(cast(_mantissa(op, key, shape, dtype), dtype), 2.0 ** -_MANTISSA[dtype])


# ---------------------------------------------------------------------------- distributions


def uniform(
    key: object,
    shape: object = (),
    low: object = 0.0,
    high: object = 1.0,
    dtype: object = "float32",
) -> Tensor:
    """Uniform floats in [low, high); with 0 and 1 they are multiples of 2^-24 (float64: 2^-53)."""
    name = _float_dtype("random.uniform", dtype)
    unit = _unit("random.uniform", key, shape, name)
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        if not low < high:
            raise ShapeError(f"random.uniform: low must be below high, got {low!r} and {high!r}")
        if (low, high) == (0, 1):
            return unit
    low, high = (cast(t, name) for t in promoted("random.uniform", [low, high], floating=True))
    value = add(low, multiply(unit, subtract(high, low)))
    # Rounding may reach `high`; low itself is then as good a number.
    return where(less(value, high), value, low)


def normal(
    key: object,
    shape: object = (),
    mean: object = 0.0,
    std: object = 1.0,
    dtype: object = "float32",
) -> Tensor:
    """Normally distributed floats: sqrt(2) erfinv(u), symmetric, always finite.

    u is an odd multiple of 2^-24 (float64: 2^-53) between -1 and 1, so the extremes are +-5.4
    (float64: +-8.3) standard deviations.
    """
    name = _float_dtype("random.normal", dtype)
    width = _MANTISSA[name]
    whole = _mantissa("random.normal", key, shape, name)
    odd = add(multiply(whole, 2), 1 - (1 << width))  # exact: |odd| < 2^width
    value = multiply(erfinv(multiply(cast(odd, name), 2.0**-width)), sqrt(2.0))
    if not (isinstance(std, (int, float)) and std == 1):
        value = multiply(value, std)
    if not (isinstance(mean, (int, float)) and mean == 0):
        value = add(value, mean)
    return value


def bernoulli(key: object, p: object = 0.5, shape: object = None) -> Tensor:
    """True with probability p, which may be a tensor that broadcasts to `shape`."""
    return _bernoulli("random.bernoulli", key, p, shape)


def _bernoulli(op: str, key: object, p: object, shape: object) -> Tensor:
    (chance,) = promoted(op, [p], floating=True)
    sizes = chance.shape if shape is None else as_shape(shape)
    if broadcast_shapes(chance.shape, sizes) != sizes:
        raise ShapeError(f"{op}: p {chance.type} does not broadcast to {sizes}")
    return less(_unit(op, key, sizes, chance.type.dtype), chance)


def randint(key: object, shape: object, low: int, high: int, dtype: object = "int64") -> Tensor:
    """Uniform integers in [low, high); their bias is below 2^-32 for ranges up to 2^32."""
    name = as_dtype(dtype)
    if not is_integer(name):
        raise GraphTypeError(f"random.randint: dtype is an integer dtype, got {name}")
    info = np.iinfo(name)
    if not info.min <= low < high <= int(info.max) + 1:
        raise ShapeError(f"random.randint: needs low < high within {name}, got {low} and {high}")
    span = int(high) - int(low)
    raw = _bits("random.randint", key, shape, "uint64")
    if span <= 1 << 32:
        # floor(raw * span / 2^64) by halves: no carry is lost and no division is needed.
        lower = right_shift(multiply(bitwise_and(raw, 0xFFFFFFFF), span), 32)
        raw = right_shift(add(multiply(right_shift(raw, 32), span), lower), 32)
    elif span < 1 << 64:
        raw = remainder(raw, span)
    return add(cast(raw, name), int(low))


@public
def dropout(x: object, p: float = 0.5, *, key: object = None, training: bool = True) -> Tensor:
    """x with elements set to 0 with probability p, the others divided by 1 - p.

    x itself when not training, which needs no key. The mask is computed from the key wherever it is
    needed, also in gradients. Catalogue 3.11.
    """
    (t,) = promoted("dropout", [x], floating=True)
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise GraphTypeError(f"dropout: p is a number from 0 to 1, got {p!r}")
    if not training or p == 0:
        return t
    zero = constant(0, t.type.dtype)
    if p == 1:
        return broadcast_to(zero, t.shape)
    if key is None:
        raise GraphTypeError("dropout: training needs key=, a key such as sg.random.key(0)")
    drop = _bernoulli("dropout", key, float(p), t.shape)
    return where(drop, zero, divide(t, 1.0 - p))
