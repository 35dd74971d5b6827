"""Sorting, the k largest, scans and scatters: values, and values with the gradient for a cotangent.

Gradients take the cotangent as an operand, so that no row is about a sum.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks import adapters
from benchmarks.harness import Row

LINE, SQUARE = (1_000_000,), (1000, 1000)
TABLE, WORDS = (50_000, 256), 4096


@dataclass(frozen=True)
class Case:
    """One function in the terms of each library, on arrays of which "x" has the gradient."""

    title: str
    data: object
    ours: object
    jax: object
    torch: object
    gradient: bool = True
    tolerance: float = 1e-4


def normal(shape, dtype):
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(dtype)}


def near_one(shape, dtype):
    return {"x": np.random.default_rng(0).uniform(0.9, 1.1, shape).astype(dtype)}


def recurrent(shape, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(dtype)
    return {"x": x, "b": rng.uniform(-0.9, 0.9, shape).astype(dtype)}


def looked_up(dtype):
    rng = np.random.default_rng(0)
    words = rng.integers(0, TABLE[0], WORDS).astype("int32")
    return {"x": rng.standard_normal(TABLE).astype(dtype), "i": words}


def scattered(dtype):
    rng = np.random.default_rng(0)
    places = rng.integers(0, LINE[0], LINE).astype("int32")
    return {"x": rng.standard_normal(LINE).astype(dtype), "i": places}


def ours(name, **options):
    def function(*operands):
        import staticgraph as sg

        y = getattr(sg.ops, name)(*operands, **options)
        return y[0] if isinstance(y, tuple) else y

    return function


def of_torch(name, **options):
    def function(*operands):
        import torch

        y = getattr(torch, name)(*operands, **options)
        return y[0] if isinstance(y, tuple) else y

    return function


def of_jax(name, **options):
    def function(*operands):
        import jax

        y = getattr(jax.numpy if hasattr(jax.numpy, name) else jax.lax, name)(*operands, **options)
        return y[0] if isinstance(y, (tuple, list)) else y

    return function


def jax_recurrence(x, b):
    import jax

    def joined(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    return jax.lax.associative_scan(joined, (b, x), axis=-1)[1]


def torch_recurrence(x, b):
    """PyTorch has no such scan: a step per column."""
    import torch

    steps = [x[:, 0]]
    for k in range(1, x.shape[1]):
        steps.append(torch.addcmul(x[:, k], b[:, k], steps[-1]))
    return torch.stack(steps, 1)


def torch_embedding(x, i):
    import torch

    return torch.nn.functional.embedding(i, x)


def jax_scatter(x, i):
    import jax

    return jax.numpy.zeros_like(x).at[i].add(x)


def torch_scatter(x, i):
    import torch

    return torch.zeros_like(x).index_add(0, i, x)


def ours_scatter(x, i):
    import staticgraph as sg

    return sg.ops.scatter_add(sg.ops.zeros(x.shape, x.dtype.name), i, x)


CASES = {
    "sort": Case("sort, 1M", partial(normal, LINE),
        ours("sort"), of_jax("sort"), of_torch("sort")),
    "sort-rows": Case("sort, 1000 rows of 1000", partial(normal, SQUARE),
        ours("sort"), of_jax("sort"), of_torch("sort")),
    "sort-columns": Case("sort, 1000 columns of 1000", partial(normal, SQUARE),
        ours("sort", axis=0), of_jax("sort", axis=0), of_torch("sort", dim=0)),
    "argsort": Case("argsort, 1M", partial(normal, LINE), ours("argsort"), of_jax("argsort"),
        of_torch("argsort", stable=True), gradient=False),
    "top_k": Case("100 largest of 1M", partial(normal, LINE),
        ours("top_k", k=100), of_jax("top_k", k=100), of_torch("topk", k=100)),
    "top_k-rows": Case("10 largest, 1000 rows of 1000", partial(normal, SQUARE),
        ours("top_k", k=10), of_jax("top_k", k=10), of_torch("topk", k=10)),
    "cumsum": Case("cumsum, 1M", partial(near_one, LINE),
        ours("cumsum"), of_jax("cumsum"), of_torch("cumsum", dim=0)),
    "cumsum-rows": Case("cumsum, 1000 rows of 1000", partial(near_one, SQUARE),
        ours("cumsum", axis=1), of_jax("cumsum", axis=1), of_torch("cumsum", dim=1)),
    "cumsum-columns": Case("cumsum, 1000 columns of 1000", partial(near_one, SQUARE),
        ours("cumsum", axis=0), of_jax("cumsum", axis=0), of_torch("cumsum", dim=0)),
    "cumprod": Case("cumprod, 1000 rows of 1000", partial(near_one, SQUARE),
        ours("cumprod", axis=1), of_jax("cumprod", axis=1), of_torch("cumprod", dim=1)),
    "cummax": Case("cummax, 1M", partial(normal, LINE),
        ours("cummax"), of_jax("cummax", axis=0), of_torch("cummax", dim=0)),
    "logcumsumexp": Case("logcumsumexp, 1M", partial(normal, LINE),
        ours("logcumsumexp"), of_jax("cumlogsumexp", axis=0), of_torch("logcumsumexp", dim=0),
        tolerance=1e-3),
    "linear_scan": Case("linear recurrence, 1000 rows of 1000", partial(recurrent, SQUARE),
        ours("linear_scan"), jax_recurrence, torch_recurrence),
    "embedding": Case("embedding, 4096 of 50k x 256", looked_up,
        ours("embedding"), lambda x, i: x[i], torch_embedding),
    "scatter_add": Case("scatter_add, 1M to 1M", scattered,
        ours_scatter, jax_scatter, torch_scatter),
}  # fmt: skip


def data(case, gradient, dtype):
    arrays = CASES[case].data(dtype)
    if gradient:
        shape = np.shape(arrays["x"])
        if case == "embedding":
            shape = (WORDS, TABLE[1])
        elif case.startswith("top_k"):
            shape = (*shape[:-1], 100 if case == "top_k" else 10)
        arrays["g"] = np.random.default_rng(1).uniform(0.5, 1.5, shape).astype(dtype)
    return arrays


def staticgraph(arrays, case, gradient):
    import staticgraph as sg

    inputs = adapters.placeholders(arrays)
    operands = inputs[:-1] if gradient else inputs
    y = CASES[case].ours(*operands)
    outputs = [y, sg.grad(y, operands[0], cotangent=inputs[-1])] if gradient else y
    return adapters.ours(outputs, inputs, arrays, reuse=True)


def jax(arrays, case, gradient):
    function = CASES[case].jax
    return adapters.jax_call(adapters.jax_pullback(function, 1) if gradient else function, arrays)


def torch(arrays, case, gradient):
    function = CASES[case].torch
    if not gradient:
        return adapters.torch_inference(function, arrays)
    return adapters.torch_pullback(function, arrays, 1)


def row(case, gradient, dtype):
    options = {"case": case, "gradient": gradient}
    return Row(
        name=f"order-{case}-{'gradient' if gradient else 'value'}-{dtype.replace('float', 'f')}",
        title=f"{CASES[case].title}, {'value and gradient' if gradient else 'value'}, {dtype}",
        dtype=dtype,
        data=partial(data, dtype=dtype, **options),
        contenders={
            "staticgraph": partial(staticgraph, **options),
            "jax": partial(jax, **options),
            "torch": partial(torch, **options),
        },
        reach={"best": 1.0},
        tolerance=CASES[case].tolerance if dtype == "float32" else 1e-10,
    )


ROWS = [
    row(case, gradient, dtype)
    for dtype in ("float32", "float64")
    for case in CASES
    for gradient in (False, True)
    if CASES[case].gradient or not gradient
]
