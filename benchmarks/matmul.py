"""Matrix products: a thin one, a half-square one, a square one, a batch of small ones."""

from functools import partial

import numpy as np

from benchmarks import adapters
from benchmarks.harness import Call, Row

SHAPES = {
    "64x784x512": ((64, 784), (784, 512)),
    "256x1024x1024": ((256, 1024), (1024, 1024)),
    "1024x1024x1024": ((1024, 1024), (1024, 1024)),
    "64x128x128x128": ((64, 128, 128), (64, 128, 128)),
}


def data(shapes, dtype):
    rng = np.random.default_rng(0)
    left, right = shapes
    return {"a": rng.normal(size=left).astype(dtype), "b": rng.normal(size=right).astype(dtype)}


def product_shape(arrays):
    return (*arrays["a"].shape[:-1], arrays["b"].shape[-1])


def staticgraph(arrays):
    a, b = inputs = adapters.placeholders(arrays)
    return adapters.ours(a @ b, inputs, arrays, reuse=True)


def jax(arrays, call=adapters.jax_call):
    return call(lambda a, b: a @ b, arrays)


def torch(arrays):
    import torch

    values = adapters.tensors(arrays)
    out = torch.empty(product_shape(arrays), dtype=values[0].dtype)
    return adapters.torch_inference(partial(torch.matmul, out=out), arrays)


def pytensor(arrays):
    a, b = inputs = adapters.symbols(arrays)
    return adapters.pytensor_call(inputs, [a @ b], arrays)


def numpy(arrays):
    out = np.empty(product_shape(arrays), arrays["a"].dtype)
    return Call(partial(np.matmul, arrays["a"], arrays["b"], out=out), adapters.flat)


ROWS = [
    Row(
        name=f"matmul-{name}-{dtype.replace('float', 'f')}",
        title=f"matmul {name} {dtype}",
        dtype=dtype,
        data=partial(data, shapes, dtype),
        contenders={
            "staticgraph": staticgraph,
            "jax": jax,
            "jax donated": partial(jax, call=adapters.jax_donated),
            "torch": torch,
            "pytensor": pytensor,
            "numpy": numpy,
        },
        reach={"best": 0.9, "jax": 1.0},
        tolerance=1e-5 if dtype == "float32" else 1e-12,
        work=2 * int(np.prod(shapes[0])) * shapes[1][-1],
    )
    for dtype in ("float32", "float64")
    for name, shapes in SHAPES.items()
]
