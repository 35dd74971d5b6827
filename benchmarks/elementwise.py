"""A chain of elementwise operations, silu(a*b + c): memory-bound when long, dispatch when short."""

from functools import partial

import numpy as np

from benchmarks import adapters
from benchmarks.harness import Call, Row

LONG, SHORT = 16 << 20, 4 << 10


def data(size, dtype):
    rng = np.random.default_rng(0)
    return {name: rng.uniform(-2, 2, size).astype(dtype) for name in "abc"}


def staticgraph(arrays, reuse=False):
    import staticgraph as sg

    a, b, c = inputs = adapters.placeholders(arrays)
    return adapters.ours(sg.ops.silu(a * b + c), inputs, arrays, reuse)


def jax(arrays, call=adapters.jax_call):
    import jax.nn as nn

    return call(lambda a, b, c: nn.silu(a * b + c), arrays)


def torch(arrays):
    """In place after the first operation, into one buffer."""
    import torch
    import torch.nn.functional as F

    out = torch.empty_like(torch.from_numpy(arrays["a"]))

    def function(a, b, c):
        return F.silu(torch.addcmul(c, a, b, out=out), inplace=True)

    return adapters.torch_inference(function, arrays)


def torch_compile(arrays):
    import torch
    import torch.nn.functional as F

    out = torch.empty_like(torch.from_numpy(arrays["a"]))
    return adapters.torch_inference(
        lambda a, b, c: out.copy_(F.silu(a * b + c)), arrays, compiled=True
    )


def pytensor(arrays):
    import pytensor.tensor as pt

    a, b, c = inputs = adapters.symbols(arrays)
    z = a * b + c
    return adapters.pytensor_call(inputs, [z * pt.sigmoid(z)], arrays)


def numexpr(arrays):
    """The checked evaluate once, then `re_evaluate`, as its manual advises for loops."""
    import numexpr as ne

    out = np.empty_like(arrays["a"])
    text = "(a * b + c) / (1 + exp(-(a * b + c)))"
    ne.evaluate(text, local_dict=arrays, out=out)
    return Call(lambda: ne.re_evaluate(local_dict=arrays), adapters.flat)


PEERS = {
    "jax": jax,
    "jax donated": partial(jax, call=adapters.jax_donated),
    "torch": torch,
    "torch.compile": torch_compile,
    "pytensor": pytensor,
    "numexpr": numexpr,
}


def rows():
    for dtype in ("float32", "float64"):
        short = dtype.replace("float", "f")
        yield Row(
            name=f"elementwise-16M-{short}",
            title=f"silu(a*b + c), 16M {dtype}",
            dtype=dtype,
            data=partial(data, LONG, dtype),
            contenders={
                "staticgraph": partial(staticgraph, reuse=True),
                "staticgraph fresh": staticgraph,
                **PEERS,
            },
            reach={"best": 2.0},
        )
        yield Row(
            name=f"elementwise-4K-{short}",
            title=f"silu(a*b + c), 4K {dtype}: dispatch",
            dtype=dtype,
            data=partial(data, SHORT, dtype),
            contenders={"staticgraph": staticgraph, **PEERS},
            reach={"jax": 1.5},
            limit=5e-6,
        )


ROWS = list(rows())
