"""sum, max, mean and var of a 4096x4096 matrix over each axis and over all."""

from functools import partial

import numpy as np

from benchmarks import adapters
from benchmarks.harness import Call, Row

SHAPE = (4096, 4096)
KINDS = ("sum", "max", "mean", "var")
AXES = {"rows": 0, "columns": 1, "all": None}


def data(dtype):
    return {"x": np.random.default_rng(0).normal(size=SHAPE).astype(dtype)}


def staticgraph(arrays, kind, axis):
    import staticgraph as sg

    (x,) = inputs = adapters.placeholders(arrays)
    return adapters.ours(getattr(sg.ops, kind)(x, axis=axis), inputs, arrays)


def jax(arrays, kind, axis):
    import jax.numpy as jnp

    return adapters.jax_call(lambda x: getattr(jnp, kind)(x, axis=axis), arrays)


def torch(arrays, kind, axis, compiled=False):
    import torch

    dim = (0, 1) if axis is None else (axis,)
    function = {
        "sum": lambda x: torch.sum(x, dim),
        "max": lambda x: torch.amax(x, dim),
        "mean": lambda x: torch.mean(x, dim),
        "var": lambda x: torch.var(x, dim, correction=0),
    }[kind]
    return adapters.torch_inference(function, arrays, compiled)


def pytensor(arrays, kind, axis):
    (x,) = inputs = adapters.symbols(arrays)
    return adapters.pytensor_call(inputs, [getattr(x, kind)(axis=axis)], arrays)


def numpy(arrays, kind, axis):
    return Call(partial(getattr(np, kind), arrays["x"], axis=axis), adapters.flat)


def row(kind, over, dtype):
    options = {"kind": kind, "axis": AXES[over]}
    return Row(
        name=f"reduce-{kind}-{over}-{dtype.replace('float', 'f')}",
        title=f"{kind} over {'everything' if over == 'all' else f'axis {AXES[over]}'},"
        f" 4096x4096 {dtype}",
        dtype=dtype,
        data=partial(data, dtype),
        contenders={
            "staticgraph": partial(staticgraph, **options),
            "jax": partial(jax, **options),
            "torch": partial(torch, **options),
            "torch.compile": partial(torch, compiled=True, **options),
            "pytensor": partial(pytensor, **options),
            "numpy": partial(numpy, **options),
        },
        reach={"best": 1.0},
        # NumPy adds over axis 0 row by row: its own error is the largest here.
        tolerance=1e-3 if dtype == "float32" else 1e-10,
    )


ROWS = [row(k, over, dtype) for dtype in ("float32", "float64") for k in KINDS for over in AXES]
