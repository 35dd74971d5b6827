"""Rows for contractions by subscripts, recurrent layers and linear layers of sparse inputs."""

from __future__ import annotations

from functools import partial

import numpy as np
from sampling import Draw, fixed, ints, normal, row
from scipy.special import expit

from staticgraph import ops
from staticgraph.ir import apply
from staticgraph.registry import OPS

N, WIDE, H = 2, 3, 4


def einsum(subscripts, *shapes, label):
    return row(
        "einsum",
        partial(ops.einsum, subscripts),
        [normal(*s) for s in shapes],
        partial(np.einsum, subscripts),
        label=label,
    )


EINSUM = [
    einsum("ij,jk->ik", (3, 4), (4, 5), label="product"),
    einsum("bij,bkj->bik", (2, 3, 4), (2, 5, 4), label="batch"),
    einsum("i,j->ij", (3,), (4,), label="outer"),
    einsum("ijk->k", (2, 3, 4), label="sum"),
    einsum("ii->i", (4, 4), label="diagonal"),
    einsum("ii", (4, 4), label="trace"),
    einsum("iij,j", (3, 3, 4), (4,), label="implicit"),
    einsum("...ij,...j", (2, 3, 4), (4,), label="ellipsis"),
    einsum("ab,bc,cd,de->ae", (2, 3), (3, 4), (4, 2), (2, 3), label="chain"),
    einsum("abc,cd,be,ad->e", (2, 3, 4), (4, 5), (3, 6), (2, 5), label="network"),
    einsum("ij,ij->", (3, 4), (3, 4), label="inner"),
    einsum("ij,jk", (3, 1), (4, 2), label="one"),
    einsum("ij,jk->ik", (0, 4), (4, 2), label="empty"),
    row("tensordot", ops.tensordot, [normal(2, 3, 4), normal(3, 4, 5)], np.tensordot),
    row("tensordot", partial(ops.tensordot, axes=0), [normal(2), normal(3)],
        partial(np.tensordot, axes=0), label="outer"),
    row("tensordot", partial(ops.tensordot, axes=((0, 2), (1, 0))), [normal(2, 3, 4), normal(4, 2)],
        partial(np.tensordot, axes=((0, 2), (1, 0))), label="axes"),
]  # fmt: skip


# ---------------------------------------------------------------------------- recurrent


def rnn_step(x, state, w, u, b=0.0, d=0.0, phi=np.tanh):
    return (phi(x @ w.T + b + state[0] @ u.T + d),)


def lstm_step(x, state, w, u, b=0.0, d=0.0):
    a = x @ w.T + b + state[0] @ u.T + d
    i, f, g, o = np.split(a, 4, axis=-1)
    c = expit(f) * state[1] + expit(i) * np.tanh(g)
    return expit(o) * np.tanh(c), c


def gru_step(x, state, w, u, b=0.0, d=0.0):
    p, q = x @ w.T + b, state[0] @ u.T + d
    (pr, pz, pn), (qr, qz, qn) = np.split(p, 3, axis=-1), np.split(q, 3, axis=-1)
    z = expit(pz + qz)
    n = np.tanh(pn + expit(pr + qr) * qn)
    return ((1 - z) * n + z * state[0],)


