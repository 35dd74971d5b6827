"""layer_norm + gelu + sum over 4096 rows of 1024: value and gradient by input, scale and shift."""

from functools import partial

import numpy as np

from benchmarks import adapters
from benchmarks.harness import Row

SHAPE = (4096, 1024)
EPSILON = 1e-5


def data(dtype):
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=SHAPE).astype(dtype),
        "scale": rng.uniform(0.5, 1.5, SHAPE[1]).astype(dtype),
        "shift": rng.normal(size=SHAPE[1]).astype(dtype),
    }


def staticgraph(arrays, reuse=False):
    import staticgraph as sg

    x, scale, shift = inputs = adapters.placeholders(arrays)
    y = sg.ops.sum(sg.ops.gelu(sg.ops.layer_norm(x, scale, shift, eps=EPSILON)))
    return adapters.ours([y, sg.grad(y, inputs)], inputs, arrays, reuse)


def jax(arrays, call=adapters.jax_call):
    import jax
    import jax.numpy as jnp

    def function(x, scale, shift):
        mean = x.mean(-1, keepdims=True)
        spread = jax.lax.rsqrt(x.var(-1, keepdims=True) + EPSILON)
        return jnp.sum(jax.nn.gelu((x - mean) * spread * scale + shift, approximate=False))

    return call(jax.value_and_grad(function, (0, 1, 2)), arrays)


def torch(arrays, compiled=False):
    import torch.nn.functional as F

    def function(x, scale, shift):
        return F.gelu(F.layer_norm(x, SHAPE[1:], scale, shift, EPSILON)).sum()

    return adapters.torch_gradient(function, arrays, tuple(arrays), compiled)


def pytensor(arrays):
    import pytensor
    import pytensor.tensor as pt

    x, scale, shift = inputs = adapters.symbols(arrays)
    dtype = x.dtype
    centred = x - x.mean(-1, keepdims=True)
    variance = pt.mean(pt.sqr(centred), -1, keepdims=True)
    z = centred / pt.sqrt(variance + np.array(EPSILON, dtype)) * scale + shift
    half, root = np.array(0.5, dtype), np.array(np.sqrt(0.5), dtype)
    y = pt.sum(half * z * (1 + pt.erf(z * root)))
    return adapters.pytensor_call(inputs, [y, *pytensor.grad(y, inputs)], arrays)


ROWS = [
    Row(
        name=f"layer-norm-gelu-{dtype.replace('float', 'f')}",
        title=f"layer_norm + gelu + sum, value and gradient, 4096x1024 {dtype}",
        dtype=dtype,
        data=partial(data, dtype),
        contenders={
            "staticgraph": partial(staticgraph, reuse=True),
            "staticgraph fresh": staticgraph,
            "jax": jax,
            "jax donated": partial(jax, call=adapters.jax_donated),
            "torch": torch,
            "torch.compile": partial(torch, compiled=True),
            "pytensor": pytensor,
        },
        reach={"best": 5.0},
        tolerance=tolerance,
    )
    for dtype, tolerance in (("float32", 2e-4), ("float64", 1e-10))
]
