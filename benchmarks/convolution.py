"""conv2d 3x3, batch 8, forward and with both gradients; torch shows the distance to oneDNN."""

from functools import partial

import numpy as np

from benchmarks import adapters
from benchmarks.harness import Call, Row

SIDES = {64: 56, 128: 28, 256: 14}
BATCH = 8


def data(channels, dtype):
    rng = np.random.default_rng(0)
    image = (BATCH, channels, SIDES[channels], SIDES[channels])
    return {
        "x": rng.normal(size=image).astype(dtype),
        "w": (rng.normal(size=(channels, channels, 3, 3)) / channels).astype(dtype),
        "g": rng.normal(size=image).astype(dtype),
    }


def without_g(arrays):
    return {name: arrays[name] for name in "xw"}


def staticgraph(arrays, gradients, reuse=False):
    import staticgraph as sg

    given = arrays if gradients else without_g(arrays)
    x, w, *g = inputs = adapters.placeholders(given)
    y = sg.ops.conv2d(x, w, padding=1)
    outputs = [y, sg.grad(y, [x, w], cotangent=g[0])] if gradients else y
    return adapters.ours(outputs, inputs, given, reuse)


def jax(arrays, gradients, call=adapters.jax_call):
    import jax

    def forward(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME")

    def both(x, w, g):
        y, pullback = jax.vjp(forward, x, w)
        return y, pullback(g)

    if gradients:
        return call(both, arrays)
    return call(forward, without_g(arrays))


def torch(arrays, gradients, compiled=False, channels_last=False):
    import torch
    import torch.nn.functional as F

    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, w, g = (t.contiguous(memory_format=layout) for t in adapters.tensors(arrays))

    def forward(x, w):
        return F.conv2d(x, w, padding=1)

    run = torch.compile(forward, fullgraph=True) if compiled else forward

    @torch.inference_mode()
    def infer():
        return run(x, w)

    def both():
        y = run(x, w)
        return y, torch.autograd.grad(y, (x, w), g)

    if gradients:
        x.requires_grad_()
        w.requires_grad_()
    return Call(both if gradients else infer, adapters.flat_torch)


def row(channels, gradients, dtype):
    side = SIDES[channels]
    with_gradients = {"gradients": gradients}
    return Row(
        name=f"conv-{channels}-{'gradients' if gradients else 'forward'}"
        f"-{dtype.replace('float', 'f')}",
        title=f"conv2d 3x3, batch 8, {channels} channels {side}x{side}, "
        f"{'forward and both gradients' if gradients else 'forward'}, {dtype}",
        dtype=dtype,
        data=partial(data, channels, dtype),
        contenders={
            "staticgraph": partial(staticgraph, reuse=True, **with_gradients),
            "staticgraph fresh": partial(staticgraph, **with_gradients),
            "jax": partial(jax, **with_gradients),
            "jax donated": partial(jax, call=adapters.jax_donated, **with_gradients),
            "torch": partial(torch, **with_gradients),
            "torch channels-last": partial(torch, channels_last=True, **with_gradients),
            "torch.compile": partial(torch, compiled=True, **with_gradients),
        },
        reach={"jax": 1.0},
        tolerance=1e-4 if dtype == "float32" else 1e-11,
        work=(3 if gradients else 1) * 2 * 9 * BATCH * channels**2 * side**2,
    )


ROWS = [
    row(channels, gradients, dtype)
    for dtype in ("float32", "float64")
    for channels in SIDES
    for gradients in (False, True)
]
