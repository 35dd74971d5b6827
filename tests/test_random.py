"""Random numbers: distributions by their statistics, and that they are functions of the key alone.

Seeds are fixed, so a test that passes keeps passing; the p-values that it accepts would fail one
sound generator in ten thousand.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from scipy import stats

import staticgraph as sg
from staticgraph import ops
from staticgraph.gradient import grad

random = importlib.import_module("staticgraph.ops.random")

N = 20_000
KEY = random.key(2024)
WIDE = {"dtype": "float64"}
P = 1e-4

#: distribution, what it draws of N numbers, SciPy's distribution function
CONTINUOUS = {
    "uniform": (lambda **o: random.uniform(KEY, (N,), **o), stats.uniform().cdf),
    "uniform within": (lambda **o: random.uniform(KEY, (N,), -2.0, 5.0, **o),
                       stats.uniform(-2, 7).cdf),
    "normal": (lambda **o: random.normal(KEY, (N,), **o), stats.norm().cdf),
    "normal moved": (lambda **o: random.normal(KEY, (N,), 3.0, 0.5, **o), stats.norm(3, 0.5).cdf),
    "exponential": (lambda **o: random.exponential(KEY, (N,), **o), stats.expon().cdf),
    "exponential scaled": (lambda **o: random.exponential(KEY, (N,), 2.5, **o),
                           stats.expon(scale=2.5).cdf),
    "gumbel": (lambda **o: random.gumbel(KEY, (N,), **o), stats.gumbel_r().cdf),
    "gumbel moved": (lambda **o: random.gumbel(KEY, (N,), -1.0, 2.0, **o),
                     stats.gumbel_r(-1, 2).cdf),
    "truncated normal": (lambda **o: random.truncated_normal(KEY, (N,), **o),
                         stats.truncnorm(-2, 2).cdf),
    "truncated on one side": (lambda **o: random.truncated_normal(KEY, (N,), 0.5, np.inf, **o),
                              stats.truncnorm(0.5, np.inf).cdf),
    "truncated, narrow": (lambda **o: random.truncated_normal(KEY, (N,), 1.0, 1.5, **o),
                          stats.truncnorm(1, 1.5).cdf),
}  # fmt: skip


def drawn(t):
    return sg.compile(t, [])()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_distribution(name, dtype):
    """Kolmogorov and Smirnov."""
    draw, cdf = CONTINUOUS[name]
    x = drawn(draw(dtype=dtype))
    assert x.dtype == dtype
    assert np.isfinite(x).all()
    assert stats.kstest(x.astype("float64"), cdf).pvalue > P


def test_the_test_tells_distributions_apart():
    x = drawn(random.normal(KEY, (N,), 0.0, 1.1))
    assert stats.kstest(x, stats.norm().cdf).pvalue < P


LOGITS = np.log([0.05, 0.2, 0.0001, 0.4, 0.3499]).astype("f")
COUNTED = {
    "categorical": (lambda: random.categorical(KEY, LOGITS, shape=(N,)), np.exp(LOGITS)),
    "categorical, shifted": (lambda: random.categorical(KEY, LOGITS + 90, shape=(N,)),
                             np.exp(LOGITS)),
    "randint": (lambda: random.randint(KEY, (N,), -3, 8) + 3, np.full(11, 1 / 11)),
    "bernoulli": (lambda: random.bernoulli(KEY, (N,), 0.3).astype("int64"), np.array([0.7, 0.3])),
    "dropout": (lambda: (ops.dropout(np.ones(N, "f"), 0.2, key=KEY) > 0).astype("int64"),
                np.array([0.2, 0.8])),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_frequencies(name):
    """Chi-square."""
    draw, chances = COUNTED[name]
    found = np.bincount(drawn(draw()), minlength=chances.size)
    assert found.size == chances.size
    assert stats.chisquare(found, chances.astype("float64") / chances.sum() * N).pvalue > P


def test_integers_of_a_wide_range():
    """Three equal parts of a range that no power of two fills."""
    third = 1 << 62
    parts = drawn(random.randint(KEY, (N,), 0, 3 * third, "uint64") // np.uint64(third))
    assert stats.chisquare(np.bincount(parts.astype("int64"), minlength=3)).pvalue > P
    low, high = -(3 << 61), (3 << 61) - 5
    signed = drawn(random.randint(KEY, (N,), low, high))
    assert low <= signed.min() < -(2 << 61) < (2 << 61) < signed.max() < high


def test_categorical_of_several_rows():
    logits = np.array([[-np.inf, 0, -np.inf], [0, 0, -np.inf], [5, -np.inf, 5]], "f")
    found = drawn(random.categorical(KEY, logits, shape=(4000, 3)))
    assert set(found[:, 0]) == {1}
    assert set(found[:, 1]) == {0, 1}
    assert set(found[:, 2]) == {0, 2}
    np.testing.assert_allclose(found.mean(0), [1, 0.5, 1], atol=0.05)
    assert drawn(random.categorical(KEY, logits)).shape == (3,)
    assert drawn(random.categorical(KEY, logits, axis=0, shape=(2, 3))).shape == (2, 3)


def test_rrelu_slopes_are_uniform():
    slopes = -drawn(ops.rrelu(np.full(N, -1.0, "f"), 0.2, 0.7, key=KEY))
    assert stats.kstest(slopes, stats.uniform(0.2, 0.5).cdf).pvalue > P


def test_rrelu_gradient_has_the_same_slopes():
    x = sg.input("x", (64,))
    y = ops.rrelu(x, key=KEY)
    value, gradient = sg.compile([y, grad(y.sum(), x)])(np.linspace(-2, 2, 64).astype("f"))
    np.testing.assert_allclose(value, gradient * np.linspace(-2, 2, 64), rtol=1e-6)


def test_ends_are_finite():
    """The bits whose numbers lie furthest out, through what each distribution does to them."""
    for dtype, width in (("float32", 24), ("float64", 53)):
        ends = np.array([1, 2**width - 1]) * 2.0**-width  # of the open unit interval
        u = sg.constant(ends.astype(dtype))
        assert np.isfinite(drawn(-ops.log(-ops.log(u)))).all()
    x = drawn(random.truncated_normal(KEY, (N,), -np.inf, np.inf))
    assert np.isfinite(x).all()


DRAWS = {
    "normal": lambda k, n: random.normal(k, (n,)),
    "gumbel": lambda k, n: random.gumbel(k, (n,)),
    "exponential": lambda k, n: random.exponential(k, (n,)),
    "truncated_normal": lambda k, n: random.truncated_normal(k, (n,)),
    "rrelu": lambda k, n: ops.rrelu(np.full(n, -1.0, "f"), key=k),
}


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_are_functions_of_the_key(name):
    """The same key gives the same bits, alone, fused, on any thread count; another key others."""
    draw = DRAWS[name]
    key = sg.input("key", (2,), "uint32")
    y = draw(key, 40_000)
    alone, beside = sg.compile(y, [key]), sg.compile([y, ops.exp(y).sum()], [key])
    numbers = np.array([1, 2], "uint32")
    first = alone(numbers)
    with sg.threads(1):
        np.testing.assert_array_equal(alone(numbers), first)
    with sg.threads(3):
        np.testing.assert_array_equal(beside(numbers)[0], first)
    np.testing.assert_array_equal(drawn(draw(numbers, 100)), first[:100])
    assert (alone(np.array([1, 3], "uint32")) == first).mean() < 0.01


def test_keys_of_a_split_are_independent():
    a, b = (drawn(random.normal(k, (N,))) for k in random.split(KEY))
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(N)


@pytest.mark.parametrize("name", ["normal", "gumbel", "uniform"])
def test_derivatives_run_through_parameters(name):
    """The draw is loc + scale * z: its gradients are 1 and z."""
    loc, scale = sg.input("loc", (), "float64"), sg.input("scale", (), "float64")
    second = loc + scale if name == "uniform" else scale
    y = getattr(random, name)(KEY, (50,), loc, second, "float64")
    plain = getattr(random, name)(KEY, (50,), **WIDE)
    d_loc, d_scale, z = sg.compile([*grad(y.sum(), [loc, scale]), plain], [loc, scale])(3.0, 2.0)
    np.testing.assert_allclose(d_loc, 50, rtol=1e-12)
    np.testing.assert_allclose(d_scale, z.sum(), rtol=1e-12)
