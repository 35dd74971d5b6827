"""Statistics of running times: robust, deterministic, NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, exp, log, sqrt

import numpy as np

from staticgraph.profiling.rows import Interval

#: modified z-score above which a sample is an outlier (Iglewicz and Hoaglin 1993)
OUTLIER = 3.5
CONFIDENCE = 0.99
#: samples above which the bootstrap of the median is taken from the normal limit of the binomial
LARGE = 400
# 0.995 quantile of Student's t by degrees of freedom; the table ends where it no longer matters.
_T_995 = (63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169,
          3.106, 3.055, 3.012, 2.977, 2.947, 2.921, 2.898, 2.878, 2.861, 2.845)  # fmt: skip
_T_LIMIT = 2.704
_Z_995 = 2.5758293035489004


def median_interval(samples: Sequence[float] | np.ndarray) -> Interval:
    """The 99 % bootstrap interval of a median.

    Resampling is not simulated: the k-th smallest of n samples is the median of a resample with a
    binomial probability (Efron 1979), so the interval is that of infinitely many resamples, and
    the same each time. With fewer than 8 samples no such interval exists; then it is their range.
    """
    x = np.sort(np.asarray(samples, np.float64))
    n = len(x)
    if n == 0:
        return Interval(0.0, 0.0, CONFIDENCE)
    lower = _rank(n)
    return Interval(float(x[lower]), float(x[n - 1 - lower]), CONFIDENCE)


def _rank(n: int) -> int:
    """The largest k (from 0) such that the median lies below the k-th smallest in <= 0.5 %.

    That many of n fair coins: P(fewer than k + 1 samples below the median).
    """
    tail = (1 - CONFIDENCE) / 2
    if n > LARGE:
        return max(0, int((n - _Z_995 * sqrt(n)) / 2 - 0.5))
    below, k = 0.0, 0
    while below + comb(n, k) / 2**n <= tail:
        below += comb(n, k) / 2**n
        k += 1
    return max(0, k - 1)


def process_interval(groups: Sequence[Sequence[float]]) -> Interval:
    """The 99 % interval of the median of several processes, each a list of samples.

    Process medians differ by more than runs within one process (the memory layout of a process
    stays), so they are the unit: Student's t on their logarithms. One process gives no such
    interval, and gets `median_interval` of its own runs. Where processes fall on two levels, 99 %
    holds from ten processes on; five may all lie on one (then it is 94 %).
    """
    if len(groups) < 2:
        return median_interval(groups[0] if groups else ())
    medians = [log(float(np.median(g))) for g in groups]
    center = sum(medians) / len(medians)
    spread = sqrt(sum((m - center) ** 2 for m in medians) / (len(medians) - 1) / len(medians))
    half = student(len(medians) - 1) * spread
    return Interval(exp(center - half), exp(center + half), CONFIDENCE)


def student(freedom: int) -> float:
    """The 0.995 quantile of Student's t distribution."""
    return _T_995[freedom - 1] if freedom <= len(_T_995) else _T_LIMIT


def outliers(samples: Sequence[float] | np.ndarray) -> np.ndarray:
    """Which samples lie far above the others, by the median absolute deviation.

    Only slow ones count: nothing makes a computation run faster by accident. A spread below one
    per mille counts as one, or quiet samples would be outliers of each other.
    """
    x = np.asarray(samples, np.float64)
    if len(x) < 3:
        return np.zeros(len(x), bool)
    center = np.median(x)
    deviation = max(float(np.median(np.abs(x - center))), 1e-3 * float(center))
    return 0.6745 * (x - center) > OUTLIER * deviation


def spread(samples: Sequence[float] | np.ndarray) -> float:
    """Interquartile range over the median."""
    if len(samples) < 2:
        return 0.0
    low, middle, high = np.percentile(samples, (25, 50, 75))
    return float((high - low) / middle) if middle else 0.0


def is_stable(samples: Sequence[float], window: int = 5, within: float = 0.05) -> bool:
    """Whether the last runs are no faster than those before them: the warm-up is over."""
    if len(samples) < 2 * window:
        return False
    before = float(np.median(samples[-2 * window : -window]))
    return float(np.median(samples[-window:])) >= before * (1 - within)
