"""Rows for indexing, convolution, pooling, normalisation, losses and random numbers."""

from __future__ import annotations

import importlib

import numpy as np
import windows
from sampling import between, distinct, fixed, ints, normal, off_zero, positive, row
from scipy import special

from staticgraph import ops
from staticgraph.ir import apply
from staticgraph.operands import constant
from staticgraph.registry import OPS

# `staticgraph.ops.random` is where these live; sg.random re-exports them.
random = importlib.import_module("staticgraph.ops.random")


def added(x, place, updates):
    """x with updates added at an index tuple, duplicates too."""
    y = np.array(x)
    np.add.at(y, place, updates)
    return y


INDEX = [
    row("index", lambda x: x[1], normal(3, 4), lambda x: x[1], label="int"),
    row("index", lambda x: x[..., -1], normal(3, 4), lambda x: x[..., -1], label="last"),
    row("index", lambda x: x[::-1, None, 1:3], normal(3, 4), lambda x: x[::-1, None, 1:3],
        label="slices"),
    row("index", lambda x: x[::-2, ::3], normal(5, 7), lambda x: x[::-2, ::3], label="steps"),
    row("index", lambda x: x[[2, 0, 2]], normal(3, 4), lambda x: x[[2, 0, 2]], label="list"),
    row("index", lambda x: x[:, np.array([[0, -1], [2, 2]])], normal(3, 4),
        lambda x: x[:, [[0, -1], [2, 2]]], label="array"),
    row("index", lambda x: x[np.array([True, False, True])], normal(3, 4),
        lambda x: x[[0, 2]], label="mask"),
    row("index", lambda x: x[0, :, [1, 2, 1]], normal(2, 3, 4), lambda x: x[0, :, [1, 2, 1]],
        label="apart"),
    row("index", lambda x, i, j: x[:, i, j], [normal(2, 3, 4), ints(-3, 3, 5), ints(-4, 4, 2, 1)],
        lambda x, i, j: x[:, i, j], label="tensors"),
    row("index", lambda x, i: x[i, 1:], [normal(3, 4), ints(0, 3)], lambda x, i: x[i, 1:],
        label="scalar"),
    row("take", lambda x, i: ops.take(x, i), [normal(3, 4), ints(-12, 12, 2, 3)], np.take),
    row("take", lambda x, i: ops.take(x, i, 1), [normal(2, 3, 4), ints(-3, 3, 2, 2, dtype="int8")],
        lambda x, i: np.take(x, i, 1), label="axis"),
    row("take", lambda x: ops.take(x, [3, -1, 3], -1), normal(2, 4), lambda x: x[:, [3, -1, 3]],
        label="known"),
    row("gather", lambda x, i: ops.gather(x, i, 1), [normal(3, 4), ints(-4, 4, 3, 6)],
        lambda x, i: np.take_along_axis(x, i, 1)),
    row("gather", lambda x, i: ops.gather(x, i, 0), [normal(3, 4), ints(-3, 3, 2, 1)],
        lambda x, i: np.take_along_axis(x, i, 0), label="broadcast"),
    row("gather_nd", ops.gather_nd, [normal(3, 4, 2), ints(-3, 3, 5, 2)],
        lambda x, i: x[i[:, 0], i[:, 1]]),
    row("scatter_add", ops.scatter_add, [normal(3, 4), ints(-3, 3, 5), normal(5, 4)],
        lambda x, i, u: added(x, i, u)),
    row("scatter_add", lambda x, i, u: ops.scatter_add(x, i, u, 1),
        [normal(2, 3, 4), ints(-3, 3, 2, 2), normal(2, 2, 2, 4)],
        lambda x, i, u: added(x, (slice(None), i), u), label="axis"),
    row("scatter_add", lambda x, i, u: ops.scatter_add(x, i, u, 0),
        [normal(4, 3), ints(-4, 4, 6, 3), normal(6, 3)],
        lambda x, i, u: added(x, (i, np.arange(3)), u), label="along"),
    row("scatter_add", ops.scatter_add, [normal(9), ints(0, 9, 40, dtype="int32"), normal(40)],
        added, label="vector"),
    row("embedding", ops.embedding, [normal(5, 3), ints(0, 5, 2, 4)], lambda w, i: w[i]),
    row("one_hot", lambda i: ops.one_hot(i, 4), ints(0, 4, 2, 3),
        lambda i: np.eye(4, dtype="float32")[i]),
    row("one_hot", lambda i: ops.one_hot(i, 4, bool, axis=0), ints(0, 4, 3),
        lambda i: np.eye(4, dtype=bool)[i].T, label="axis"),
    row("check_index", lambda i: apply(OPS["check_index"], i, size=4), ints(0, 4, 3), np.array),
    row("check", lambda x: apply(OPS["check"], x, constant(0, "int64"), message="no"), normal(3),
        np.array),
]  # fmt: skip


