"""Rows for sorting, the k largest, scans and scatters."""

from __future__ import annotations

import numpy as np
from sampling import between, bools, distinct, fixed, ints, normal, row

from staticgraph import ops
from staticgraph.ir import apply
from staticgraph.registry import OPS


def best(x, k, key=lambda x: x, largest=True):
    """Values and indices of the k best along the last axis, equal ones in their order."""
    key = -key(x) if largest else key(x)
    index = np.argsort(key, axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(x, index, -1), index


def masked(x, k, axis=-1, key=np.abs):
    """x at the k best along an axis, else 0."""
    moved = np.moveaxis(x, axis, -1)
    _, index = best(moved, k, key)
    kept = np.zeros_like(moved)
    np.put_along_axis(kept, index, np.take_along_axis(moved, index, -1), -1)
    return np.moveaxis(kept, -1, axis)


def falling(x, axis=-1):
    return np.flip(np.sort(x, axis), axis)


def overwritten(shape, index, updates):
    y = np.zeros(shape, updates.dtype)
    y[tuple(np.moveaxis(index, -1, 0))] = updates
    return y


def summed(shape, index, updates):
    y = np.zeros(shape, updates.dtype)
    np.add.at(y, tuple(np.moveaxis(index, -1, 0)), updates)
    return y


ORDERING = [
    row("sort", ops.sort, distinct(3, 7), np.sort, orders=3),
    row("sort", lambda x: ops.sort(x, 0, descending=True), distinct(5, 2, 3),
        lambda x: falling(x, 0), label="axis"),
    row("sort", lambda x: ops.sort(x, None), distinct(3, 4), lambda x: np.sort(x, None),
        label="all"),
    row("sort", lambda x: ops.sort(x, 1), distinct(2, 200), np.sort, label="long"),
    row("sort", ops.sort, distinct(0, 3), np.sort, label="empty"),
    row("sort", ops.sort, distinct(4, 1), np.sort, label="single"),
    row("sort", ops.sort, ints(-9, 9, 4, 40, dtype="int16"), np.sort, label="integers"),
    row("sort", ops.sort, bools(50), np.sort, label="bools"),
    row("argsort", ops.argsort, ints(0, 4, 3, 120), lambda x: np.argsort(x, kind="stable")),
    row("argsort", lambda x: ops.argsort(x, 0, True), ints(0, 4, 30, 2, dtype="uint8"),
        lambda x: np.argsort(-x.astype(int), 0, kind="stable"), label="falling"),
    row("argsort", ops.argsort, fixed([0.0, np.nan, -0.0, np.inf, -np.inf, np.nan, 1.0]),
        lambda x: np.argsort(x, kind="stable"), orders=0, label="special"),
    row("unsort", lambda x, i: apply(OPS["unsort"], x, ops.argsort(i)),
        [normal(3, 6), ints(0, 99, 3, 6)],
        lambda x, i: np.take_along_axis(x, np.argsort(np.argsort(i, kind="stable")), -1)),
    row("top_k", lambda x: ops.top_k(x, 3), distinct(4, 9), lambda x: best(x, 3), orders=3),
    row("top_k", lambda x: ops.top_k(x, 2, axis=0, abs=True)[0], distinct(7, 3),
        lambda x: best(x.T, 2, np.abs)[0].T, label="abs"),
    row("top_k", lambda x: ops.top_k(x, 100, largest=False), distinct(2, 700),
        lambda x: best(x, 100, largest=False), label="smallest"),
    row("top_k", lambda x: ops.top_k(x, 5), ints(0, 3, 2, 60), lambda x: best(x, 5), label="ties"),
    row("top_k", lambda x: ops.top_k(x, 0), distinct(2, 4), lambda x: best(x, 0), label="none"),
    row("top_k_mask", lambda x: ops.top_k_mask(x, 2, axis=0, abs=True), distinct(5, 3),
        lambda x: masked(x, 2, 0)),
    row("top_k_mask", lambda x: ops.top_k_mask(x, 3), ints(0, 9, 3, 8),
        lambda x: masked(x, 3, key=lambda x: x), label="integers"),
    # Its derivative is not that of its value; test_order has its own.
    row("top_k_grad", lambda x: ops.top_k_grad(x, 2), normal(3, 4), np.array, orders=0),
    row("searchsorted", ops.searchsorted, [fixed([0.0, 1.0, 1.0, 2.5, np.inf, np.nan]),
        fixed([[1.0, -1.0, np.nan], [np.inf, 3.0, 0.0]])], np.searchsorted, orders=0),
    row("searchsorted", lambda a, v: ops.searchsorted(a, v, "right"),
        [fixed(np.arange(40) // 3, "int64"), ints(-2, 15, 3, 5)],
        lambda a, v: np.searchsorted(a, v, "right"), label="right"),
    row("searchsorted", lambda a, v: ops.searchsorted(ops.sort(a), v),
        [normal(3, 17), normal(3, 4)],
        lambda a, v: np.stack([np.searchsorted(np.sort(r), s) for r, s in zip(a, v, strict=True)]),
        orders=0, label="rows"),
    row("quantile", lambda x: ops.quantile(x, [0.0, 0.3, 1.0], 1), distinct(3, 5),
        lambda x: np.quantile(x, [0.0, 0.3, 1.0], 1)),
    row("quantile", lambda x: ops.quantile(x, 0.4, (0, 2), True, "nearest"), distinct(3, 2, 4),
        lambda x: np.quantile(x, 0.4, (0, 2), keepdims=True, method="nearest"), label="nearest"),
    row("median", ops.median, distinct(3, 4), np.median),
    row("median", lambda x: ops.median(x, 0), fixed([[1.0, np.nan], [np.inf, 2.0], [np.inf, 1.0]]),
        lambda x: np.median(x, 0), orders=0, label="special"),
]  # fmt: skip


def recurrence(a, b):
    r = np.array(np.broadcast_to(a, np.broadcast_shapes(a.shape, b.shape)))
    for k in range(1, r.shape[-1]):
        r[..., k] += b[..., k] * r[..., k - 1]
    return r


def behind(x, first, accumulate):
    """An exclusive scan of the last axis."""
    y = accumulate(x, -1)[..., :-1]
    return np.concatenate([np.full((*y.shape[:-1], 1), first, y.dtype), y], -1)


def backwards(function):
    return lambda x: function(x[..., ::-1])[..., ::-1]


SCANS = [
    row("cumsum", ops.cumsum, normal(3, 4), np.cumsum, orders=3),
    row("cumsum", lambda x: ops.cumsum(x, 0, reverse=True), normal(5, 3),
        lambda x: x[::-1].cumsum(0)[::-1], label="columns"),
    row("cumsum", lambda x: ops.cumsum(x, 1, exclusive=True), normal(2, 35),
        lambda x: behind(x, 0, np.cumsum), label="exclusive"),
    row("cumsum", lambda x: ops.cumsum(x, -1, True, True), normal(2, 3, 18),
        backwards(lambda x: behind(x, 0, np.cumsum)), label="back"),
    row("cumsum", lambda x: ops.cumsum(x, 1), bools(2, 20), lambda x: np.cumsum(x, 1),
        label="bools"),
    row("cumsum", lambda x: ops.cumsum(x, 0, dtype="int32"), ints(-9, 9, 21, 3),
        lambda x: np.cumsum(x, 0, "int32"), label="integers"),
    row("cumsum", lambda x, y: ops.real(ops.cumsum(ops.complex_(x, y) * 1j, -1)),
        [normal(2, 5), normal(2, 5)], lambda x, y: -np.cumsum(y, -1), label="complex"),
    row("cumsum", lambda x: ops.cumsum(x, 1), normal(2, 0), lambda x: np.cumsum(x, 1),
        label="empty"),
    row("cumprod", lambda x: ops.cumprod(x, 1), normal(3, 5), lambda x: np.cumprod(x, 1), orders=3),
    row("cumprod", lambda x: ops.cumprod(x, 1),
        fixed([[0.0, 1.5, -2.0, 3.0], [2.0, 0.0, 3.0, 0.0], [1.2, -1.0, 2.0, 0.0]]),
        lambda x: np.cumprod(x, 1), label="zeros"),
    row("cumprod", lambda x: ops.cumprod(x, 0, True), between(0.5, 1.5, 19, 2),
        lambda x: behind(x.T, 1, np.cumprod).T, label="exclusive"),
    row("cumprod", lambda x: ops.cumprod(x, 1, True, True), between(0.5, 1.5, 2, 19),
        backwards(lambda x: behind(x, 1, np.cumprod)), label="back"),
    row("cumprod", ops.cumprod, ints(1, 4, 20, dtype="uint8"), np.cumprod, label="integers"),
    row("cumprod", lambda x, y: ops.real(ops.cumprod(ops.complex_(x, y), 1)),
        [normal(2, 4), normal(2, 4)], lambda x, y: np.cumprod(x + 1j * y, 1).real, label="complex"),
    row("cummax", ops.cummax, distinct(3, 9), lambda x: np.maximum.accumulate(x.ravel())),
    row("cummax", lambda x: ops.cummax(x, 1, reverse=True), distinct(2, 40),
        backwards(lambda x: np.maximum.accumulate(x, 1)), label="back"),
    row("cummax", lambda x: ops.cummax(x, 0), fixed([1.0, -np.inf, np.nan, 2.0, np.inf]),
        np.maximum.accumulate, orders=0, label="special"),
    row("cummin", lambda x: ops.cummin(x, 0), distinct(9, 3), np.minimum.accumulate),
    row("cummin", lambda x: ops.cummin(x, 1), ints(-99, 99, 2, 33), label="integers",
        oracle=lambda x: np.minimum.accumulate(x, 1)),
    row("logcumsumexp", lambda x: ops.logcumsumexp(x, 1), normal(2, 19),
        lambda x: np.logaddexp.accumulate(x, 1), orders=3),
    row("logcumsumexp", lambda x: ops.logcumsumexp(x, 0, True), between(-5, 5, 6, 2),
        lambda x: np.logaddexp.accumulate(x[::-1], 0)[::-1], label="back"),
    row("logcumsumexp", ops.logcumsumexp, fixed([-np.inf, -np.inf, 1.0, -np.inf, 800.0]),
        np.logaddexp.accumulate, orders=0, label="special"),
    row("linear_scan", ops.linear_scan, [normal(3, 5), normal(3, 5)], recurrence, orders=3),
    row("linear_scan", lambda a, b: ops.linear_scan(a, b, 0, True), [normal(6, 3), normal(6, 1)],
        lambda a, b: recurrence(a[::-1].T, b[::-1].T).T[::-1], label="back"),
    row("linear_scan", ops.linear_scan, [normal(2, 40), between(-1, 1, 40)], recurrence,
        label="long"),
    row("linear_scan", ops.linear_scan, [ints(-3, 3, 20), ints(-2, 2, 20)], recurrence,
        label="integers"),
]  # fmt: skip

SCATTERS = [
    row("scatter_nd", lambda u, i: ops.scatter_nd(u, i, (4, 3)), [normal(6, 3), ints(-4, 4, 6, 1)],
        lambda u, i: overwritten((4, 3), i, u)),
    row("scatter_nd", lambda u, i: ops.scatter_nd(u, i, (4, 3)),
        [normal(2, 5), ints(0, 3, 2, 5, 2, dtype="int32")],
        lambda u, i: overwritten((4, 3), i, u), label="pairs"),
    row("scatter_nd", lambda u: ops.scatter_nd(u, [[1, 2], [1, 2], [0, -1]], (2, 3)), normal(3),
        lambda u: overwritten((2, 3), np.array([[1, 2], [1, 2], [0, -1]]), u), label="known"),
    row("scatter_nd", lambda u, i: ops.scatter_nd(u, i, (4, 3), add=True),
        [normal(6, 3), ints(-4, 4, 6, 1)], lambda u, i: summed((4, 3), i, u), label="add"),
    row("scatter_nd", lambda u, i: ops.scatter_nd(u, i, (5,)), [bools(9), ints(0, 5, 9, 1)],
        lambda u, i: overwritten((5,), i, u), label="bools"),
]  # fmt: skip

ORDER = [*ORDERING, *SCANS, *SCATTERS]
