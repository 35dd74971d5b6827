"""Rows for Fourier transforms: results squared, so that there is a second derivative."""

from __future__ import annotations

import numpy as np
from sampling import bools, ints, normal, row

from staticgraph import ops


def squared(transform):
    """The parts of the square of a transform of x + i y."""

    def build(x, y):
        z = transform(ops.complex_(x, y))
        z = z * z
        return (ops.real(z), ops.imag(z)) if z.dtype.kind == "c" else z

    return build


def oracle(transform):
    def build(x, y):
        z = transform(x + 1j * y) ** 2
        return (z.real, z.imag) if z.dtype.kind == "c" else z

    return build


def pair(name, shape, label="", orders=2, **options):
    """A function of ops against that of numpy.fft, on complex numbers."""
    ours, numpy = getattr(ops, name), getattr(np.fft, name)
    return row(
        name,
        squared(lambda z: ours(z, **options)),
        [normal(*shape), normal(*shape)],
        oracle(lambda z: numpy(z, **options)),
        orders,
        label,
    )


def real(name, shape, label="", **options):
    """A function of ops against that of numpy.fft, on real numbers."""
    ours, numpy = getattr(ops, name), getattr(np.fft, name)

    def build(x):
        z = ours(x, **options)
        return ops.real(z * z), ops.imag(z)

    def wanted(x):
        z = numpy(x, **options)
        return (z * z).real, z.imag

    return row(name, build, normal(*shape), wanted, 2, label)


FFT = [
    pair("fft", (2, 8), orders=3),
    pair("fft", (3, 4), "padded", n=7, axis=0, norm="ortho"),
    pair("fft", (2, 9, 3), "cropped", n=5, axis=1, norm="forward"),
    pair("fft", (53,), "prime"),
    pair("fft", (0, 4), "empty"),
    real("fft", (2, 5), "real"),
    row("fft", ops.fft, ints(-9, 9, 6), lambda x: np.fft.fft(x).astype("complex64"), 0, "integers"),
    pair("ifft", (2, 6)),
    pair("ifft", (4, 3), "forward", axis=0, norm="forward"),
    real("rfft", (2, 8)),
    real("rfft", (5, 3), "odd", axis=0, norm="ortho"),
    real("rfft", (2, 4), "padded", n=6, norm="forward"),
    row("rfft", ops.rfft, bools(4), lambda x: np.fft.rfft(x).astype("complex64"), 0, "bools"),
    pair("irfft", (2, 5)),
    pair("irfft", (4, 3), "odd", n=7, axis=0, norm="ortho"),
    pair("irfft", (6,), "cropped", n=4, norm="forward"),
    row("irfft", lambda x: ops.irfft(x) ** 2, normal(2, 4), lambda x: np.fft.irfft(x) ** 2,
        label="real"),
    pair("hfft", (2, 4)),
    pair("hfft", (3,), "odd", n=5, norm="ortho"),
    real("ihfft", (2, 6)),
    real("ihfft", (5,), "odd", norm="forward"),
    pair("fft2", (2, 3, 4)),
    pair("fft2", (3, 4), "sized", s=(4, 2), axes=(1, 0), norm="ortho"),
    pair("ifft2", (2, 3, 4)),
    real("rfft2", (2, 3, 4)),
    pair("irfft2", (2, 3, 3)),
    pair("fftn", (2, 3, 2)),
    pair("fftn", (3, 2, 4), "sized", s=(4, -1), axes=(0, 2), norm="forward"),
    pair("ifftn", (2, 3, 2), axes=(0, 2)),
    real("rfftn", (2, 3, 4), norm="ortho"),
    pair("irfftn", (2, 3, 3), s=(2, 3, 5), axes=(0, 1, 2)),
    row("fftfreq", lambda x: x * ops.fftfreq(7, 0.3, x.dtype), normal(7),
        lambda x: x * np.fft.fftfreq(7, 0.3)),
    row("fftfreq", lambda x: x * ops.fftfreq(6, dtype=x.dtype), normal(6),
        lambda x: x * np.fft.fftfreq(6), label="even"),
    row("rfftfreq", lambda x: x * ops.rfftfreq(7, 2.0, x.dtype), normal(4),
        lambda x: x * np.fft.rfftfreq(7, 2.0)),
    row("fftshift", ops.fftshift, normal(3, 4), np.fft.fftshift),
    row("fftshift", lambda x: ops.fftshift(x, 1), ints(0, 99, 2, 5),
        lambda x: np.fft.fftshift(x, 1), label="axis"),
    row("ifftshift", ops.ifftshift, normal(3, 4), np.fft.ifftshift),
    row("ifftshift", lambda x: ops.ifftshift(x, (0, 2)), normal(3, 2, 5),
        lambda x: np.fft.ifftshift(x, (0, 2)), label="axes"),
]  # fmt: skip
