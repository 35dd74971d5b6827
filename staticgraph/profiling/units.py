"""Numbers as people read them: three significant digits and a unit."""

from __future__ import annotations


def digits(value: float) -> str:
    """At most three significant digits, never an exponent: 0.123, 1.23, 12.3, 1234."""
    size = abs(value)
    if size >= 99.95 or value == 0:
        return f"{value:.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.9995 else f"{value:.3f}"


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    for size, name in units:
        if abs(value) >= 0.9995 * size:
            return f"{digits(value / size)}{name}"
    size, name = units[-1]
    return f"{digits(value / size)}{name}"


def seconds(value: float) -> str:
    """'3.98ms', '12.0us'."""
    return _scaled(value, ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")))


def size(value: float) -> str:
    """Bytes in decimal units: '5.24MB'."""
    if abs(value) < 1000:
        return f"{value:.0f}B"
    return _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")))


def count(value: float) -> str:
    """A number of operations: '1.28M'."""
    if abs(value) < 1000:
        return f"{value:.0f}"
    return _scaled(value, ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")))


def rate(value: float, unit: str) -> str:
    """A rate in billions or millions per second: '11.1 GB/s'."""
    return _scaled(value, ((1e12, " T"), (1e9, " G"), (1e6, " M"))) + f"{unit}/s"


def some(number: int, what: str) -> str:
    """'1 kernel', '3 kernels'."""
    return f"{number} {what}{'s' * (number != 1)}"


def percent(fraction: float) -> str:
    """'39.2' for 0.392."""
    return f"{100 * fraction:.1f}"