def convolved(name, x, w, *, bias=False, groups=1, label="", transposed=None, **options):
    """A row of a convolution; `options` are those of the oracle, in which padding is low, high."""
    rank = len(x) - 2
    window = {k: v for k, v in options.items() if k in ("stride", "dilation")}
    low, high = options.get("low", 0), options.get("high", options.get("low", 0))
    sides = [np.broadcast_to(v, rank).tolist() for v in (low, high)]
    padding = [tuple(p) for p in zip(*sides, strict=True)]
    channels = w[1] * groups if transposed else w[0]
    draws = [normal(*x), normal(*w), *([normal(channels)] if bias else [])]

    def build(x, w, b=None):
        more = dict(padding=padding, groups=groups, **window)
        if transposed:
            more["output_padding"] = transposed[1]
        return getattr(ops, name)(x, w, b, **more)

    def oracle(x, w, b=None):
        if transposed:
            return windows.spread(x, w, transposed[0], b, groups, low=low, high=high, **window)
        return windows.correlate(x, w, b, groups, low=low, high=high, **window)

    return row(name, build, draws, oracle, label=label)


CONV = [
    convolved("conv", (2, 2, 5), (3, 2, 3), bias=True, label="bias"),
    convolved("conv", (2, 4, 6, 5), (6, 2, 3, 2), groups=2, low=(1, 0), high=(2, 1), stride=(2, 1),
              dilation=(1, 2), bias=True, label="all"),
    convolved("conv1d", (2, 3, 8), (2, 3, 3), stride=2, low=1, dilation=2),
    convolved("conv2d", (1, 2, 4, 5), (3, 2, 3, 3), low=1),
    convolved("conv2d", (2, 3, 5, 5), (3, 1, 2, 2), groups=3, stride=2, label="groups"),
    convolved("conv3d", (1, 2, 3, 4, 3), (2, 2, 2, 2, 2), low=(0, 1, 0), stride=(1, 2, 1)),
    row("conv", lambda x, w: ops.conv(x, w, padding="same", stride=2),
        [normal(1, 2, 5, 6), normal(2, 2, 3, 4)],
        lambda x, w: windows.correlate(x, w, stride=2, low=(1, 1), high=(1, 1)), label="same"),
    row("conv", lambda x, w: ops.conv(x, w, padding="full"), [normal(1, 2, 4), normal(2, 2, 3)],
        lambda x, w: windows.correlate(x, w, low=2, high=2), label="full"),
    row("conv", lambda x, w: ops.conv(x, w, padding=1),
        [ints(-3, 3, 1, 2, 4), ints(-3, 3, 2, 2, 3)],
        lambda x, w: windows.correlate(x, w, low=1, high=1).astype("int64"), 0, "integer"),
    row("conv", lambda a, b, w: abs(ops.conv(ops.complex_(a, b), ops.complex_(w, w * 0.5))),
        [normal(1, 2, 5), normal(1, 2, 5), normal(2, 2, 3)],
        lambda a, b, w: np.hypot(
            windows.correlate(a - 0.5 * b, w), windows.correlate(0.5 * a + b, w)
        ), label="complex"),
    row("depthwise_conv", lambda x, w, b: ops.depthwise_conv(x, w, b, padding=1),
        [normal(1, 2, 4, 4), normal(4, 1, 3, 3), normal(4)],
        lambda x, w, b: windows.correlate(x, w, b, 2, low=1, high=1)),
    convolved("conv_transpose", (2, 3, 4), (3, 2, 3), bias=True, stride=2, low=1,
              transposed=((8,), 1), label="extra"),
    convolved("conv_transpose", (1, 4, 3, 3), (4, 1, 2, 3), groups=2, stride=(1, 3), low=(0, 1),
              high=(1, 0), dilation=(2, 1), transposed=((4, 8), 0), label="all"),
    convolved("conv_transpose1d", (2, 2, 4), (2, 3, 3), transposed=((6,), 0)),
    convolved("conv_transpose2d", (1, 2, 3, 3), (2, 2, 3, 3), stride=2, low=1, bias=True,
              transposed=((6, 6), 1)),
    convolved("conv_transpose3d", (1, 1, 2, 2, 2), (1, 2, 2, 2, 2), stride=2,
              transposed=((4, 4, 4), 0)),
    row("conv_weight_grad",
        lambda x, y: apply(OPS["conv_weight_grad"], x, y, size=(3, 2), stride=(2, 1), low=(1, 0),
                           high=(1, 1), dilation=(1, 2), groups=2),
        [normal(2, 4, 6, 5), normal(2, 4, 3, 4)],
        lambda x, y: windows.kernel_gradient(
            x, y, (3, 2), 2, stride=(2, 1), low=(1, 0), high=(1, 1), dilation=(1, 2))),
]  # fmt: skip

