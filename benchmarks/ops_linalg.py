"""Linear algebra of 256 matrices of 64x64: values, and values with gradients."""

from functools import partial

import numpy as np

from benchmarks import adapters
from benchmarks.harness import Row

COUNT, N = 256, 64
#: rows by name; `definite` ones take symmetric positive definite matrices
PLAIN = ("inv", "det", "slogdet", "solve", "triangular_solve", "qr", "svd")
DEFINITE = ("cholesky", "eigh")


def data(dtype, kind):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(COUNT, N, N)) / np.sqrt(N)
    if kind in DEFINITE:
        a = a @ a.swapaxes(-1, -2) + np.diag(np.linspace(1, 4, N))
    if kind == "triangular_solve":
        a = np.tril(a) + 2 * np.eye(N)
    elif kind != "svd":
        a = a + 1.5 * np.eye(N)  # neither the value nor its gradient divides by almost 0
    arrays = {"a": a.astype(dtype)}
    if kind in ("solve", "triangular_solve"):
        arrays["b"] = rng.normal(size=(COUNT, N, N)).astype(dtype)
    return arrays


def parts(kind, results):
    """What does not depend on the signs of vectors: their squares."""
    if kind == "eigh":
        return [results[0], results[1] * results[1]]
    if kind == "svd":
        return [results[0] * results[0], results[1], results[2] * results[2]]
    if kind == "slogdet":
        return [results[1]]
    return list(results) if isinstance(results, (tuple, list)) else [results]


def staticgraph(arrays, kind, gradient):
    import staticgraph as sg

    ops = sg.ops
    function = {
        "triangular_solve": partial(ops.triangular_solve, lower=True),
        "svd": partial(ops.svd, full_matrices=False),
    }.get(kind) or getattr(ops, kind)
    inputs = adapters.placeholders(arrays)
    results = parts(kind, function(*inputs))
    if not gradient:
        return adapters.ours(results, inputs, arrays)
    total = ops.add_n([ops.sum(r * r) for r in results])
    return adapters.ours([total, *sg.grad(total, inputs)], inputs, arrays)


def jax(arrays, kind, gradient):
    import jax
    import jax.numpy as jnp
    import jax.scipy.linalg as jsl

    function = {
        "triangular_solve": partial(jsl.solve_triangular, lower=True),
        "svd": partial(jnp.linalg.svd, full_matrices=False),
    }.get(kind) or getattr(jnp.linalg, kind)

    def values(*xs):
        return parts(kind, function(*xs))

    if not gradient:
        return adapters.jax_call(values, arrays)

    def total(*xs):
        return sum(jnp.sum(r * r) for r in values(*xs))

    return adapters.jax_call(jax.value_and_grad(total, tuple(range(len(arrays)))), arrays)


def torch(arrays, kind, gradient):
    import torch

    function = {
        "triangular_solve": partial(torch.linalg.solve_triangular, upper=False),
        "svd": partial(torch.linalg.svd, full_matrices=False),
    }.get(kind) or getattr(torch.linalg, kind)

    def values(*xs):
        return parts(kind, function(*xs))

    if not gradient:
        return adapters.torch_inference(values, arrays)

    def total(*xs):
        return sum((r * r).sum() for r in values(*xs))

    return adapters.torch_gradient(total, arrays, tuple(arrays))


def row(kind, gradient, dtype):
    options = {"kind": kind, "gradient": gradient}
    # Vectors of values that lie close together are known to few digits.
    loose = 100 if kind in ("eigh", "svd") else 1
    contenders = {"staticgraph": staticgraph, "jax": jax, "torch": torch}
    if kind == "triangular_solve" and gradient:
        del contenders["jax"]  # 0.10 hangs on two cores: its solves wait for each other's threads
    return Row(
        name=f"linalg-{kind}{'-grad' if gradient else ''}-{dtype.replace('float', 'f')}",
        title=f"{kind}{' and gradient' if gradient else ''}, {COUNT} of {N}x{N} {dtype}",
        dtype=dtype,
        data=partial(data, dtype, kind),
        contenders={name: partial(call, **options) for name, call in contenders.items()},
        reach={"best": 1.0},
        tolerance=loose * (1e-3 if dtype == "float32" else 1e-9),
    )


ROWS = [
    row(kind, gradient, dtype)
    for dtype in ("float32", "float64")
    for gradient in (False, True)
    for kind in (*PLAIN, *DEFINITE)
]
