"""Rows for contractions by subscripts, recurrent layers and linear layers of sparse inputs."""

from __future__ import annotations

from functools import partial

import numpy as np
from sampling import fixed, ints, normal, row
from scipy.special import expit

from staticgraph import ops

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

CONTRACT = [*EINSUM, *RECURRENT, *SPARSE]