WINDOW = dict(stride=(2, 1), low=(1, 0), dilation=(1, 2))
ATTRS = dict(kernel=(3, 2), size=(3, 3), **WINDOW)
ORACLE = dict(high=(1, 0), **WINDOW)


TIED = np.arange(50.0).reshape(2, 1, 5, 5) % 7


def mean_of_nine(x, axis):
    return x.sum(axis) / 9


POOL = [
    row("max_pool", lambda x: ops.max_pool(x, 2), distinct(1, 2, 4, 6),
        lambda x: windows.pool(x, (2, 2), np.max, stride=2)),
    row("max_pool", lambda x: ops.max_pool(x, (3, 2), (2, 1), (1, 0), (1, 2)), distinct(2, 1, 5, 5),
        lambda x: windows.pool(x, (3, 2), np.max, **ORACLE), label="overlap"),
    row("max_pool", lambda x: ops.max_pool(x, 9, 1, 4), distinct(1, 1, 9, 10),
        lambda x: windows.pool(x, (9, 9), np.max, low=4, high=4), label="large"),
    row("max_pool", lambda x: ops.max_pool(x, 2, 2, ceil_mode=True), ints(-5, 5, 1, 2, 5),
        lambda x: windows.pool(x, (2,), np.max, stride=2, high=1).astype("int64"), 0, "ceil"),
    row("max_pool1d", lambda x: ops.max_pool1d(x, 3, 1, 1), distinct(2, 2, 6),
        lambda x: windows.pool(x, (3,), np.max, low=1, high=1)),
    row("max_pool2d", lambda x: ops.max_pool2d(x, 3, 2), distinct(1, 2, 7, 5),
        lambda x: windows.pool(x, (3, 3), np.max, stride=2)),
    row("max_pool3d", lambda x: ops.max_pool3d(x, 2), distinct(1, 1, 4, 2, 4),
        lambda x: windows.pool(x, (2, 2, 2), np.max, stride=2)),
    row("max_pool_index", lambda x, y: apply(OPS["max_pool_index"], x, y, **ATTRS),
        [fixed(TIED), fixed(windows.pool(TIED, (3, 2), np.max, **ORACLE))],
        lambda x, y: windows.first_places(x, (3, 2), **ORACLE), 0),
    row("pool_pick", lambda x, i: apply(OPS["pool_pick"], x, i, **ATTRS),
        [normal(2, 1, 5, 5), ints(0, 6, 2, 1, 3, 3, dtype="int32")],
        lambda x, i: windows.pick(x, i, (3, 2), **ORACLE)),
    row("pool_put", lambda y, i: apply(OPS["pool_put"], y, i, **{**ATTRS, "size": (5, 5)}),
        [normal(2, 1, 3, 3), ints(0, 6, 2, 1, 3, 3, dtype="int32")],
        lambda y, i: windows.put(y, i, (5, 5), (3, 2), **ORACLE)),
    row("pool_put", lambda y, i: apply(OPS["pool_put"], y, i, kernel=(9,), stride=(4,), low=(0,),
                                       dilation=(1,), size=(21,)),
        [normal(1, 4), ints(0, 9, 1, 4, dtype="int32")],
        lambda y, i: windows.put(y, i, (21,), (9,), stride=4), label="stride"),
    row("sum_pool", lambda x: ops.sum_pool(x, (3, 2), (2, 1), (1, 0)), normal(1, 2, 5, 4),
        lambda x: windows.pool(x, (3, 2), np.sum, stride=(2, 1), low=(1, 0), high=(1, 0))),
    row("sum_pool", lambda x: ops.sum_pool(x, 9, 1), normal(1, 1, 10, 9),
        lambda x: windows.pool(x, (9, 9), np.sum), label="large"),
    row("sum_pool_adjoint",
        lambda y: apply(OPS["sum_pool_adjoint"], y, **{**ATTRS, "size": (5, 5)}),
        normal(2, 1, 3, 3),
        lambda y: sum(windows.put(y, np.full(y.shape, k), (5, 5), (3, 2), **ORACLE)
                      for k in range(6))),
    row("avg_pool", lambda x: ops.avg_pool(x, 3, 2, 1), normal(1, 2, 5, 7),
        lambda x: windows.pool(x, (3, 3), mean_of_nine, stride=2, low=1, high=1)),
    row("avg_pool", lambda x: ops.avg_pool(x, 3, 2, 1, count_include_pad=False), normal(1, 2, 5, 7),
        lambda x: windows.pool(x, (3, 3), np.mean, stride=2, low=1, high=1), label="real"),
    row("avg_pool", lambda x: ops.avg_pool(x, 3, 2, ceil_mode=True), normal(1, 2, 6),
        lambda x: windows.pool(x, (3,), np.mean, stride=2, high=1), label="ceil"),
    row("avg_pool", lambda x: ops.avg_pool(x, 3, 2, divisor_override=9), normal(1, 2, 7, 7),
        lambda x: windows.pool(x, (3, 3), mean_of_nine, stride=2), label="divisor"),
    row("avg_pool1d", lambda x: ops.avg_pool1d(x, 2), normal(1, 2, 6),
        lambda x: windows.pool(x, (2,), np.mean, stride=2)),
    row("avg_pool2d", lambda x: ops.avg_pool2d(x, (1, 2)), normal(1, 2, 3, 4),
        lambda x: windows.pool(x, (1, 2), np.mean, stride=(1, 2))),
    row("avg_pool3d", lambda x: ops.avg_pool3d(x, 2, 1), normal(1, 1, 3, 2, 3),
        lambda x: windows.pool(x, (2, 2, 2), np.mean)),
    row("global_avg_pool", ops.global_avg_pool, normal(2, 3, 2, 4), lambda x: x.mean((2, 3))),
]  # fmt: skip