def layers(step, x, state, params, directions=1, lengths=None):
    """All layers, one sequence, one direction and one step at a time."""
    each = 4
    finals = []
    for layer in range(len(params) // (each * directions)):
        sides = []
        for d in range(directions):
            k = layer * directions + d
            weights = params[k * each : (k + 1) * each]
            y = np.zeros((*x.shape[:2], weights[1].shape[1]))
            last = [s[k].copy() for s in state]
            for n in range(x.shape[1]):
                end = x.shape[0] if lengths is None else lengths[n]
                now = tuple(s[k][n] for s in state)
                for t in reversed(range(end)) if d else range(end):
                    now = step(x[t, n], now, *weights)
                    y[t, n] = now[0]
                for s, value in zip(last, now, strict=True):
                    s[n] = value
            sides.append(y)
            finals.append(last)
        x = np.concatenate(sides, axis=-1)
    return [x, *(np.stack([f[j] for f in finals]) for j in range(len(state)))]


def weights(gates, layers_=1, directions=1):
    """Shapes of the parameters in PyTorch's order."""
    found = []
    for layer in range(layers_):
        wide = WIDE if layer == 0 else H * directions
        for _ in range(directions):
            found += [(gates * H, wide), (gates * H, H), (gates * H,), (gates * H,)]
    return found


def drawn(shapes):
    return [normal(*s) for s in shapes]


def flat(function, states, **options):
    """A layer as a function of one list of tensors, all its results in a list."""

    def build(x, *rest):
        hx = rest[:states]
        y, h = function(x, hx if states == 2 else hx[0], rest[states:], **options)
        return [y, *(h if states == 2 else [h])]

    return build


def by_hand(step, states, **options):
    return lambda x, *rest: layers(step, x, rest[:states], rest[states:], **options)


RECURRENT = [
    row("rnn_cell", ops.rnn_cell, drawn([(N, WIDE), (N, H), *weights(1)]),
        lambda x, h, *p: rnn_step(x, (h,), *p)),
    row("rnn_cell", partial(ops.rnn_cell, nonlinearity="relu"),
        drawn([(WIDE,), (H,), (H, WIDE), (H, H)]),
        lambda x, h, *p: rnn_step(x, (h,), *p, phi=lambda a: np.maximum(a, 0)), label="relu"),
    row("lstm_cell", lambda x, h, c, *p: ops.lstm_cell(x, (h, c), *p),
        drawn([(N, WIDE), (N, H), (N, H), *weights(4)]),
        lambda x, h, c, *p: lstm_step(x, (h, c), *p)),
    row("gru_cell", ops.gru_cell, drawn([(N, WIDE), (N, H), *weights(3)]),
        lambda x, h, *p: gru_step(x, (h,), *p)),
    row("rnn", flat(ops.rnn, 1), drawn([(3, N, WIDE), (1, N, H), *weights(1)]),
        by_hand(rnn_step, 1)),
    row("lstm", flat(ops.lstm, 2, bidirectional=True),
        drawn([(2, N, WIDE), (2, N, H), (2, N, H), *weights(4, 1, 2)]),
        by_hand(lstm_step, 2, directions=2), orders=1, label="bidirectional"),
    row("lstm", flat(ops.lstm, 2), drawn([(2, N, WIDE), (1, N, H), (1, N, H), *weights(4)]),
        by_hand(lstm_step, 2)),
    row("gru", flat(ops.gru, 1, num_layers=2), drawn([(2, N, WIDE), (2, N, H), *weights(3, 2)]),
        by_hand(gru_step, 1), label="layers"),
    row("gru", flat(ops.gru, 1, bidirectional=True, lengths=np.array([3, 1])),
        drawn([(3, N, WIDE), (2, N, H), *weights(3, 1, 2)]),
        by_hand(gru_step, 1, directions=2, lengths=[3, 1]), orders=1, label="lengths"),
]  # fmt: skip


# ---------------------------------------------------------------------------- sparse inputs


def sparse(rows, keys, values, weight, bias):
    dense = np.zeros((3, weight.shape[1]))
    np.add.at(dense, (rows, keys), values)
    return dense @ weight.T + bias


def indexed(keys, values, sizes, weight, bias, largest=None, shift=None):
    y = np.tile(bias, (len(sizes), 1))
    at = 0
    for b, n in enumerate(sizes):
        for k, v in zip(keys[at : at + n], values[at : at + n], strict=True):
            v = v if largest is None else np.clip(v / largest[k], -1, 1) + shift[k]
            y[b] += v * weight[k]
        at += n
    return y


SPARSE = [
    row("sparse_linear", partial(ops.sparse_linear, num_rows=3),
        [ints(0, 3, 5), ints(0, 4, 5), normal(5), normal(2, 4), normal(2)], sparse),
    row("index_linear", ops.index_linear,
        [ints(0, 4, 5), normal(5), fixed([2, 0, 3], "int64"), normal(4, 2), normal(2)], indexed),
    row("index_linear",
        lambda k, v, s, w, b, m, z: ops.index_linear(k, v, s, w, b, max_abs=m, key_bias=z),
        [ints(0, 4, 5), normal(5), fixed([2, 3], "int32"), normal(4, 2), normal(2),
         fixed([0.9, 1.7, 1.1, 2.3]), normal(4)], indexed, label="normalised"),
]  # fmt: skip

# ---------------------------------------------------------------------------- attention


def attend(q, k, v, mask=None, causal=False):
    s = np.einsum("...nd,...md->...nm", q, k) / np.sqrt(q.shape[-1])
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask
    if causal:
        s = np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return np.einsum("...nm,...me->...ne", e / e.sum(axis=-1, keepdims=True), v)


def sees(*shape):
    """A mask under which every row looks at its first key at least."""
    return Draw(lambda rng: (rng.random(shape) < 0.6) | (np.arange(shape[-1]) == 0), False)


def both():
    """Both results of the op that the public function takes the first of."""
    return lambda q, k, v: apply(OPS["attention"], q, k, v, scale=0.5, causal=False)


def with_sums(q, k, v):
    s = 0.5 * np.einsum("...nd,...md->...nm", q, k)
    p = np.exp(s)
    return [p @ v / p.sum(-1, keepdims=True), np.log(p.sum(-1))]


def slopes(q, k, v, g):
    """Cotangents of q, k and v, by the op itself."""
    y, sums = apply(OPS["attention"], q, k, v, scale=0.5, causal=True)
    return apply(OPS["attention_grad"], q, k, v, y, sums, g, scale=0.5, causal=True)


def slopes_by_hand(q, k, v, g):
    s = np.where(
        np.tri(q.shape[-2], k.shape[-2], dtype=bool), 0.5 * q @ k.swapaxes(-1, -2), -np.inf
    )
    p = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    d = g @ v.swapaxes(-1, -2)
    d = p * (d - (p * d).sum(-1, keepdims=True))
    return [0.5 * d @ k, 0.5 * d.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ g]


PRODUCTS = [
    row("matmul", partial(ops.matmul, transpose_a=True), [normal(2, 4, 3), normal(4, 5)],
        lambda a, b: np.swapaxes(a, 1, 2) @ b, label="transpose_a"),
    row("matmul", partial(ops.matmul, transpose_a=True, transpose_b=True),
        [normal(4, 3), normal(5, 4)], lambda a, b: a.T @ b.T, label="transposes"),
    row("linear", partial(ops.linear, base_axis=1), [normal(2, 3, 4), normal(5, 12)],
        lambda x, w: x.reshape(2, 12) @ w.T, label="base_axis"),
]  # fmt: skip

QKV = [normal(2, 3, 4), normal(2, 5, 4), normal(2, 5, 3)]
ATTENTION = [
    row("scaled_dot_product_attention", ops.scaled_dot_product_attention, QKV, attend),
    row("scaled_dot_product_attention",
        partial(ops.scaled_dot_product_attention, is_causal=True), QKV,
        partial(attend, causal=True), label="causal"),
    row("scaled_dot_product_attention", ops.scaled_dot_product_attention,
        [*QKV, sees(3, 5)], attend, label="mask"),
    row("scaled_dot_product_attention", ops.scaled_dot_product_attention,
        [normal(2, 2, 3, 4), normal(1, 2, 5, 4), normal(5, 3), normal(2, 1, 1, 5)],
        attend, label="bias"),
    row("scaled_dot_product_attention", ops.scaled_dot_product_attention,
        [normal(0, 4), normal(5, 4), normal(5, 3)], attend, label="empty"),
    row("attention", both(), QKV, with_sums),
    row("attention_grad", slopes, [*QKV, normal(2, 3, 3)], slopes_by_hand, orders=1),
]  # fmt: skip

CONTRACT = [*PRODUCTS, *EINSUM, *RECURRENT, *SPARSE, *ATTENTION]
