"""Intervals cover the truth as often as they say, on simulated running times."""

import numpy as np
import pytest

from staticgraph.profiling import stats


def coverage(draw, interval, truth, rounds=1000):
    hits = 0
    for _ in range(rounds):
        found = interval(draw())
        hits += found.low <= truth <= found.high
    return hits / rounds


@pytest.mark.parametrize("n", [12, 40, 150, 600])
def test_interval_of_runs_covers_the_median(n):
    rng = np.random.default_rng(n)
    found = coverage(lambda: rng.lognormal(0, 0.2, n), stats.median_interval, 1.0)
    assert 0.97 <= found <= 1


def bimodal(rng, processes, runs=20):
    """Processes lie on one of two levels (their memory layout), or near it."""
    level = np.where(rng.random(processes) < 0.5, 0.0, 0.06) + rng.normal(0, 0.02, processes)
    return [rng.lognormal(m, 0.01, runs) for m in level]


@pytest.mark.parametrize("processes", [10, 20])
def test_interval_of_processes_covers_the_median(processes):
    rng = np.random.default_rng(processes)
    found = coverage(lambda: bimodal(rng, processes), stats.process_interval, np.exp(0.03))
    assert 0.97 <= found <= 1


def test_runs_of_one_process_say_nothing_about_processes():
    """Why `process_interval` exists: pooled runs of bimodal processes are far too sure."""
    rng = np.random.default_rng(0)
    found = coverage(
        lambda: np.concatenate(bimodal(rng, 10)), stats.median_interval, np.exp(0.03), 300
    )
    assert found < 0.9


def test_interval_shrinks_with_more_runs():
    rng = np.random.default_rng(1)
    widths = []
    for n in (10, 100, 1000):
        found = stats.median_interval(rng.lognormal(0, 0.1, n))
        widths.append(found.high - found.low)
    assert widths[0] > widths[1] > widths[2]


@pytest.mark.parametrize("n", [390, 399, 400, 401, 410])
def test_large_samples_continue_the_exact_rule(n):
    exact = stats._rank(400)
    assert abs(stats._rank(n) - exact - (n - 400) / 2) < 3


def test_student():
    scipy_stats = pytest.importorskip("scipy.stats")
    for freedom in range(1, 21):
        assert stats.student(freedom) == pytest.approx(scipy_stats.t.ppf(0.995, freedom), abs=1e-3)
    assert stats.student(40) >= scipy_stats.t.ppf(0.995, 40) - 1e-3


def test_outliers():
    quiet = np.full(20, 1.0)
    quiet[3] = 1.0005
    assert not stats.outliers(quiet).any()
    loud = np.append(np.linspace(1, 1.1, 20), [3.0, 0.2])
    assert stats.outliers(loud).tolist() == [False] * 20 + [True, False]
    assert not stats.outliers([1.0, 9.0]).any()


def test_warm_up_ends_when_times_no_longer_fall():
    falling = [100 * 0.8**k for k in range(30)]
    assert not stats.is_stable(falling)
    assert stats.is_stable([*falling[:5], *[20.0] * 10])
    assert not stats.is_stable([20.0] * 9)


def test_empty_and_single_samples():
    assert stats.median_interval([]).low == 0
    only = stats.median_interval([2.0])
    assert (only.low, only.high) == (2.0, 2.0)
    assert stats.spread([1.0]) == 0
    assert stats.process_interval([[1.0, 3.0]]) == stats.median_interval([1.0, 3.0])
