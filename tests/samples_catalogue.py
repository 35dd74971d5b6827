"""Rows for activations, norms of vectors, quantisation, margins and random layers."""

from __future__ import annotations

import importlib
from functools import partial

import numpy as np
from samples_layers import KEY, bits32, bits64, standard, unit
from sampling import between, distinct, fixed, ints, normal, off_zero, positive, row
from scipy import special

from staticgraph import ops

random = importlib.import_module("staticgraph.ops.random")

A = (3, 4)
#: both sides of the kinks at 0, +-0.5, +-1, +-3 and 6, away from each
SIDES = fixed([[-7.3, -3.4, -2.6, -1.2], [-0.8, -0.3, 0.2, 0.7], [1.4, 2.7, 3.3, 6.8]])
LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772


def elu(x, alpha=1.0, scale=1.0, inner=1.0):
    return scale * np.where(x > 0, x, alpha * np.expm1(inner * x))


def leaky(x, slope):
    return np.where(x > 0, x, slope * x)


ACTIVATIONS = [
    row("elu", lambda x: ops.elu(x, 0.7, 1.3, 0.6), SIDES, lambda x: elu(x, 0.7, 1.3, 0.6), 3,
        "scales"),
    row("selu", ops.selu, SIDES, lambda x: elu(x, ALPHA, LAMBDA), 3),
    row("celu", ops.celu, SIDES, elu),
    row("celu", lambda x: ops.celu(x, 1.7), SIDES, lambda x: elu(x, 1.7, 1, 1 / 1.7),
        label="alpha"),
    row("crelu", ops.crelu, off_zero(2, 3, 2),
        lambda x: np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], 1)),
    row("crelu", lambda x: ops.crelu(x, axis=-1), off_zero(3),
        lambda x: np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)]), label="vector"),
    row("concat_elu", lambda x: ops.concat_elu(x, 0.7), off_zero(2, 3),
        lambda x: np.concatenate([elu(x, 0.7), elu(-x, 0.7)], 1)),
    row("prelu", ops.prelu, [off_zero(2, 3, 4), normal(3)],
        lambda x, w: leaky(x, w[:, None]), 3),
    row("prelu", ops.prelu, [off_zero(2, 3), normal(1)], leaky, label="shared"),
    row("prelu", ops.prelu, [off_zero(), normal()], leaky, label="scalar"),
    row("hard_sigmoid", ops.hard_sigmoid, SIDES, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    row("hard_sigmoid", lambda x: ops.hard_sigmoid(x, slope=0.2), SIDES,
        lambda x: np.clip(0.2 * x + 0.5, 0, 1), label="slope"),
    row("hard_tanh", ops.hard_tanh, SIDES, lambda x: np.clip(x, -1, 1)),
    row("hard_tanh", lambda x: ops.hard_tanh(x, min=-3, max=0.5), SIDES,
        lambda x: np.clip(x, -3, 0.5), label="bounds"),
    row("softsign", ops.softsign, off_zero(*A), lambda x: x / (1 + abs(x)), 3),
    row("tanhshrink", ops.tanhshrink, normal(*A), lambda x: x - np.tanh(x), 3),
    row("softshrink", ops.softshrink, SIDES,
        lambda x: np.sign(x) * np.maximum(abs(x) - 0.5, 0)),
    row("softshrink", lambda x: ops.softshrink(x, 1.1), SIDES,
        lambda x: np.sign(x) * np.maximum(abs(x) - 1.1, 0), label="lambd"),
    row("softplus", lambda x: ops.softplus(x, 2.0, 5.0), SIDES,
        lambda x: np.where(2 * x > 5, x, np.logaddexp(0, 2 * x) / 2), 3, "threshold"),
    row("softplus", lambda x: ops.softplus(x, 0.5, None), SIDES,
        lambda x: np.logaddexp(0, x / 2) * 2, 3, "beta"),
    row("glu", ops.glu, normal(3, 4), lambda x: x[:, :2] * special.expit(x[:, 2:]), 3),
    row("glu", lambda x: ops.glu(x, axis=0), normal(4, 1, 3),
        lambda x: x[:2] * special.expit(x[2:]), label="axis"),
    row("sinc", ops.sinc, fixed([0.0, 1e-5, -0.03, 0.31, -0.5, 1.0, 1.7, -2.0, 5.3]), np.sinc, 3),
    row("sinc", lambda x: ops.sinc(x, normalized=False),
        fixed([0.0, -1e-5, 0.03, 0.9, -1.1, 2.2, 4.4, -9.0]), lambda x: np.sinc(x / np.pi), 3,
        "plain"),
    row("identity", ops.identity, normal(*A), lambda x: x),
    row("multiply_n", lambda *xs: ops.multiply_n(xs), [normal(*A), normal(4), normal(3, 1)],
        lambda x, y, z: x * y * z, 3),
    row("multiply_n", lambda x: ops.multiply_n([x[0], x[1], x[2]]),
        fixed([[0, 0, 2, 3], [0, 1, 0, 1.5], [4, 5, 6, 0]]), lambda x: x.prod(0), 3, "zeros"),
    row("power_layer", lambda x: ops.power_layer(x, 2.5, 0.5, 3.0), normal(*A),
        lambda x: (3 + 0.5 * x) ** 2.5, 3),
    row("power_layer", ops.power_layer, normal(*A), lambda x: x, label="defaults"),
]  # fmt: skip


