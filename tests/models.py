"""Graphs as people write them: (outputs, updates) of training steps, derivatives and attention."""

from __future__ import annotations

import itertools

import numpy as np

import staticgraph as sg

ops = sg.ops


def mlp_step(sizes=(20, 32, 24, 5), batch=16, adam=False):
    """A training step: loss, and updates of all weights."""
    rng = np.random.default_rng(0)
    x, t = sg.input("x", (batch, sizes[0])), sg.input("t", (batch,), "int64")
    h, params = x, []
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        w = sg.variable(rng.standard_normal((n, m)).astype("f"), name=f"w{k}")
        b = sg.variable(np.zeros(m, "f"), name=f"b{k}")
        params += [w, b]
        h = h @ w + b
        h = ops.relu(h) if m != sizes[-1] else h
    loss = ops.mean(ops.softmax_cross_entropy(h, t))
    if adam:
        return loss, sg.optim.adam(loss, params, lr=1e-3)
    updates = {p: p - 0.1 * g for p, g in zip(params, sg.grad(loss, params), strict=True)}
    return loss, updates


def layer_norm_gelu():
    x, w, b = sg.input("x", (512, 256)), sg.input("w", (256,)), sg.input("b", (256,))
    y = ops.gelu(ops.layer_norm(x, w, b)).sum()
    return [y, *sg.grad(y, [x, w, b])], {}


def cross_entropy():
    x, t = sg.input("x", (512, 300)), sg.input("t", (512,), "int64")
    y = ops.mean(ops.softmax_cross_entropy(x, t))
    return [y, sg.grad(y, x)], {}


def convolutions():
    x, t = sg.input("x", (8, 1, 16, 16)), sg.input("t", (8,), "int64")
    rng = np.random.default_rng(0)
    shapes = ((16, 1, 3, 3), (32, 16, 3, 3), (32 * 16, 10))
    ws = [
        sg.variable(rng.standard_normal(s).astype("f"), name=f"w{k}") for k, s in enumerate(shapes)
    ]
    h = ops.max_pool2d(ops.relu(ops.conv2d(x, ws[0], padding=1)), 2)
    h = ops.max_pool2d(ops.relu(ops.conv2d(h, ws[1], padding=1)), 2)
    loss = ops.mean(ops.softmax_cross_entropy(h.reshape(8, -1) @ ws[2], t))
    return [loss], {w: w - 0.1 * g for w, g in zip(ws, sg.grad(loss, ws), strict=True)}


def product():
    """A Hessian-vector product of an MLP."""
    rng = np.random.default_rng(0)
    x, t = sg.input("x", (64, 40)), sg.input("t", (64,), "int64")
    ws = [sg.input(f"w{k}", s) for k, s in enumerate(((40, 96), (96, 96), (96, 10)))]
    h = x
    for w in ws[:-1]:
        h = ops.tanh(h @ w)
    loss = ops.mean(ops.softmax_cross_entropy(h @ ws[-1], t))
    vs = [sg.constant(rng.standard_normal(w.shape).astype("f")) for w in ws]
    return sg.hvp(loss, ws, vs), {}


def attention():
    q, k, v = (sg.input(n, (4, 64, 32)) for n in "qkv")
    p = ops.softmax(q @ k.mT / np.sqrt(32.0))
    y = ((p @ v) ** 2).sum()
    return [y, *sg.grad(y, [q, k, v])], {}


def deep():
    """A narrow network of forty layers: every activation is kept for the way back."""
    x = sg.input("x", (64, 48))
    w = sg.variable(np.zeros((48, 48), "f"), name="w")
    h = x
    for _ in range(40):
        h = ops.tanh(h @ w) + h * 0.5
    loss = (h * h).sum()
    return [loss], {w: w - 0.1 * sg.grad(loss, w)}


GRAPHS = {
    "mlp": mlp_step,
    "adam": lambda: mlp_step((784, 128, 64, 10), 32, adam=True),
    "layer_norm": layer_norm_gelu,
    "cross_entropy": cross_entropy,
    "convolutions": convolutions,
    "hvp": product,
    "attention": attention,
    "deep": deep,
}
