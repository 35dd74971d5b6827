"""How memory is walked: rows whose length is no multiple of the lanes, one lane among all, results
larger than the caches, and operands read across their rows."""

from __future__ import annotations

import numpy as np
import pytest

import staticgraph as sg
from staticgraph.codegen import ahead, select

ops = sg.ops


@pytest.fixture
def small_caches(monkeypatch):
    """Results of 4 KiB ask for their lines, those of 8 KiB go past the caches."""
    monkeypatch.setattr(select, "_codes", {})
    monkeypatch.setattr(ahead, "CLAIMED", 1 << 12)
    monkeypatch.setattr(ahead, "PAST", 1 << 13)


def shifted(shape, dtype, offset):
    """An array whose address is `offset` bytes past a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    return raw[start : start + size].view(dtype).reshape(shape)


@pytest.mark.parametrize("offset", [0, 16, 32])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("n", [1023, 1040, 4096, 40_000, 40_003])
def test_long_maps(small_caches, rng, n, dtype, offset):
    """Values, whatever the length and the address; nothing beside the result is written."""
    x, y = sg.input("x", (n,), dtype), sg.input("y", (n,), dtype)
    fn = sg.compile(x * y - x, [x, y])
    a, b = (rng.standard_normal(n).astype(dtype) for _ in range(2))
    out = shifted((n + 8,), dtype, offset)
    out[:] = 7
    fn(a, b, out=out[:n])
    np.testing.assert_allclose(out[:n], a * b - a, rtol=1e-5)
    assert (out[n:] == 7).all()


def test_which_maps_go_past_the_caches(small_caches):
    def source(n, dtype="float32"):
        x = sg.input("x", (n,), dtype)
        return "".join(k.source for k in sg.compile(x * x, [x]).kernels)

    def words(*form):
        return {word for word in ("claim_", "flow_", "settle") if word in source(*form)}

    assert words(512) == set()
    assert words(1040) == {"claim_"}
    assert words(4096) == {"flow_", "settle"}
    assert words(4097) == {"claim_"}  # its last line is shared
    assert words(1 << 14, "int8") == {"claim_"}  # sixteen lanes are no whole line


def test_what_follows_a_product_stays_in_the_caches(small_caches):
    x, w = sg.input("x", (64, 64)), sg.input("w", (64, 64))
    (kernel,) = sg.compile(ops.relu(x @ w + 1.0), [x, w]).kernels
    assert "maximum" in kernel.source or "select" in kernel.source
    assert "flow_" not in kernel.source


def test_several_results_in_place(small_caches, rng):
    """An update past the caches, beside a result that another thread reads next."""
    state = rng.standard_normal(1 << 14).astype("f")
    v = sg.variable(state, name="v")
    x = sg.input("x", (1 << 14,))
    step = sg.compile(ops.sum(ops.sqrt(abs(v)) * x), [x], updates={v: v * 0.5 + x})
    given = rng.standard_normal(1 << 14).astype("f")
    for _ in range(3):
        want = np.sum(np.sqrt(np.abs(state)).astype("d") * given)
        np.testing.assert_allclose(step(given), want, rtol=1e-4)
        state = state * np.float32(0.5) + given
        np.testing.assert_array_equal(v.value, state)


@pytest.mark.parametrize("columns", [255, 256, 257, 300, 1000, 1009])
def test_rows_end_with_their_odd_lanes(columns, rng):
    x = sg.input("x", (5, columns))
    fn = sg.compile([ops.softmax(x), ops.max(x, axis=1), ops.sum(x, axis=1)], [x])
    a = rng.standard_normal((5, columns)).astype("f") - 3  # below zero: a lane too many would show
    e = np.exp(a.astype("d") - a.max(1, keepdims=True))
    soft, most, total = fn(a)
    np.testing.assert_allclose(soft, e / e.sum(1, keepdims=True), rtol=2e-5)
    np.testing.assert_array_equal(most, a.max(1))
    np.testing.assert_allclose(total, a.sum(1, dtype="d"), rtol=1e-5)


@pytest.mark.parametrize("columns", [1, 16, 40, 300])
def test_one_lane_among_all(columns):
    """Equality of a position with a number that may be anything."""
    label = sg.input("label", (12,), "int64")
    column = ops.arange(columns)
    hit = ops.equal(column, ops.expand_dims(label, 1))
    moved = ops.equal(ops.expand_dims(label, 1), column + 3)
    fn = sg.compile([hit, moved], [label])
    given = np.array(
        [0, 3, 15, 16, 17, columns - 1, columns, columns + 2, -1, -(2**63), 2**63 - 1, 2**32 + 1]
    )
    got, got_moved = fn(given)
    np.testing.assert_array_equal(got, np.arange(columns) == given[:, None])
    np.testing.assert_array_equal(got_moved, np.arange(columns) + 3 == given[:, None])


TURNS = [
    ((200, 304), (1, 0)),
    ((304, 200), (1, 0)),
    ((64, 48, 100), (2, 1, 0)),
    ((10, 333, 1000), (0, 2, 1)),
    ((1009, 1000), (1, 0)),
    ((1000, 1009), (1, 0)),  # 1009 rows are no whole number of any block: lanes gather
    ((12, 13, 14, 40), (3, 1, 0, 2)),
    ((2048, 16), (1, 0)),
    ((24, 5000), (1, 0)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "complex64", "int8"])
@pytest.mark.parametrize(("shape", "order"), TURNS)
def test_operands_read_across_their_rows(shape, order, dtype, rng):
    a = (rng.standard_normal(shape) * 50).astype(dtype)
    b = (rng.standard_normal(a.transpose(order).shape) * 50).astype(dtype)
    x, y = sg.input("x", shape, dtype), sg.input("y", b.shape, dtype)
    fn = sg.compile([ops.transpose(x, order) * y, ops.transpose(x, order)], [x, y])
    product, moved = fn(a, b)
    np.testing.assert_array_equal(moved, a.transpose(order))
    np.testing.assert_allclose(product, a.transpose(order) * b, rtol=1e-5)


def test_which_operands_are_turned():
    def turns(shape, order, dtype="float32"):
        x = sg.input("x", shape, dtype)
        kernels = sg.compile(ops.transpose(x, order) + 1, [x]).kernels
        return "turn_0" in "".join(k.source for k in kernels)

    assert turns((256, 256), (1, 0))
    assert turns((8, 128, 64), (0, 2, 1))
    assert not turns((1000, 1009), (1, 0))
    assert not turns((64, 64), (1, 0))
    assert not turns((256, 256), (1, 0), "int8")
