"""Map-reduces over pairs never hold all pairs in memory, neither do their gradients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax

import staticgraph as sg

ops = sg.ops
N, M = 400, 300


def squares(x, y):
    d = x[:, None, :] - y[None, :, :]
    return (d * d).sum(axis=-1)


def products(x, y):
    """The same distances by way of a thin matrix product."""
    return (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1) - 2.0 * (x @ y.T)


def gauss(x, y, b):
    k = np.exp(-cdist(x, y, "sqeuclidean"))
    return k, k @ b


def newton(x, y, b):
    d = x[:, None] - y[None]
    return ((d * ((d**2).sum(-1) + 0.1)[..., None] ** -1.5) * b[:, None]).sum(1)


CASES = {
    "rbf": (lambda x, y, b: (ops.exp(-squares(x, y)) * b).sum(axis=1),
            lambda x, y, b: gauss(x, y, b)[1]),
    "rbf by product": (lambda x, y, b: ops.exp(-squares(x, y)) @ b,
                       lambda x, y, b: gauss(x, y, b)[1]),
    "rbf of columns": (lambda x, y, b: ops.exp(-products(x, y)) @ ops.stack([b, b * b], axis=1),
                       lambda x, y, b: gauss(x, y, np.stack([b, b * b], 1))[1]),
    "softmin": (lambda x, y, b: -ops.logsumexp(b - squares(x, y), axis=1),
                lambda x, y, b: -logsumexp(b - cdist(x, y, "sqeuclidean"), axis=1)),
    "nearest": (lambda x, y, b: squares(x, y).min(axis=1),
                lambda x, y, b: cdist(x, y, "sqeuclidean").min(axis=1)),
    "n-body": (lambda x, y, b: ((x[:, None, :] - y[None, :, :])
                                * ((squares(x, y) + 0.1) ** -1.5)[:, :, None]
                                * b[:, None]).sum(axis=1), newton),
    "both ways": (lambda x, y, b: ops.concat([(ops.exp(-squares(x, y)) * b).sum(axis=1),
                                              ops.exp(-squares(x, y)).sum(axis=0)]),
                  lambda x, y, b: np.concatenate([gauss(x, y, b)[1], gauss(x, y, b)[0].sum(0)])),
    "attention of points": (lambda x, y, b: (ops.softmax(-squares(x, y), axis=1) * b).sum(axis=1),
                            lambda x, y, b: softmax(-cdist(x, y, "sqeuclidean"), axis=1) @ b),
}  # fmt: skip


def leaves(dtype="float32"):
    return [sg.input("x", (N, 3), dtype), sg.input("y", (M, 3), dtype), sg.input("b", (M,), dtype)]


def arrays(dtype="float32"):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s).astype(dtype) for s in ((N, 3), (M, 3), (M,))]


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_in_linear_memory(name):
    build, oracle = CASES[name]
    inputs = leaves()
    f = build(*inputs)
    value = sg.compile(f, inputs)
    gradient = sg.compile([f, *sg.grad((f * f).sum(), inputs)], inputs)
    given = arrays()
    expected = oracle(*(a.astype("float64") for a in given))
    np.testing.assert_allclose(value(*given), expected, rtol=2e-4, atol=2e-4)
    # All pairs in float32 are 480,000 bytes. Partial sums of tiles and columns are what is left.
    assert value.memory.peak_bytes < 20_000
    assert gradient.memory.peak_bytes < 240_000
    np.testing.assert_allclose(gradient(*given)[0], expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", CASES)
def test_gradients_against_differences(name):
    build, oracle = CASES[name]
    inputs = leaves("float64")
    f = build(*inputs)
    got = sg.compile(sg.grad((f * f).sum(), inputs), inputs)(*arrays("float64"))
    given = arrays("float64")
    rng = np.random.default_rng(1)
    for k, g in enumerate(got):
        along = rng.standard_normal(g.shape)
        h = 1e-6
        ends = []
        for sign in (1, -1):
            moved = [a + sign * h * along if j == k else a for j, a in enumerate(given)]
            ends.append((oracle(*moved) ** 2).sum())
        slope = (ends[0] - ends[1]) / (2 * h)
        np.testing.assert_allclose((g * along).sum(), slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_without_fusion(name):
    build, _ = CASES[name]
    inputs = leaves()
    f = build(*inputs)
    outputs = [f, *sg.grad((f * f).sum(), inputs)]
    fused = sg.compile(outputs, inputs)(*arrays())
    plain = sg.compile(outputs, inputs, pipeline="none")(*arrays())
    for a, b in zip(fused, plain, strict=True):
        np.testing.assert_array_equal(a, b)


def test_memory_grows_with_points_not_with_pairs():
    peaks = []
    for n in (4096, 8192, 16384):
        x = sg.input("x", (n, 3))
        k = ops.exp(-squares(x, x)).sum(axis=1)
        fn = sg.compile([k, sg.grad(ops.log(k).sum(), x)], [x])
        peaks.append(fn.memory.peak_bytes)
    assert peaks[2] < 4.5 * peaks[0]


def test_values_that_are_asked_for_are_there():
    x, y, _ = leaves()
    d = squares(x, y)
    given = arrays()
    far, near, every = sg.compile([d.max(axis=1), d.min(axis=0), d], [x, y])(*given[:2])
    expected = cdist(given[0], given[1], "sqeuclidean")
    np.testing.assert_allclose(every, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(far, every.max(axis=1))
    np.testing.assert_array_equal(near, every.min(axis=0))
