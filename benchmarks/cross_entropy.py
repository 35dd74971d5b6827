"""Softmax cross-entropy with integer labels, 4096x1000: mean loss and gradient by the logits."""

from functools import partial

import numpy as np

from benchmarks import adapters
from benchmarks.harness import Row

SHAPE = (4096, 1000)


def data(dtype):
    rng = np.random.default_rng(0)
    return {
        "logits": (3 * rng.normal(size=SHAPE)).astype(dtype),
        "label": rng.integers(0, SHAPE[1], SHAPE[0]),
    }


def staticgraph(arrays, reuse=False):
    import staticgraph as sg

    logits, label = inputs = adapters.placeholders(arrays)
    y = sg.ops.mean(sg.ops.softmax_cross_entropy(logits, label))
    return adapters.ours([y, sg.grad(y, logits)], inputs, arrays, reuse)


def jax(arrays, call=adapters.jax_call):
    import jax
    import jax.numpy as jnp

    def function(logits, label):
        picked = jnp.take_along_axis(logits, label[:, None], -1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - picked)

    return call(jax.value_and_grad(function), arrays)


def torch(arrays, compiled=False):
    import torch.nn.functional as F

    return adapters.torch_gradient(F.cross_entropy, arrays, ("logits",), compiled)


def pytensor(arrays):
    import pytensor
    import pytensor.tensor as pt

    logits, label = inputs = adapters.symbols(arrays)
    log_p = pt.special.log_softmax(logits, axis=-1)
    y = -pt.mean(log_p[pt.arange(SHAPE[0]), label])
    return adapters.pytensor_call(inputs, [y, pytensor.grad(y, logits)], arrays)


ROWS = [
    Row(
        name=f"cross-entropy-{dtype.replace('float', 'f')}",
        title=f"softmax cross-entropy, value and gradient, 4096x1000 {dtype}",
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
        reach={"best": 3.0},
        tolerance=tolerance,
    )
    for dtype, tolerance in (("float32", 1e-4), ("float64", 1e-10))
]