def standard(x, axis, eps):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + eps)


def batch(x, w, b, m, v):
    """Training batch_norm over channels of axis 1."""
    y = standard(x, (0, 2), 1e-5) * w[:, None] + b[:, None]
    return y, 0.9 * m + 0.1 * x.mean((0, 2)), 0.9 * v + 0.1 * x.var((0, 2), ddof=1)


C = [normal(4), normal(4)]
NORM = [
    row("softmax", ops.softmax, normal(3, 4), lambda x: special.softmax(x, -1)),
    row("softmax", lambda x: ops.softmax(x, (0, 2)), normal(2, 3, 4),
        lambda x: special.softmax(x, (0, 2)), label="axes"),
    row("log_softmax", lambda x: ops.log_softmax(x, 0), normal(3, 4),
        lambda x: special.log_softmax(x, 0)),
    row("layer_norm", ops.layer_norm, [normal(3, 4), *C],
        lambda x, w, b: standard(x, 1, 1e-5) * w + b),
    row("layer_norm", lambda x, w: ops.layer_norm(x, w, normalized_shape=(3, 4), eps=0.1),
        [normal(2, 3, 4), normal(3, 4)], lambda x, w: standard(x, (1, 2), 0.1) * w, label="shape"),
    row("rms_norm", ops.rms_norm, [normal(3, 4), normal(4)],
        lambda x, w: x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-6) * w),
    row("group_norm", lambda x, w, b: ops.group_norm(x, 2, w, b), [normal(2, 4, 3), *C],
        lambda x, w, b: standard(x.reshape(2, 2, 6), 2, 1e-5).reshape(2, 4, 3) * w[:, None]
        + b[:, None]),
    row("instance_norm", ops.instance_norm, [normal(2, 4, 3, 2), *C],
        lambda x, w, b: standard(x, (2, 3), 1e-5) * w[:, None, None] + b[:, None, None]),
    row("instance_norm",
        lambda x: ops.instance_norm(x, normalize_variance=False, across_channels=True),
        normal(2, 4, 3), lambda x: x - x.mean((1, 2), keepdims=True), label="mvn"),
    row("batch_norm", ops.batch_norm, [normal(3, 4, 2), *C],
        lambda x, w, b: batch(x, w, b, 0, 0)[0]),
    row("batch_norm", ops.batch_norm, [normal(3, 4, 2), *C, normal(4), positive(4)], batch, 0,
        "running"),
    row("batch_norm", lambda *xs: ops.batch_norm(*xs, training=False),
        [normal(3, 4, 2), *C, normal(4), positive(4)],
        lambda x, w, b, m, v: ((x.swapaxes(1, 2) - m) / np.sqrt(v + 1e-5) * w + b).swapaxes(1, 2),
        label="inference"),
]  # fmt: skip