def pruned(x, rate):
    size = abs(x)
    return np.where(size < np.sort(size, None)[int((x.size - 1) * rate)], 0, x)


def quantized(x, s, z, low, high):
    return np.clip(np.round(x / s) + z, low, high)


def away(x):
    return np.sign(x) * np.floor(abs(x) + 0.5)


#: exact multiples and ties of a quarter
LEVELS = fixed(np.arange(-20, 20).reshape(5, 8) / 8)
SCALE = fixed(0.25)
QUANTIZE = [
    *(row(name, partial(getattr(ops, name), ste=True), fixed([-2.5, -0.5, 0.0, 1.2, 2.5]), oracle,
          0, "ste")
      for name, oracle in (("sign", np.sign), ("round", np.round), ("ceil", np.ceil),
                           ("floor", np.floor))),
    row("straight_through", ops.straight_through(ops.sign, ops.hard_tanh), normal(*A), np.sign, 0),
    row("binary_sigmoid", ops.binary_sigmoid, fixed([-1.5, -0.2, 0.0, 0.3, 2.0]),
        lambda x: (x > 0).astype(x.dtype), 0),
    row("binary_tanh", ops.binary_tanh, fixed([-1.5, -0.2, 0.0, 0.3, 2.0]),
        lambda x: np.where(x > 0, 1.0, -1.0), 0),
    row("prune", ops.prune, normal(5, 4), lambda x: pruned(x, 0.9), 0),
    row("prune", lambda x: ops.prune(x, 0.5), fixed([3.0, -1.0, 0.5, 2.0, -2.0, 0.0]),
        lambda x: pruned(x, 0.5), 0, "half"),
    row("quantize_linear", ops.quantize_linear, [LEVELS, SCALE],
        lambda x, s: quantized(x, s, 0, -128, 127), 0),
    row("quantize_linear", lambda x, s: ops.quantize_linear(x, s, 3, dtype="uint8", ste=False),
        [between(-40, 80, 6, 5), SCALE],
        lambda x, s: quantized(x, s, 3, 0, 255).astype("uint8"), 0, "uint8"),
    row("quantize_linear",
        lambda x, s, z: ops.quantize_linear(x, s, z, narrow_range=True, ste=False),
        [between(-9, 9, 2, 3, 4), between(0.03, 0.09, 3, 1), ints(-9, 9, 3, 1)],
        lambda x, s, z: quantized(x, s, z, -127, 127).astype("int8"), 0, "channels"),
    row("quantize_linear",
        lambda x, s: ops.quantize_linear(x, s, round_mode="half_away_from_zero", dtype="int16"),
        [LEVELS, SCALE], lambda x, s: away(x / s), 0, "away"),
    row("dequantize_linear", ops.dequantize_linear, [normal(3, 4), positive(4), normal(3, 1)],
        lambda q, s, z: (q - z) * s),
    row("dequantize_linear", lambda q, s: ops.dequantize_linear(q, s, -3),
        [ints(-128, 128, 3, 4, dtype="int8"), positive()], lambda q, s: (q + 3.0) * s,
        label="int8"),
]  # fmt: skip


