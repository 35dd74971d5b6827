"""Pooling of 32x64x56x56 and bilinear resizing by 2: the value, and the value with its gradient."""

from functools import partial

import numpy as np

from benchmarks import adapters
from benchmarks.harness import Call, Row

SHAPE = (32, 64, 56, 56)
#: kernel, stride, padding
WINDOWS = {"2x2": (2, 2, 0), "3x3s2": (3, 2, 1)}
SIZE = (112, 112)


def data(places, dtype):
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=SHAPE).astype(dtype),
        "g": rng.normal(size=(*SHAPE[:2], *places)).astype(dtype),
    }


def only_x(arrays):
    return {"x": arrays["x"]}


def staticgraph(arrays, function, gradient, reuse=False):
    import staticgraph as sg

    given = arrays if gradient else only_x(arrays)
    x, *g = inputs = adapters.placeholders(given)
    y = function(sg.ops, x)
    outputs = [y, sg.grad(y, [x], cotangent=g[0])] if gradient else y
    return adapters.ours(outputs, inputs, given, reuse)


def jax(arrays, function, gradient, call=adapters.jax_call):
    import jax

    def both(x, g):
        y, pullback = jax.vjp(function, x)
        return y, pullback(g)

    return call(both, arrays) if gradient else call(function, only_x(arrays))


def torch(arrays, function, gradient, compiled=False):
    import torch
    import torch.nn.functional as F

    def forward(x):
        return function(F, x)

    if not gradient:
        return adapters.torch_inference(forward, only_x(arrays), compiled)
    run = torch.compile(forward, fullgraph=True) if compiled else forward
    x, g = adapters.tensors(arrays)
    x.requires_grad_()

    def both():
        y = run(x)
        return y, torch.autograd.grad(y, x, g)

    return Call(both, adapters.flat_torch)


def pool(name, window):
    """The same pooling for the three libraries."""
    k, s, p = window

    def ours(ops, x):
        return getattr(ops, f"{name}_pool2d")(x, k, s, p)

    def peer(F, x):
        return getattr(F, f"{name}_pool2d")(x, k, s, p)

    def windowed(x):
        from jax import lax

        start, combine = (-np.inf, lax.max) if name == "max" else (0.0, lax.add)
        sides = ((0, 0), (0, 0), (p, p), (p, p))
        y = lax.reduce_window(x, start, combine, (1, 1, k, k), (1, 1, s, s), sides)
        return y if name == "max" else y / k**2

    return ours, windowed, peer


def resize():
    def ours(ops, x):
        return ops.interpolate(x, SIZE, mode="bilinear")

    def peer(F, x):
        return F.interpolate(x, SIZE, mode="bilinear")

    def image(x):
        import jax

        return jax.image.resize(x, (*SHAPE[:2], *SIZE), "linear")

    return ours, image, peer


def row(name, title, functions, places, gradient, dtype):
    ours, theirs, peer = functions
    part = "gradient" if gradient else "value"
    return Row(
        name=f"{name}-{part}-{dtype.replace('float', 'f')}",
        title=f"{title}, {'value and gradient' if gradient else 'value'}, 32x64x56x56 {dtype}",
        dtype=dtype,
        data=partial(data, places, dtype),
        contenders={
            "staticgraph": partial(staticgraph, function=ours, gradient=gradient, reuse=True),
            "staticgraph fresh": partial(staticgraph, function=ours, gradient=gradient),
            "jax": partial(jax, function=theirs, gradient=gradient),
            "jax donated": partial(
                jax, function=theirs, gradient=gradient, call=adapters.jax_donated
            ),
            "torch": partial(torch, function=peer, gradient=gradient),
            "torch.compile": partial(torch, function=peer, gradient=gradient, compiled=True),
        },
        reach={"best": 1.0},
        tolerance=1e-5 if dtype == "float32" else 1e-12,
    )


ROWS = [
    *(
        row(
            f"{name}-pool-{label}", f"{name}_pool2d {label}", pool(name, window), (28, 28), g, dtype
        )
        for dtype in ("float32", "float64")
        for name in ("max", "avg")
        for label, window in WINDOWS.items()
        for g in (False, True)
    ),
    *(
        row("bilinear", "bilinear resize by 2", resize(), SIZE, g, dtype)
        for dtype in ("float32", "float64")
        for g in (False, True)
    ),
]