LABELS = ints(0, 5, 4)
WEIGHT = between(0.5, 2.0, 5)


def nll(x, t, w, skip=None):
    kept = np.ones(t.shape) if skip is None else t != skip
    scale = w[np.where(kept, t, 0)] * kept
    picked = np.take_along_axis(x, np.where(kept, t, 0)[:, None], 1)[:, 0]
    return -(scale * picked).sum() / scale.sum()


def hinge(x, t):
    own = np.take_along_axis(x, t[:, None], 1)
    return np.maximum(x - own + 1, 0).sum(1) - 1


def binary(p, t):
    return -(t * np.log(p) + (1 - t) * np.log(1 - p))


def huber(e, delta):
    return np.where(abs(e) < delta, e * e / 2, delta * (abs(e) - delta / 2))


TWO = [distinct(3, 4), fixed(np.linspace(-1.03, 0.97, 12).reshape(3, 4))]
LOSS = [
    row("squared_error", ops.squared_error, [normal(3, 4), normal(4)], lambda x, t: (x - t) ** 2),
    row("absolute_error", ops.absolute_error, TWO, lambda x, t: abs(x - t)),
    *(row(name, getattr(ops, name), TWO, oracle)
      for name, oracle in (
          ("mse_loss", lambda x, t: ((x - t) ** 2).mean()),
          ("l1_loss", lambda x, t: abs(x - t).mean()),
          ("half_squared_error", lambda x, t: ((x - t) ** 2).sum() / 2),
          ("euclidean_loss", lambda x, t: ((x - t) ** 2).mean() / 2),
          ("huber_loss", lambda x, t: huber(x - t, 1).mean()),
          ("smooth_l1_loss", lambda x, t: huber(x - t, 1).mean()),
      )),
    row("mse_loss", lambda x, t: ops.mse_loss(x, t, "sum"), TWO, lambda x, t: ((x - t) ** 2).sum(),
        label="sum"),
    row("mse_loss", lambda x: ops.mse_loss(x, 0.5, "none"), normal(3, 4),
        lambda x: (x - 0.5) ** 2, label="none"),
    row("huber_loss", lambda x, t: ops.huber_loss(x, t, 0.4, "none"), TWO,
        lambda x, t: huber(x - t, 0.4), label="delta"),
    row("smooth_l1_loss", lambda x, t: ops.smooth_l1_loss(x, t, 0.4, "none"), TWO,
        lambda x, t: huber(x - t, 0.4) / 0.4, label="beta"),
    row("epsilon_insensitive_loss", lambda x, t: ops.epsilon_insensitive_loss(x, t, 0.3, "none"),
        TWO, lambda x, t: np.maximum(abs(x - t) - 0.3, 0)),
    row("l2_penalty", lambda x: ops.l2_penalty(x, 0.1), normal(3, 4),
        lambda x: 0.1 * (x * x).sum()),
    row("total_variation", lambda x: ops.total_variation(x, 0.01), normal(2, 4, 5),
        lambda x: np.hypot(np.hypot(np.diff(x)[:, :-1], np.diff(x, axis=1)[..., :-1]), 0.1).sum()),
    row("binary_cross_entropy", lambda p, t: ops.binary_cross_entropy(p, t, reduction="none"),
        [between(0.1, 0.9, 3, 4), between(0, 1, 3, 4)], binary),
    row("binary_cross_entropy", ops.binary_cross_entropy,
        [between(0.1, 0.9, 3, 4), between(0, 1, 3, 4), positive(4)],
        lambda p, t, w: (w * binary(p, t)).mean(), label="weight"),
    row("binary_cross_entropy_with_logits",
        lambda x, t: ops.binary_cross_entropy_with_logits(x, t, reduction="none"),
        [fixed([[0.0, -0.0, 3, -40], [1, -2, 90, -90]]), between(0, 1, 2, 4)],
        lambda x, t: np.maximum(x, 0) - x * t + np.log1p(np.exp(-abs(x)))),
    row("softmax_cross_entropy", ops.softmax_cross_entropy, [normal(4, 5), LABELS],
        lambda x, t: -special.log_softmax(x, 1)[np.arange(4), t]),
    row("softmax_cross_entropy", lambda x, t: ops.softmax_cross_entropy(x, t, 0),
        [normal(5, 4, 2), ints(0, 5, 4, 2, dtype="int8")],
        lambda x, t: -np.take_along_axis(special.log_softmax(x, 0), t[None].astype(int), 0)[0],
        label="axis"),
    row("softmax_cross_entropy", ops.softmax_cross_entropy, [normal(4, 5), positive(4, 5)],
        lambda x, t: -(t * special.log_softmax(x, 1)).sum(1), label="soft"),
    row("cross_entropy", ops.cross_entropy, [normal(4, 5), LABELS],
        lambda x, t: nll(special.log_softmax(x, 1), t, np.ones(5))),
    row("cross_entropy", lambda x, t, w: ops.cross_entropy(x, t, weight=w, ignore_index=2),
        [normal(4, 5), fixed([1, 2, 4, 1], "int64"), WEIGHT],
        lambda x, t, w: nll(special.log_softmax(x, 1), t, w, 2), label="weight"),
    row("cross_entropy", lambda x, t, w: ops.cross_entropy(x, t, weight=w),
        [normal(4, 5), positive(4, 5), WEIGHT],
        lambda x, t, w: -(w * t * special.log_softmax(x, 1)).sum(1).mean(), label="soft-weight"),
    row("nll_loss", ops.nll_loss, [normal(4, 5), LABELS], lambda x, t: nll(x, t, np.ones(5))),
    row("nll_loss", lambda x, t: ops.nll_loss(x, t, ignore_index=-100),
        [normal(4, 5), fixed([1, -100, 4, 1], "int64")],
        lambda x, t: nll(x, t, np.ones(5), -100), label="ignore"),
    row("nll_loss", lambda x, t, w: ops.nll_loss(x, t, weight=w, reduction="none"),
        [normal(2, 5, 3), ints(0, 5, 2, 3), WEIGHT],
        lambda x, t, w: -w[t] * np.take_along_axis(x, t[:, None], 1)[:, 0], label="none"),
    row("categorical_cross_entropy", ops.categorical_cross_entropy, [positive(4, 5), LABELS],
        lambda p, t: -np.log(p[np.arange(4), t])),
    row("categorical_cross_entropy", ops.categorical_cross_entropy, [positive(4, 5), normal(4, 5)],
        lambda p, t: -(t * np.log(p)).sum(1), label="soft"),
    row("kl_multinomial", ops.kl_multinomial, [positive(3, 4), positive(3, 4)],
        lambda p, q: (p * np.log(p / q)).sum(1)),
    row("multiclass_hinge_loss", ops.multiclass_hinge_loss, [normal(4, 5), LABELS], hinge),
]  # fmt: skip


