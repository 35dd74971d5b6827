"""Layers and losses at the sizes people use: values, and values with the gradient for a cotangent.

Attention and the sum over pairs are here for their memory as much as for their time: nobody but us
leaves the matrix of pairs out of memory in the gradient as well.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks import adapters
from benchmarks.harness import Row

LINE, IMAGES, HEADS, POINTS = (1_000_000,), (32, 64, 56, 56), (1, 8, 1024, 64), (3000, 3)


@dataclass(frozen=True)
class Case:
    """One function of "x" and more, in the terms of each library; `result` is its shape."""

    title: str
    data: object
    ours: object
    jax: object
    torch: object
    result: tuple


def arrays_of(**shapes):
    def make(dtype):
        rng = np.random.default_rng(0)
        return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}

    return make


def ours(name, **options):
    def function(*operands):
        import staticgraph as sg

        return getattr(sg.ops, name)(*operands, **options)

    return function


def of_torch(name, **options):
    def function(*operands):
        import torch

        return getattr(torch.nn.functional, name)(*operands, **options)

    return function


def of_jax(name):
    def function(*operands):
        import jax

        return getattr(jax.nn, name)(*operands)

    return function


def jax_norm(axes):
    def function(x):
        import jax.numpy as jnp

        mean = x.mean(axes, keepdims=True)
        return (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + 1e-5)

    return function


def jax_huber(x, t):
    import jax.numpy as jnp

    e = jnp.abs(x - t)
    return jnp.where(e < 1, 0.5 * e * e, e - 0.5).mean()


def jax_bce(x, t):
    import jax.numpy as jnp

    return (jnp.maximum(x, 0) - x * t + jnp.log1p(jnp.exp(-jnp.abs(x)))).mean()


def jax_attention(causal):
    def function(q, k, v):
        import jax

        q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal).swapaxes(1, 2)

    return function


def ours_rbf(x, y, b):
    import staticgraph as sg

    d = x[:, None, :] - y[None, :, :]
    return (sg.ops.exp(-(d * d).sum(axis=-1)) * b).sum(axis=1)


def jax_rbf(x, y, b):
    import jax.numpy as jnp

    d = x[:, None, :] - y[None, :, :]
    return (jnp.exp(-(d * d).sum(-1)) * b).sum(1)


def torch_rbf(x, y, b):
    import torch

    d = x[:, None, :] - y[None, :, :]
    return (torch.exp(-(d * d).sum(-1)) * b).sum(1)


def torch_batch_norm(x):
    import torch

    return torch.nn.functional.batch_norm(x, None, None, training=True)


def ours_batch_norm(x):
    import staticgraph as sg

    made = sg.ops.batch_norm(x, training=True)
    return made[0] if isinstance(made, tuple) else made


def unary(name, title, **torch_options):
    return Case(f"{title}, 1M", arrays_of(x=LINE), ours(name), of_jax(name),
                of_torch(name, **torch_options), LINE)  # fmt: skip


QKV = {name: HEADS for name in ("x", "k", "v")}
CASES = {
    "gelu": Case("gelu (exact), 1M", arrays_of(x=LINE), ours("gelu"),
        lambda x: of_jax("gelu")(x, False), of_torch("gelu"), LINE),
    "silu": unary("silu", "silu"),
    "softplus": unary("softplus", "softplus"),
    "huber": Case("huber loss, mean of 1M", arrays_of(x=LINE, t=LINE), ours("huber_loss"),
        jax_huber, of_torch("huber_loss"), ()),
    "bce": Case("binary cross-entropy with logits, mean of 1M", arrays_of(x=LINE, t=LINE),
        ours("binary_cross_entropy_with_logits"), jax_bce,
        of_torch("binary_cross_entropy_with_logits"), ()),
    "batch_norm": Case("batch_norm, 32x64x56x56", arrays_of(x=IMAGES), ours_batch_norm,
        jax_norm((0, 2, 3)), torch_batch_norm, IMAGES),
    "instance_norm": Case("instance_norm, 32x64x56x56", arrays_of(x=IMAGES),
        ours("instance_norm"), jax_norm((2, 3)), of_torch("instance_norm"), IMAGES),
    "attention": Case("attention, 8 heads x 1024 x 64", arrays_of(**QKV),
        ours("scaled_dot_product_attention"), jax_attention(False),
        of_torch("scaled_dot_product_attention"), HEADS),
    "attention-causal": Case("causal attention, 8 heads x 1024 x 64", arrays_of(**QKV),
        ours("scaled_dot_product_attention", is_causal=True), jax_attention(True),
        of_torch("scaled_dot_product_attention", is_causal=True), HEADS),
    "rbf": Case("sum of a Gaussian over pairs, 3000 x 3000",
        arrays_of(x=POINTS, y=POINTS, b=POINTS[:1]), ours_rbf, jax_rbf, torch_rbf, POINTS[:1]),
}  # fmt: skip


def data(case, gradient, dtype):
    arrays = CASES[case].data(dtype)
    if gradient:
        rng = np.random.default_rng(1)
        arrays["g"] = rng.uniform(0.5, 1.5, CASES[case].result).astype(dtype)
    return arrays


def staticgraph(arrays, case, gradient):
    import staticgraph as sg

    inputs = adapters.placeholders(arrays)
    operands = inputs[:-1] if gradient else inputs
    y = CASES[case].ours(*operands)
    outputs = [y, *sg.grad(y, operands, cotangent=inputs[-1])] if gradient else y
    return adapters.ours(outputs, inputs, arrays, reuse=True)


def jax(arrays, case, gradient):
    function = CASES[case].jax
    return adapters.jax_call(
        adapters.jax_pullback(function, len(arrays) - 1) if gradient else function, arrays
    )


def torch(arrays, case, gradient):
    function = CASES[case].torch
    if not gradient:
        return adapters.torch_inference(function, arrays)
    return adapters.torch_pullback(function, arrays, len(arrays) - 1)


def row(case, gradient, dtype):
    options = {"case": case, "gradient": gradient}
    return Row(
        name=f"nn-{case}-{'gradient' if gradient else 'value'}-{dtype.replace('float', 'f')}",
        title=f"{CASES[case].title}, {'value and gradient' if gradient else 'value'}, {dtype}",
        dtype=dtype,
        data=partial(data, dtype=dtype, **options),
        contenders={
            "staticgraph": partial(staticgraph, **options),
            "jax": partial(jax, **options),
            "torch": partial(torch, **options),
        },
        reach={"best": 1.0},
        tolerance=1e-3 if dtype == "float32" else 1e-9,
    )


ROWS = [
    row(case, gradient, dtype)
    for dtype in ("float32", "float64")
    for case in CASES
    for gradient in (False, True)
]
