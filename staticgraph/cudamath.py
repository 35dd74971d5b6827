"""The functions that generated CUDA kernels call, one per dtype: exp_f32, floor_divide_i64, ...

On a device they are NVIDIA's libdevice, or device functions over it; under Numba's simulator
NumPy's functions stand for libdevice. Products of floats are rounded before anything is added to
them, so that what a kernel computes does not depend on what the compiler contracts.

Importing this file imports `numba.cuda`.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from numba import config, cuda

from staticgraph import cudacomplex
from staticgraph.primitives import PRIMS
from staticgraph.types import (
    ITEMSIZE,
    SHORT,
    is_complex,
    is_float,
    is_integer,
    is_unsigned,
    real_of,
)

SIMULATED = bool(config.ENABLE_CUDASIM)

#: rows of PRIMS that libdevice computes, with its names for them; those for float32 end in f
LIBRARY = {
    **{
        name: name
        for name in ("atan2", "hypot", "copysign", "sqrt", "cbrt", "erfinv", "erf", "erfc")
    },
    **{name: name for name in ("exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "tanh")},
    **{name: name for name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh")},
    **{name: name for name in ("asinh", "acosh", "atanh", "floor", "ceil", "trunc")},
    "power": "pow",
    "round": "rint",
    "ndtr": "normcdf",
    "abs": "fabs",
}

#: rows of PRIMS that kernels call by name for complex numbers
COMPLEX = (
    *("multiply", "divide", "power", "abs", "sign", "reciprocal", "sqrt", "rsqrt"),
    *("exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "isinf", "isfinite"),
    *("sin", "cos", "tan", "asin", "acos", "atan"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
)

if SIMULATED:

    def device(function: Callable) -> Callable:
        """The simulator runs device functions as they are."""
        return function

    def _numpy(name: str) -> Callable:
        function = PRIMS[name].numpy
        return lambda *args: function(*args)[()]

    def library(dtype: str) -> dict[str, Callable]:
        """What libdevice computes, by NumPy."""
        return {"fmod": np.fmod, "multiply": np.multiply} | {name: _numpy(name) for name in LIBRARY}

    def complex_functions(dtype: str) -> dict[str, Callable]:
        """Functions of complex numbers, by NumPy."""
        return {name: _numpy(name) for name in COMPLEX}

else:
    from numba.cuda import libdevice

    device = cuda.jit(device=True)

    def library(dtype: str) -> dict[str, Callable]:
        """The functions of libdevice for a dtype; its `mul_rn` is never fused with an addition."""
        end, letter = ("f", "f") if dtype == "float32" else ("", "d")
        names = {"fmod": "fmod", **LIBRARY}
        found = {ours: getattr(libdevice, theirs + end) for ours, theirs in names.items()}
        return found | {"multiply": getattr(libdevice, f"{letter}mul_rn")}

    def complex_functions(dtype: str) -> dict[str, Callable]:
        """Functions of complex numbers, over those of their parts."""
        part = real_of(dtype)
        numbers = getattr(numba, dtype), getattr(numba, part)
        return cudacomplex.functions(*numbers, library(part), device)


def _ordered() -> list[Callable]:
    """What all real numbers have. A NaN wins, as in NumPy."""

    def maximum(x, y):
        return x if (x > y or x != x) else y

    def minimum(x, y):
        return x if (x < y or x != x) else y

    return [maximum, minimum]


def _floats(T: Callable, own: dict[str, Callable]) -> list[Callable]:
    """Functions of floats over those of the library."""
    exp, log1p, fabs, sqrt = own["exp"], own["log1p"], own["abs"], own["sqrt"]
    floor, fmod, copysign, times = own["floor"], own["fmod"], own["copysign"], own["multiply"]

    def sign(x):
        if x > T(0):
            return T(1)
        if x < T(0):
            return T(-1)
        return T(0) if x == T(0) else x

    def signbit(x):
        return copysign(T(1), x) < T(0)

    def isfinite(x):
        return x - x == T(0)

    def isinf(x):
        return x == x and x - x != T(0)

    def reciprocal(x):
        return T(1) / x

    def rsqrt(x):
        return T(1) / sqrt(x)

    def remainder(x, y):
        rest = fmod(x, y)
        if rest == T(0):
            return copysign(T(0), y)
        return rest + y if (y < T(0)) != (rest < T(0)) else rest

    def floor_divide(x, y):
        if y == T(0):
            return x / y
        rest = fmod(x, y)
        quotient = (x - rest) / y
        if rest != T(0) and (y < T(0)) != (rest < T(0)):
            quotient = quotient - T(1)
        if quotient == T(0):
            return copysign(T(0), x / y)
        whole = floor(quotient)
        return whole + T(1) if quotient - whole > T(0.5) else whole

    def logaddexp(x, y):
        if x == y:
            return x + T(0.6931471805599453)
        high = x if x > y else y
        low = y if x > y else x
        return high + log1p(exp(low - high))

    def sigmoid(x):
        e = exp(-fabs(x))
        return (T(1) if x >= T(0) else e) / (T(1) + e)

    def softplus(x):
        return (T(0) if x < T(0) else x) + log1p(exp(-fabs(x)))

    def log_sigmoid(x):
        return -((T(0) if x > T(0) else -x) + log1p(exp(-fabs(x))))

    def npdf(x):
        return times(exp(times(times(T(-0.5), x), x)), T(0.3989422804014327))

    def gelu_tanh(x):
        inner = times(T(0.7978845608028654), x + times(T(0.044715), times(times(x, x), x)))
        # x sigmoid(2 inner): 1 + tanh(inner) would cancel where x is negative.
        e = exp(-fabs(inner + inner))
        return times(x, (T(1) if inner >= T(0) else e) / (T(1) + e))

    return [
        *(sign, signbit, isfinite, isinf, reciprocal, rsqrt, remainder, floor_divide),
        *(logaddexp, sigmoid, softplus, log_sigmoid, npdf, gelu_tanh),
    ]


def _integers(T: Callable, bits: int) -> list[Callable]:
    """What signed and unsigned integers share. Numba computes in 64 bits; T wraps."""

    def multiply(x, y):
        return T(x * y)

    def bitwise_invert(x):
        return T(~x)

    def left_shift(x, y):
        return T(x << y) if T(0) <= y and y < T(bits) else T(0)

    def isfinite(x):
        return True

    def isinf(x):
        return False

    def floor(x):
        return x

    def ceil(x):
        return x

    def trunc(x):
        return x

    def round(x):
        return x

    return [multiply, bitwise_invert, left_shift, isfinite, isinf, floor, ceil, trunc, round]


def _signed(T: Callable, bits: int) -> list[Callable]:
    def abs(x):
        return T(-x) if x < T(0) else x

    def sign(x):
        return T(1) if x > T(0) else T(-1) if x < T(0) else T(0)

    def signbit(x):
        return x < T(0)

    def right_shift(x, y):
        return T(x >> y) if T(0) <= y and y < T(bits) else T(x >> T(bits - 1))

    # Division by zero gives 0, and the smallest integer divided by -1 wraps: neither may trap.
    def floor_divide(x, y):
        if y == T(0):
            return T(0)
        return T(-x) if y == T(-1) else T(x // y)

    def remainder(x, y):
        return T(0) if y == T(0) or y == T(-1) else T(x % y)

    return [abs, sign, signbit, right_shift, floor_divide, remainder]


def _unsigned(T: Callable, bits: int) -> list[Callable]:
    def abs(x):
        return x

    def sign(x):
        return T(1) if x > T(0) else T(0)

    def signbit(x):
        return False

    def right_shift(x, y):
        return T(x >> y) if y < T(bits) else T(0)

    def floor_divide(x, y):
        return T(x // y) if y != T(0) else T(0)

    def remainder(x, y):
        return T(x % y) if y != T(0) else T(0)

    return [abs, sign, signbit, right_shift, floor_divide, remainder]


def _from_float(dtype: str) -> Callable:
    """A cast of a float to an integer dtype as x86 does it, which is what NumPy gives there.

    What does not fit is the smallest integer of 32 or 64 bits, cut to the dtype; the upper half of
    uint32 and uint64 is folded first.
    """
    T, bits = getattr(numba, dtype), 8 * ITEMSIZE[dtype]
    wide = 64 if bits == 64 else 32
    W, half, lowest = getattr(numba, f"int{wide}"), 2.0 ** (wide - 1), -(2 ** (wide - 1))

    def signed(x):
        y = numba.float64(x)
        return W(y) if y >= -half and y < half else W(lowest)

    signed = device(signed)

    def to(x):
        return T(signed(x))

    def to_folded(x):
        y = numba.float64(x)
        return T(W(signed(y - half)) ^ W(lowest)) if y >= half else T(signed(y))

    return device(to_folded if is_unsigned(dtype) and bits == wide else to)


def _invert(x):
    return not x


def _table() -> dict[str, Callable]:
    """Every function under its name and the code of its dtype."""
    found: dict[str, Callable] = {"bitwise_invert_b1": device(_invert)}
    for dtype, code in SHORT.items():
        T, bits = getattr(numba, dtype, None), 8 * ITEMSIZE[dtype]
        made: list[Callable] = []
        if is_complex(dtype):
            found |= {f"{name}_{code}": f for name, f in complex_functions(dtype).items()}
            continue
        if is_float(dtype):
            own = library(dtype)
            found |= {f"{name}_{code}": f for name, f in own.items()}
            made = _floats(T, own)
        elif is_integer(dtype):
            made = _integers(T, bits) + (_unsigned if is_unsigned(dtype) else _signed)(T, bits)
            found[f"to_{code}"] = _from_float(dtype)
        found |= {f"{f.__name__}_{code}": device(f) for f in (*_ordered(), *made)}
    return found


globals().update(_table())
