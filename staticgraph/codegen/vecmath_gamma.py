"""The logarithm of the gamma function and its derivative.

Positive arguments: rational functions below 8, an asymptotic series above. The rational functions
give the small distance to something simple (a multiple of the factor that vanishes, a line), so
that their rounding counts little. Negative arguments are reflected; there, and only there, a result
near zero has a small absolute error, not a relative one.
"""

from __future__ import annotations

from staticgraph.codegen.simd import V, select
from staticgraph.codegen.vecmath_core import INF, NAN, log, pieces, poly, ratio, table

_SPLIT = 3.0
_ASYMPTOTIC = 8.0


def _sine_of_pi(r: V) -> V:
    """sin(pi * r) for |r| <= 1/2."""
    angle = r * pieces("pi", r.code, 1)[0]
    z = angle * angle
    return (angle * z).fma(poly(z, table("SIN", r)), angle)


def lgamma(x: V) -> V:
    """log |gamma(x)|."""
    a = x.abs()
    # Below 1/2 the recurrence takes log|x| off; beyond -1/2 the reflection formula holds.
    near = a < 0.5
    reflected = (x < 0.0) & ~near
    y = select(near, x + 1.0, a)

    low = y < _SPLIT
    beyond = y - _SPLIT
    value = ratio(select(low, y, beyond), low, "LGAMMA_LOW", "LGAMMA_HIGH")
    zeros = (y - 1.0) * (y - 2.0)
    # + 0.0: the zeros at 1 and 2 are positive ones.
    near_zeros = zeros.fma(value, zeros * 0.5) + 0.0
    value = select(low, near_zeros, beyond.fma(1.5, 0.6875) + value)

    inverse = 1.0 / y
    series = inverse * poly(inverse * inverse, table("STIRLING", x))
    half_log_two_pi = 0.918938533204672741780329736406
    large = (y - 0.5) * (log(y) - 1.0) + (series + (half_log_two_pi - 0.5))
    value = select(y > _ASYMPTOTIC, large, value)
    value = select(y < INF, value, y)

    sine = _sine_of_pi(a - a.rint()).abs()
    log_pi = 1.144729885849400174143427351353
    taken_off = log(select(reflected, a * sine, select(near, a, 1.0)))
    value = select(reflected, log_pi - value, value) - taken_off
    pole = reflected & sine.eq(0.0)
    return select(a.eq(INF) | pole, INF, value)


def digamma(x: V) -> V:
    """The derivative of log gamma; nan at negative whole numbers, an infinity at zeros."""
    negative = x < 0.0
    y = select(negative, 1.0 - x, x)
    short = y < 1.0
    z = select(short, y + 1.0, y)

    low = z < _SPLIT
    value = ratio(z - select(low, z.const(1.0), _SPLIT), low, "DIGAMMA_LOW", "DIGAMMA_HIGH")
    root, root_low = pieces("digamma_root", x.code, 2)
    distance = (z - root) - root_low
    value = select(low, distance.fma(value, distance * 0.875), value + 1.5)

    inverse = 1.0 / z
    square = inverse * inverse
    large = log(z) - inverse.fma(0.5, square * poly(square, table("PSI", x)))
    value = select(z > _ASYMPTOTIC, large, value)
    value = value - select(short, 1.0 / y, 0.0)

    r = x - x.rint()
    sine, cosine = _sine_of_pi(r), _sine_of_pi(0.5 - r.abs())
    cotangent = select(r.eq(0.0), x.const(NAN), cosine / sine)
    reflection = cotangent * pieces("pi", x.code, 1)[0]
    return select(negative, value - reflection, value)
