"""Fourier transforms of one long row, many short ones and squares: values, and with the gradient.

Gradients take the cotangent as an operand, so that no row is about a sum.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks import adapters
from benchmarks.harness import Row

LONG, BATCH, SQUARE = (1 << 20,), (64, 1024), (512, 512)
REAL = {"complex64": "float32", "complex128": "float64"}


@dataclass(frozen=True)
class Case:
    """A function of `numpy.fft` on an array of a shape, real or complex."""

    title: str
    function: str
    shape: tuple
    real: bool = False


CASES = {
    "long": Case("fft, 2^20", "fft", LONG),
    "long-real": Case("rfft, 2^20", "rfft", LONG, real=True),
    "batch": Case("fft, 64 rows of 1024", "fft", BATCH),
    "batch-real": Case("rfft, 64 rows of 1024", "rfft", BATCH, real=True),
    "square": Case("fft2, 512 x 512", "fft2", SQUARE),
    "square-real": Case("rfft2, 512 x 512", "rfft2", SQUARE, real=True),
}


def normal(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    if dtype.startswith("float"):
        return rng.standard_normal(shape).astype(dtype)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)


def data(case, gradient, dtype):
    c = CASES[case]
    arrays = {"x": normal(c.shape, REAL[dtype] if c.real else dtype, 0)}
    if gradient:
        half = (*c.shape[:-1], c.shape[-1] // 2 + 1) if c.real else c.shape
        arrays["g"] = normal(half, dtype, 1)
    return arrays


def staticgraph(arrays, case, gradient):
    import staticgraph as sg

    inputs = adapters.placeholders(arrays)
    y = getattr(sg.ops, CASES[case].function)(inputs[0])
    outputs = [y, sg.grad(y, inputs[0], cotangent=inputs[1])] if gradient else y
    return adapters.ours(outputs, inputs, arrays, reuse=True)


def jax(arrays, case, gradient):
    import jax

    function = getattr(jax.numpy.fft, CASES[case].function)
    if not gradient:
        return adapters.jax_call(function, arrays)

    def both(x, g):
        # JAX transposes without conjugation.
        y, pullback = jax.vjp(function, x)
        return y, pullback(g.conj())[0].conj()

    return adapters.jax_call(both, arrays)


def torch(arrays, case, gradient):
    import torch

    function = getattr(torch.fft, CASES[case].function)
    if not gradient:
        return adapters.torch_inference(function, arrays)
    return adapters.torch_pullback(function, arrays, 1)


def row(case, gradient, dtype):
    options = {"case": case, "gradient": gradient}
    kind = "gradient" if gradient else "value"
    return Row(
        name=f"fft-{case}-{kind}-{dtype.replace('complex', 'c')}",
        title=f"{CASES[case].title}, {'value and gradient' if gradient else 'value'}, {dtype}",
        dtype=REAL[dtype],
        data=partial(data, dtype=dtype, **options),
        contenders={
            "staticgraph": partial(staticgraph, **options),
            "jax": partial(jax, **options),
            "torch": partial(torch, **options),
        },
        reach={"best": 1.0},
        tolerance=1e-5 if dtype == "complex64" else 1e-12,
    )


ROWS = [
    row(case, gradient, dtype)
    for dtype in ("complex64", "complex128")
    for case in CASES
    for gradient in (False, True)
]