def threefry(key, high, low):
    """Threefry-2x32 with 20 rounds, by the paper, on arrays of uint64 cut to 32 bits."""
    mask = np.uint64(0xFFFFFFFF)
    keys = [np.uint64(key[0]), np.uint64(key[1])]
    keys.append(keys[0] ^ keys[1] ^ np.uint64(0x1BD11BDA))
    x, y = (high + keys[0]) & mask, (low + keys[1]) & mask
    for turn in range(20):
        left = np.uint64((13, 15, 26, 6, 17, 29, 16, 24)[turn % 8])
        x = (x + y) & mask
        y = ((y << left | y >> (np.uint64(32) - left)) & mask) ^ x
        if turn % 4 == 3:
            part = turn // 4 + 1
            x = (x + keys[part % 3]) & mask
            y = (y + keys[(part + 1) % 3] + np.uint64(part)) & mask
    return x, y


def words(key, shape):
    count = np.arange(np.prod(shape, dtype=int), dtype=np.uint64).reshape(shape)
    return threefry(key, count >> np.uint64(32), count & np.uint64(0xFFFFFFFF))


def bits32(key, *shape):
    x, y = words(key, shape)
    return (x ^ y).astype(np.uint32)


def bits64(key, *shape):
    x, y = words(key, shape)
    return x << np.uint64(32) | y


