"""PyTorch says the same of windows: values, indices, gradients, and gradients of gradients."""

from __future__ import annotations

import numpy as np
import pytest
from test_ops_reference import inputs_for

import staticgraph as sg
from staticgraph import ops
from staticgraph.interpret import run
from staticgraph.ir import Graph

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.peers

RNG = np.random.default_rng(0)
LINE, PLANE, VOLUME = (RNG.standard_normal(s) for s in ((2, 3, 11), (2, 3, 7, 9), (1, 2, 5, 6, 7)))
SHARES = np.abs(PLANE) + 0.1
U2, U3 = RNG.random((2, 3, 2)), RNG.random((1, 2, 3))
POOLED, PLACES = (t.numpy() for t in F.max_pool2d(torch.tensor(PLANE), 2, return_indices=True))
COLUMNS = RNG.standard_normal((2, 18, 44))
GRID2, GRID3 = RNG.uniform(-1.6, 1.6, (2, 4, 5, 2)), RNG.uniform(-1.6, 1.6, (1, 3, 2, 2, 3))
CHANNELS, DEEP = RNG.standard_normal((2, 6, 5, 6)), RNG.standard_normal((6, 1, 3, 2))
ROWS, BIAS = RNG.standard_normal((11, 3)), RNG.standard_normal(11)


def first(t):
    return ops.moveaxis(t, -1, 1)


def last(t):
    return ops.moveaxis(t, 1, -1)


