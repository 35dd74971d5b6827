"""Functions of complex numbers for generated CUDA kernels, over those of floats and `cmath`.

Products of floats are rounded before anything is added to them, as in `cudamath`, which puts these
functions beside its own.
"""

from __future__ import annotations

import cmath
from collections.abc import Callable

#: what Numba compiles for a device under these names of `cmath`
_CMATH = (
    *("exp", "log", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh"),
    *("asin", "acos", "atan", "asinh", "acosh", "atanh"),
)


def functions(
    C: Callable, R: Callable, own: dict[str, Callable], device: Callable
) -> dict[str, Callable]:
    """Device functions by name for numbers C with parts R; `own` are those of the parts."""
    found = {name: _of_one(C, getattr(cmath, name), device) for name in _CMATH}
    found |= {f.__name__: device(f) for f in _arithmetic(C, R, own)}
    found |= {f.__name__: device(f) for f in _logarithms(C, R, own, found)}
    return found | {f.__name__: device(f) for f in _powers(C, R, found)}


def _of_one(C: Callable, function: Callable, device: Callable) -> Callable:
    def one(x):
        return C(function(x))

    return device(one)


def _arithmetic(C: Callable, R: Callable, own: dict[str, Callable]) -> list[Callable]:
    times, hypot, fabs = own["multiply"], own["hypot"], own["abs"]

    def multiply(x, y):
        real = times(x.real, y.real) - times(x.imag, y.imag)
        return C(complex(real, times(x.real, y.imag) + times(x.imag, y.real)))

    def divide(x, y):  # Smith: the larger part of y divides, so that nothing overflows too early
        if fabs(y.real) >= fabs(y.imag):
            if y.real == R(0) and y.imag == R(0):
                return C(complex(x.real / fabs(y.real), x.imag / fabs(y.real)))
            ratio = y.imag / y.real
            scale = R(1) / (y.real + times(y.imag, ratio))
            real = x.real + times(x.imag, ratio)
            imag = x.imag - times(x.real, ratio)
        else:
            ratio = y.real / y.imag
            scale = R(1) / (y.imag + times(y.real, ratio))
            real = times(x.real, ratio) + x.imag
            imag = times(x.imag, ratio) - x.real
        return C(complex(times(real, scale), times(imag, scale)))

    def abs(x):
        return hypot(x.real, x.imag)

    def isfinite(x):
        return x.real - x.real == R(0) and x.imag - x.imag == R(0)

    def isinf(x):
        real = x.real == x.real and x.real - x.real != R(0)
        return real or (x.imag == x.imag and x.imag - x.imag != R(0))

    return [multiply, divide, abs, isfinite, isinf]


def _logarithms(
    C: Callable, R: Callable, own: dict[str, Callable], found: dict[str, Callable]
) -> list[Callable]:
    """Logarithms and exponentials of other bases, and those that are exact near 0."""
    times, log, exp = own["multiply"], found["log"], found["exp"]
    real_expm1, real_log1p, real_exp = own["expm1"], own["log1p"], own["exp"]
    sin, cos, atan2 = own["sin"], own["cos"], own["atan2"]

    def exp2(x):
        factor = R(0.6931471805599453)
        return exp(C(complex(times(x.real, factor), times(x.imag, factor))))

    def log2(x):
        y, factor = log(x), R(1.4426950408889634)
        return C(complex(times(y.real, factor), times(y.imag, factor)))

    def log10(x):
        y, factor = log(x), R(0.4342944819032518)
        return C(complex(times(y.real, factor), times(y.imag, factor)))

    def expm1(x):
        half = sin(times(x.imag, R(0.5)))
        real = times(real_expm1(x.real), cos(x.imag)) - times(R(2), times(half, half))
        return C(complex(real, times(real_exp(x.real), sin(x.imag))))

    def log1p(x):
        size = times(x.real, R(2) + x.real) + times(x.imag, x.imag)
        return C(complex(times(R(0.5), real_log1p(size)), atan2(x.imag, R(1) + x.real)))

    return [exp2, log2, log10, expm1, log1p]


def _powers(C: Callable, R: Callable, found: dict[str, Callable]) -> list[Callable]:
    divide, multiply, size = found["divide"], found["multiply"], found["abs"]
    exp, log, root = found["exp"], found["log"], found["sqrt"]

    def reciprocal(x):
        return divide(C(1), x)

    def rsqrt(x):
        return divide(C(1), root(x))

    def sign(x):
        return divide(x, C(size(x))) if x != C(0) else C(0)

    def power(x, y):
        if y == C(0):
            return C(1)
        if x == C(0):
            return C(0)
        return exp(multiply(y, log(x)))

    return [reciprocal, rsqrt, sign, power]