def p_norm(x, p, axis=None, keepdims=False):
    return (abs(x) ** p).sum(axis, keepdims=keepdims) ** (1 / p)


def columns(x):
    """Every axis but the first as one."""
    return x.reshape(x.shape[0], -1)


NORMS = [
    *(row("vector_norm", partial(ops.vector_norm, p=p), off_zero(*A), partial(p_norm, p=p), 3,
          f"{p}")
      for p in (1, 1.5, 2, 3, 4)),
    row("vector_norm", lambda x: ops.vector_norm(x, np.inf, 1, True), distinct(*A),
        lambda x: abs(x).max(1, keepdims=True), label="inf"),
    row("vector_norm", lambda x: ops.vector_norm(x, axis=(0, 2)), normal(2, 3, 4),
        lambda x: np.sqrt((x * x).sum((0, 2))), label="axes"),
    row("vector_norm", lambda x, y: ops.vector_norm(ops.complex_(x, y), 3), [normal(4), normal(4)],
        lambda x, y: p_norm(x + 1j * y, 3), label="complex"),
    row("vector_norm", ops.vector_norm, normal(0, 3), lambda x: np.zeros(()), label="empty"),
    row("normalize", ops.normalize, off_zero(*A), lambda x: x / p_norm(x, 2, 1, True)),
    row("normalize", lambda x: ops.normalize(x, 3, 0), off_zero(3, 2, 2),
        lambda x: x / p_norm(x, 3, 0, True), label="3"),
    row("normalize", lambda x: ops.normalize(x, eps=9.0), off_zero(*A), lambda x: x / 9,
        label="eps"),
    row("squared_norm", ops.squared_norm, normal(2, 3), lambda x: (x * x).sum()),
    row("squared_norm", lambda x: ops.squared_norm(x, 1, True), normal(2, 3),
        lambda x: (x * x).sum(1, keepdims=True), label="axis"),
    row("squared_norm", lambda x, y: ops.squared_norm(ops.complex_(x, y)), [normal(3), normal(3)],
        lambda x, y: (x * x + y * y).sum(), label="complex"),
    row("weight_norm", ops.weight_norm, [normal(3, 2, 4), normal(3)],
        lambda v, g: v * (g / p_norm(columns(v), 2, 1))[:, None, None]),
    row("weight_norm", lambda v, g: ops.weight_norm(v, g, -1, 0.1), [normal(3, 4), normal(4)],
        lambda v, g: v * g / np.sqrt((v * v).sum(0) + 0.1), label="dim"),
    row("gram_matrix", ops.gram_matrix, normal(3, 5), lambda x: x @ x.T),
    row("vdot", ops.vdot, [normal(2, 3), normal(6)], np.vdot),
    row("vdot", lambda x, y: abs(ops.vdot(ops.complex_(x, y), ops.complex_(y, 2 * x))),
        [normal(4), normal(4)], lambda x, y: abs(np.vdot(x + 1j * y, y + 2j * x)),
        label="complex"),
    row("trace", ops.trace, normal(3, 4), np.trace),
    row("trace", lambda x: ops.trace(x, -1), normal(2, 4, 3),
        lambda x: np.trace(x, -1, 1, 2), label="offset"),
    row("trace", ops.trace, ints(-9, 9, 3, 3, dtype="int8"),
        lambda x: np.trace(x, dtype="int64"), 0, "integer"),
    row("gram_matrix", lambda x: ops.gram_matrix(x, normalize=True), normal(2, 3, 4),
        lambda x: x @ x.swapaxes(1, 2) / 12, label="batch"),
    row("sync_batch_norm", ops.sync_batch_norm, [normal(3, 4, 2), normal(4), normal(4)],
        lambda x, w, b: standard(x, (0, 2), 1e-5) * w[:, None] + b[:, None]),
    row("sync_batch_norm",
        lambda x, m, v: ops.sync_batch_norm(x, None, None, m, v, momentum=0.3, axis=-1),
        [normal(6, 4), normal(4), positive(4)],
        lambda x, m, v: (standard(x, 0, 1e-5), 0.7 * m + 0.3 * x.mean(0),
                         0.7 * v + 0.3 * x.var(0, ddof=1)), 0, "running"),
]  # fmt: skip


