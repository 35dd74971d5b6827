"""The functions that generated CUDA kernels call, one per dtype: exp_f32, floordiv_i64, ...

On a device they are NVIDIA's libdevice or device functions over it; under Numba's simulator the
libdevice ones are NumPy's. Products of floats are rounded before anything is added to them, so
that what is fused with what never shows in the bits.

Importing this file imports `numba.cuda`.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import config, cuda

from staticgraph.scalar import PRIMS
from staticgraph.types import SHORT, is_float, is_integer, is_unsigned

SIMULATED = bool(config.ENABLE_CUDASIM)

if SIMULATED:

    def device(function):
        """The simulator runs device functions as they are."""
        return function

    def library(name: str, dtype: str):
        """What libdevice computes, by NumPy."""
        numpy = PRIMS[name].numpy
        return lambda *args: numpy(*args)[()]

else:
    from numba.cuda import libdevice

    device = cuda.jit(device=True)

    #: our name: libdevice's, where they differ; the float32 functions end in f
    _LIBDEVICE = {
        "power": "pow", "multiply": "mul_rn", "round": "rint", "ndtr": "normcdf", "abs": "fabs",
    }  # fmt: skip

    def library(name: str, dtype: str):
        """The function of libdevice."""
        name = _LIBDEVICE.get(name, name)
        if name == "mul_rn":
            return libdevice.fmul_rn if dtype == "float32" else libdevice.dmul_rn
        return getattr(libdevice, name + "f" if dtype == "float32" else name)


#: rows of PRIMS that libdevice has under the same name or one of _LIBDEVICE
LIBRARY = (
    "power", "atan2", "hypot", "copysign", "sqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p", "log2",
    "log10", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
    "erf", "erfc", "erfinv", "ndtr", "floor", "ceil", "trunc", "round", "multiply",
)  # fmt: skip


def _ordered(define, T):
    """What all real numbers have, NaN included."""

    @define
    def maximum(x, y):
        return x if (x > y or x != x) else y

    @define
    def minimum(x, y):
        return x if (x < y or x != x) else y


def _signed(define, T):
    @define
    def sign(x):
        if x > T(0):
            return T(1)
        if x < T(0):
            return T(-1)
        return T(0) if x == T(0) else x

    @define
    def signbit(x):
        return x < T(0)


def _floats(define, T, exp, log1p, fmod, floor, copysign, fabs, sqrt, mul):
    @define
    def abs(x):
        return fabs(x)

    @define
    def reciprocal(x):
        return T(1) / x

    @define
    def rsqrt(x):
        return T(1) / sqrt(x)

    @define
    def signbit(x):
        return copysign(T(1), x) < T(0)

    @define
    def isfinite(x):
        return x - x == T(0)

    @define
    def isinf(x):
        return x == x and x - x != T(0)

    @define
    def remainder(x, y):
        rest = fmod(x, y)
        if rest == T(0):
            return copysign(T(0), y)
        return rest + y if (y < T(0)) != (rest < T(0)) else rest

    @define
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

    @define
    def logaddexp(x, y):
        if x == y:
            return x + T(0.6931471805599453)
        high = x if x > y else y
        low = y if x > y else x
        return high + log1p(exp(low - high))

    @define
    def sigmoid(x):
        e = exp(-fabs(x))
        return (T(1) if x >= T(0) else e) / (T(1) + e)

    @define
    def softplus(x):
        high = T(0) if x < T(0) else x
        return high + log1p(exp(-fabs(x)))

    @define
    def log_sigmoid(x):
        low = T(0) if x > T(0) else x
        return low - log1p(exp(-fabs(x)))

    @define
    def gelu_tanh(x):
        cube = mul(mul(x, x), x)
        inner = mul(T(0.7978845608028654), x + mul(T(0.044715), cube))
        # x sigmoid(2 inner): 1 + tanh would cancel for negative x.
        e = exp(-fabs(inner + inner))
        return mul(x, (T(1) if inner >= T(0) else e) / (T(1) + e))


def _integers(define, T, bits, minus_one):
    @define
    def multiply(x, y):
        return T(x * y)

    @define
    def bitwise_invert(x):
        return T(~x)

    @define
    def left_shift(x, y):
        return T(x << y) if T(0) <= y and y < T(bits) else T(0)

    @define
    def isfinite(x):
        return True

    @define
    def isinf(x):
        return False

    for name in ("floor", "ceil", "trunc", "round"):
        define(_same, name)
    if minus_one is None:
        define(_same, "abs")

        @define
        def right_shift(x, y):
            return T(x >> y) if y < T(bits) else T(0)

        @define
        def floor_divide(x, y):
            return T(x // y) if y != T(0) else T(0)

        @define
        def remainder(x, y):
            return T(x % y) if y != T(0) else T(0)

        return

    @define
    def abs(x):
        return T(-x) if x < T(0) else x

    @define
    def right_shift(x, y):
        return T(x >> y) if T(0) <= y and y < T(bits) else T(x >> T(bits - 1))

    # The smallest integer divided by -1 has no place in the dtype and wraps.
    @define
    def floor_divide(x, y):
        if y == T(0):
            return T(0)
        return T(-x) if y == minus_one else T(x // y)

    @define
    def remainder(x, y):
        return T(0) if y == T(0) or y == minus_one else T(x % y)


def _same(x):
    return x


def _from_float(dtype: str):
    """A cast of a float to an integer dtype as x86 does it, which is what NumPy gives there.

    What does not fit is the smallest integer of 32 or 64 bits, cut to the dtype; the upper half of
    uint32 and uint64 is folded first.
    """
    T = getattr(numba, dtype)
    bits = int("".join(filter(str.isdigit, dtype)))
    wide = 64 if bits == 64 else 32
    W, half = getattr(numba, f"int{wide}"), 2.0 ** (wide - 1)
    lowest = -(2 ** (wide - 1))
    folds = is_unsigned(dtype) and bits == wide

    def signed(x):
        y = numba.float64(x)
        return W(y) if y >= -half and y < half else W(lowest)

    signed = device(signed)

    def to_signed(x):
        return T(signed(x))

    def to_unsigned(x):
        y = numba.float64(x)
        return T(W(signed(y - half)) ^ W(lowest)) if y >= half else T(signed(y))

    return device(to_unsigned if folds else to_signed)


def _table() -> dict:
    """Every function under its name and dtype code."""
    found = {}
    for dtype, code in SHORT.items():
        if dtype == "bool":
            found["bitwise_invert_b1"] = device(lambda x: not x)
        if not (is_float(dtype) or is_integer(dtype)):
            continue
        T = getattr(numba, dtype)

        def define(function, name=None, code=code):
            made = device(function)
            found[f"{name or function.__name__}_{code}"] = made
            return made

        _ordered(define, T)
        if is_float(dtype):
            _signed(define, T)
            for name in LIBRARY:
                found[f"{name}_{code}"] = library(name, dtype)
            fmod = np.fmod if SIMULATED else library("fmod", dtype)
            own = {n: found[f"{n}_{code}"] for n in ("exp", "log1p", "floor", "copysign", "sqrt")}
            _floats(
                define,
                T,
                **own,
                fmod=fmod,
                fabs=library("abs", dtype),
                mul=found[f"multiply_{code}"],
            )
        else:
            if is_unsigned(dtype):
                define(_unsigned_sign(T), "sign")
                define(lambda x: False, "signbit")
            else:
                _signed(define, T)
            bits = int("".join(filter(str.isdigit, dtype)))
            _integers(define, T, bits, None if is_unsigned(dtype) else T(-1))
            found[f"to_{code}"] = _from_float(dtype)
    for name in ("maximum", "minimum"):
        _ordered(lambda f: found.setdefault(f"{f.__name__}_b1", device(f)), None)
    return found


def _unsigned_sign(T):
    return lambda x: T(1) if x > T(0) else T(0)


globals().update(_table())
