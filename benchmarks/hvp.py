"""Hessian-vector product of the MLP loss of `mlp_step`, by all six weights at once."""

from functools import partial

import numpy as np

from benchmarks import adapters, mlp_step
from benchmarks.harness import Call, Row
from benchmarks.mlp_step import WEIGHTS


def data(dtype):
    arrays = mlp_step.data(dtype)
    rng = np.random.default_rng(1)
    direction = {f"v_{name}": rng.normal(size=arrays[name].shape).astype(dtype) for name in WEIGHTS}
    return arrays | direction


def staticgraph(arrays, reuse=False):
    import staticgraph as sg

    inputs = adapters.placeholders(arrays)
    x, label, *rest = inputs
    params, direction = rest[:6], rest[6:]
    loss = mlp_step.loss_staticgraph(x, label, *params)
    return adapters.ours(sg.hvp(loss, params, direction), inputs, arrays, reuse)


def jax(arrays, call=adapters.jax_call):
    """Forward over reverse, the cheaper order."""
    import jax

    def function(x, label, *rest):
        gradient = jax.grad(partial(mlp_step.loss_jax, x=x, label=label))
        return jax.jvp(gradient, (list(rest[:6]),), (list(rest[6:]),))[1]

    return call(function, arrays)


def loss_torch(x, label, params):
    import torch
    import torch.nn.functional as F

    w1, b1, w2, b2, w3, b3 = params
    h = torch.relu(torch.addmm(b1, x, w1))
    h = torch.relu(torch.addmm(b2, h, w2))
    return F.cross_entropy(torch.addmm(b3, h, w3), label)


def torch(arrays):
    """Eager: the gradient's graph differentiated again."""
    import torch

    x, label, *rest = adapters.tensors(arrays)
    params, direction = [p.requires_grad_() for p in rest[:6]], rest[6:]

    def run():
        grads = torch.autograd.grad(loss_torch(x, label, params), params, create_graph=True)
        return torch.autograd.grad(grads, params, direction)

    return Call(run, adapters.flat_torch)


def torch_compile(arrays):
    """Forward over reverse by `torch.func`, traced whole by Inductor."""
    from torch.func import grad, jvp

    def function(x, label, *rest):
        gradient = grad(lambda params: loss_torch(x, label, params))
        return jvp(gradient, (rest[:6],), (rest[6:],))[1]

    return adapters.torch_inference(function, arrays, compiled=True)


def pytensor(arrays):
    import pytensor
    import pytensor.tensor as pt

    inputs = adapters.symbols(arrays)
    x, label, *rest = inputs
    params, direction = rest[:6], rest[6:]
    grads = pytensor.grad(mlp_step.loss_pytensor(x, label, *params), params)
    along = sum(pt.sum(g * v) for g, v in zip(grads, direction, strict=True))
    return adapters.pytensor_call(inputs, pytensor.grad(along, params), arrays)


ROWS = [
    Row(
        name=f"hvp-{dtype.replace('float', 'f')}",
        title=f"Hessian-vector product of the MLP, batch 128, {dtype}",
        dtype=dtype,
        data=partial(data, dtype),
        contenders={
            "staticgraph": partial(staticgraph, reuse=True),
            "staticgraph fresh": staticgraph,
            "jax": jax,
            "jax donated": partial(jax, call=adapters.jax_donated),
            "torch": torch,
            "torch.compile": torch_compile,
            "pytensor": pytensor,
        },
        reach={"best": 1.2},
        tolerance=tolerance,
    )
    for dtype, tolerance in (("float32", 1e-4), ("float64", 1e-10))
]