def multi_margin(x, t, p=1, margin=1.0, w=None):
    """PyTorch's definition, one row at a time."""
    losses = []
    for r, k in zip(x, t, strict=True):
        z = np.maximum(0, margin - r[k] + np.delete(r, k)) ** p
        losses.append(z.sum() / r.size * (1 if w is None else w[k]))
    return np.array(losses)


def multilabel(x, t):
    losses = []
    for r, given in zip(x, t, strict=True):
        listed = given[: np.argmax(np.append(given, -1) < 0)]
        others = [i for i in range(r.size) if i not in listed]
        losses.append(sum(max(0.0, 1 - r[j] + r[i]) for j in listed for i in others) / r.size)
    return np.array(losses)


LISTS = fixed([[3, 0, -1, 1], [-1, 2, 2, 2], [1, 1, 2, -1], [0, 1, 2, 3]], "int64")
LOSSES = [
    row("squared_error", lambda x, t: ops.squared_error(x, t, "sum"), [normal(*A), normal(4)],
        lambda x, t: ((x - t) ** 2).sum(), label="sum"),
    row("soft_margin_loss", ops.soft_margin_loss,
        [normal(*A), fixed(np.outer([1, -1, 1], [1, 1, -1, -1]))],
        lambda x, t: np.log1p(np.exp(-t * x)).mean(), 3),
    row("multi_margin_loss", ops.multi_margin_loss, [normal(4, 5), ints(0, 5, 4)],
        lambda x, t: multi_margin(x, t).mean()),
    row("multi_margin_loss",
        lambda x, t, w: ops.multi_margin_loss(x, t, 2, 0.7, w, reduction="none"),
        [distinct(4, 5), ints(0, 5, 4), positive(5)],
        lambda x, t, w: multi_margin(x, t, 2, 0.7, w), label="weight"),
    row("multilabel_margin_loss", ops.multilabel_margin_loss, [normal(4, 4), LISTS],
        lambda x, t: multilabel(x, t).mean()),
    row("multilabel_margin_loss",
        lambda x: ops.multilabel_margin_loss(x, np.array([2, 0, -1]), "none"), normal(3),
        lambda x: multilabel(x[None], np.array([[2, 0, -1]]))[0], label="known"),
]  # fmt: skip


def odd_unit(key, *shape):
    return ((bits32(key, *shape) >> 8) | 1) / 2**24


def odd_wide(key, *shape):
    return ((bits64(key, *shape) >> np.uint64(11)) | np.uint64(1)) / 2**53


def rrelu(x, k):
    return leaky(x, unit(k, *x.shape) * (1 / 3 - 1 / 8) + 1 / 8)


RANDOM = [
    row("random.exponential", lambda k: random.exponential(k, (50,), 2.0), KEY,
        lambda k: (-2 * np.log1p(-unit(k, 50))).astype("float32"), 0),
    row("random.gumbel", lambda k, m: random.gumbel(k, (5, 10), m, 0.5, "float64"),
        [KEY, normal(10)], lambda k, m: m - 0.5 * np.log(-np.log(odd_wide(k, 5, 10))), 1, "",
        "float64"),
    row("random.truncated_normal", lambda k: random.truncated_normal(k, (50,), -1.0, 2.5), KEY,
        lambda k: special.ndtri(special.ndtr(-1) + odd_unit(k, 50) * (
            special.ndtr(2.5) - special.ndtr(-1))).astype("float32"), 0),
    row("random.categorical", lambda k, x: random.categorical(k, x, 0, (7, 3)),
        [KEY, fixed(np.linspace(-2, 2, 12).reshape(4, 3), "float32")],
        lambda k, x: np.argmax(x.T - np.log(-np.log(odd_unit(k, 7, 3, 4))), -1), 0),
    row("rrelu", lambda x, k: ops.rrelu(x, key=k), [off_zero(5, 6), KEY], rrelu),
    row("rrelu", lambda x: ops.rrelu(x, 0.2, 0.4, training=False), off_zero(5, 6),
        lambda x: leaky(x, 0.3), label="inference"),
]  # fmt: skip

CATALOGUE = [*ACTIVATIONS, *QUANTIZE, *NORMS, *LOSSES, *RANDOM]