#: ours, PyTorch's, operands; both may give indices too
TABLE = {
    **{f"adaptive_avg_pool1d {k}": (lambda x, k=k: ops.adaptive_avg_pool1d(x, k),
                                    lambda x, k=k: F.adaptive_avg_pool1d(x, k), LINE)
       for k in (1, 3, 8, 14)},
    **{f"adaptive_max_pool1d {k}": (
        lambda x, k=k: ops.adaptive_max_pool1d(x, k, True),
        lambda x, k=k: F.adaptive_max_pool1d(x, k, return_indices=True), LINE)
       for k in (1, 3, 8)},
    "adaptive_avg_pool2d": (lambda x: ops.adaptive_avg_pool2d(x, (3, None)),
                            lambda x: F.adaptive_avg_pool2d(x, (3, None)), PLANE),
    "adaptive_max_pool2d": (lambda x: ops.adaptive_max_pool2d(x, (3, 4), True),
                            lambda x: F.adaptive_max_pool2d(x, (3, 4), True), PLANE),
    "adaptive_avg_pool3d": (lambda x: ops.adaptive_avg_pool3d(x, (3, 4, 2)),
                            lambda x: F.adaptive_avg_pool3d(x, (3, 4, 2)), VOLUME),
    "adaptive_max_pool3d": (lambda x: ops.adaptive_max_pool3d(x, (3, 4, 2), True),
                            lambda x: F.adaptive_max_pool3d(x, (3, 4, 2), True), VOLUME),
    "fractional_max_pool2d": (
        lambda x: ops.fractional_max_pool2d(x, (2, 3), (4, 5), None, True, U2),
        lambda x: F.fractional_max_pool2d(x, (2, 3), (4, 5), None, True, torch.tensor(U2)), PLANE),
    "fractional_max_pool2d one": (
        lambda x: ops.fractional_max_pool2d(x, (2, 3), (1, 5), None, True, U2),
        lambda x: F.fractional_max_pool2d(x, (2, 3), (1, 5), None, True, torch.tensor(U2)), PLANE),
    "fractional_max_pool3d": (
        lambda x: ops.fractional_max_pool3d(x, 2, None, 0.6, True, U3),
        lambda x: F.fractional_max_pool3d(x, 2, None, 0.6, True, torch.tensor(U3)), VOLUME),
    **{f"max_pool2d {a}": (lambda x, a=a: ops.max_pool2d(x, *a, return_indices=True),
                           lambda x, a=a: F.max_pool2d(x, *a, return_indices=True), PLANE)
       for a in ((2,), (3, 2, 1, 2, True), ((2, 3), (1, 2), (1, 1), (2, 1), True))},
    "max_pool channel_last": (
        lambda x: tuple(map(first, ops.max_pool(last(x), 3, 2, 1, 1, True, True, True))),
        lambda x: F.max_pool2d(x, 3, 2, 1, 1, True, True), PLANE),
    **{f"avg_pool2d {flags}": (lambda x, f=flags: ops.avg_pool2d(x, 3, 2, 1, *f),
                               lambda x, f=flags: F.avg_pool2d(x, 3, 2, 1, *f), PLANE)
       for flags in ((c, p, d) for c in (False, True) for p in (False, True) for d in (None, 5))},
    "avg_pool channel_last": (
        lambda x: first(ops.avg_pool(last(x), 3, 2, 1, True, False, channel_last=True)),
        lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), PLANE),
    "lp_pool2d": (lambda x: ops.lp_pool2d(x, 3, (2, 3), 2), lambda x: F.lp_pool2d(x, 3, (2, 3), 2),
                  SHARES),
    "max_unpool2d": (lambda x: ops.max_unpool2d(x, PLACES, 2, output_size=(7, 9)),
                     lambda x: F.max_unpool2d(x, torch.tensor(PLACES), 2, output_size=(7, 9)),
                     POOLED),
    "unfold": (lambda x: ops.unfold(x, (2, 3), (2, 1), (1, 2), (1, 2)),
               lambda x: F.unfold(x, (2, 3), (2, 1), (1, 2), (1, 2)), PLANE),
    "fold": (lambda x: ops.fold(x, (7, 9), (3, 2), 1, (1, 1), (2, 1)),
             lambda x: F.fold(x, (7, 9), (3, 2), 1, (1, 1), (2, 1)), COLUMNS[..., :40]),
    **{f"interpolate {mode} {align} {size}": (
        lambda x, s=size, m=mode, a=align: ops.interpolate(x, s, None, m, a),
        lambda x, s=size, m=mode, a=align: F.interpolate(
            x, s, mode=m, **({"align_corners": a} if m[:2] == "bi" else {})), PLANE)
       for mode, align in (("nearest", False), ("nearest-exact", False), ("area", False),
                           ("bilinear", False), ("bilinear", True), ("bicubic", False),
                           ("bicubic", True)) for size in ((14, 5), (3, 18), (1, 9))},
    "interpolate linear": (lambda x: ops.interpolate(x, scale_factor=2, mode="linear"),
                           lambda x: F.interpolate(x, scale_factor=2, mode="linear"), LINE),
    "interpolate trilinear": (lambda x: ops.interpolate(x, (7, 3, 9), mode="trilinear"),
                              lambda x: F.interpolate(x, (7, 3, 9), mode="trilinear"), VOLUME),
    **{f"grid_sample {mode} {pad} {align}": (
        lambda x, g, a=(mode, pad, align): ops.grid_sample(x, g, *a),
        lambda x, g, a=(mode, pad, align): F.grid_sample(x, g, *a), PLANE, GRID2)
       for mode in ("bilinear", "nearest") for pad in ("zeros", "border", "reflection")
       for align in (False, True)},
    "grid_sample 3d": (lambda x, g: ops.grid_sample(x, g, "linear", "reflection"),
                       lambda x, g: F.grid_sample(x, g, "bilinear", "reflection", False),
                       VOLUME, GRID3),
    "depthwise_conv_transpose": (
        lambda x, w: ops.depthwise_conv_transpose(x, w, None, 2, 1, 1, 1, 3),
        lambda x, w: F.conv_transpose2d(x, w, None, 2, 1, 1, 2), CHANNELS, DEEP),
    "temporal_row_conv": (
        lambda x, w, b: ops.temporal_row_conv(x, w, b, 2, 1),
        lambda x, w, b: F.conv1d(x.mT, w[:, None], b, 2, 1, groups=11).mT, LINE, ROWS, BIAS),
}  # fmt: skip
#: PyTorch has no second derivative of these
ONCE = ("adaptive_avg_pool3d", "grid_sample 3d")


@pytest.mark.parametrize("name", TABLE)
def test_windows(name, rng):
    ours, theirs, *arrays = TABLE[name]
    inputs = inputs_for(arrays)
    y, *index = (lambda v: v if isinstance(v, tuple) else (v,))(ours(*inputs))
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    value, *places = (lambda v: v if isinstance(v, tuple) else (v,))(theirs(*leaves))
    c = rng.standard_normal(y.shape)
    first_order = sg.vjp([y], inputs, [c])
    wanted = torch.autograd.grad(value, leaves, torch.tensor(c), create_graph=name not in ONCE,
                                 allow_unused=True, materialize_grads=True)  # fmt: skip
    outputs, pulled = [y, *index, *first_order], [value, *places, *wanted]
    if name not in ONCE and any(w.requires_grad for w in wanted):
        squares = sum((w * w).sum() for w in wanted)
        pulled += torch.autograd.grad(squares, leaves, allow_unused=True, materialize_grads=True)
        outputs += sg.grad(ops.add_n([ops.sum(g * g) for g in first_order]), inputs)
    for a, b in zip(run(Graph(inputs, outputs), arrays), pulled, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-9, atol=1e-10)