def folded(key, number):
    x, y = threefry(key, np.uint64(number >> 32), np.uint64(number & 0xFFFFFFFF))
    return np.array([x, y], np.uint32)


def unit(key, *shape):
    return (bits32(key, *shape) >> 8) / 2**24


KEY = fixed([17, 0xDEADBEEF], "uint32")
RANDOM = [
    row("random.bits", lambda k: random.bits(k, (3, 40)), KEY, lambda k: bits32(k, 3, 40), 0),
    row("random.bits", lambda k: random.bits(k, (), "uint64"), KEY, lambda k: bits64(k), 0, "wide"),
    row("random.key", lambda: random.key((7 << 32) + 5), [], lambda: np.array([7, 5], "uint32"), 0),
    row("random.fold_in", lambda k: random.fold_in(k, 77), KEY, lambda k: folded(k, 77), 0),
    row("random.fold_in", random.fold_in, [KEY, fixed(3 << 33, "int64")],
        lambda k, n: folded(k, int(n)), 0, "tensor"),
    row("random.split", lambda k: random.split(k, 3), KEY,
        lambda k: tuple(folded(k, n) for n in range(3)), 0),
    row("random.uniform", lambda k: random.uniform(k, (50,)), KEY,
        lambda k: unit(k, 50).astype("float32"), 0),
    row("random.uniform", lambda k, lo, hi: random.uniform(k, (5, 3), lo, hi, "float64"),
        [KEY, normal(3), between(4, 5, 3)],
        lambda k, lo, hi: lo + (bits64(k, 5, 3) >> np.uint64(11)) / 2**53 * (hi - lo),
        1, "bounds", "float64"),
    row("random.normal", lambda k: random.normal(k, (50,), 1.0, 2.0), KEY,
        lambda k: (1 + 2 * special.ndtri(unit(k, 50) + 0.5 / 2**24)).astype("float32"), 0),
    row("random.normal", lambda k: random.normal(k, (50,), dtype="float64"), KEY,
        lambda k: special.ndtri(((bits64(k, 50) >> np.uint64(11)) + 0.5) / 2**53), 0, "wide"),
    row("random.bernoulli", lambda k: random.bernoulli(k, (50,), 0.3), KEY,
        lambda k: unit(k, 50) < np.float32(0.3), 0),
    row("random.randint", lambda k: random.randint(k, (50,), -3, 9), KEY,
        lambda k: np.array([(int(b) * 12 >> 64) - 3 for b in bits64(k, 50)]), 0),
    row("dropout", lambda x, k: ops.dropout(x, 0.3, key=k), [off_zero(5, 6), KEY],
        lambda x, k: np.where(unit(k, 5, 6) < np.float32(0.3), 0, x / 0.7)),
    row("dropout", lambda x, k: ops.dropout(x, 0.3, key=k, training=False), [normal(5), KEY],
        lambda x, k: x, label="inference"),
]  # fmt: skip

LAYERS = [*INDEX, *CONV, *POOL, *NORM, *LOSS, *RANDOM]
