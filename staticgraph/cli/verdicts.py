"""Whether b is faster than a, from process medians: exact intervals, and refusals.

Runs within one process say nothing of another process, whose memory lies elsewhere; so the unit is
one process, and without several of them there is no verdict.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, comb, cos, exp, inf, log, pi, sin, sqrt

import numpy as np

CONFIDENCE = 0.99
#: differences of times within this are called the same
MARGIN = 0.02
#: pairs of which all subsets are taken; more pairs are averaged in that many groups
MOST_UNITS = 14
#: rounds below which no interval of this confidence exists: 2 / 2**8 < 1 %
LEAST_ROUNDS = 8


@dataclass(frozen=True)
class Judgement:
    """The ratio b / a with its interval, and what may be said: faster, slower, same, inconclusive.

    `noise` is the spread of the ratio from round to round (None in a single round), `needed` about
    how many rounds would decide. Without enough rounds there is no interval: its ends are None.
    """

    ratio: float
    low: float | None
    high: float | None
    verdict: str
    rounds: int
    noise: float | None
    needed: int

    def __str__(self) -> str:
        if self.verdict == "same":
            return f"same within {100 * MARGIN:.0f} %"
        if self.verdict == "inconclusive":
            noise = "" if self.noise is None else f"noise {100 * self.noise:.1f} %; "
            return f"inconclusive ({noise}need about {self.needed} rounds)"
        return self.verdict


def paired(a: Sequence[float], b: Sequence[float]) -> Judgement:
    """From medians of processes run in turn: round k gives a[k] and b[k]."""
    ratios = [log(y / x) for x, y in zip(a, b, strict=True)]
    low, high = typical_interval(ratios)
    spread = float(np.std(ratios, ddof=1)) if len(ratios) > 1 else None
    return _judge(float(np.mean(ratios)), low, high, len(ratios), spread)


def unpaired(a: Sequence[float], b: Sequence[float]) -> Judgement:
    """From medians of processes recorded at different times."""
    x, y = np.log(a), np.log(b)
    low, high = shift_interval(x, y)
    center = float(np.median(np.subtract.outer(y, x)))
    count = min(len(x), len(y))
    spread = sqrt(float(x.var(ddof=1) + y.var(ddof=1))) if count > 1 else None
    return _judge(center, low, high, count, spread)


def _judge(center: float, low: float, high: float, rounds: int, spread: float | None) -> Judgement:
    if low > -MARGIN and high < MARGIN:
        verdict = "same"
    elif low > 0:
        verdict = "slower"
    elif high < 0:
        verdict = "faster"
    else:
        verdict = "inconclusive"
    target = max(abs(center), MARGIN)
    # Half of a 99 % interval of n rounds is about 2.6 standard deviations over sqrt(n).
    needed = 0 if spread is None else int(np.ceil((2.6 * spread / target) ** 2))
    needed = max(needed, LEAST_ROUNDS, rounds + 1)
    ends = (exp(low), exp(high)) if high < inf else (None, None)
    return Judgement(exp(center), *ends, verdict, rounds, spread, needed)


def typical_interval(values: Sequence[float]) -> tuple[float, float]:
    """The exact 99 % interval of the centre of symmetric distributions, whatever their shapes.

    The means of all subsets of the values are typical values: the centre is as likely to lie
    between any two neighbours of them (Hartigan 1969). Values of pairs whose order alternates are
    symmetric about the true difference. Below 8 values the interval is unbounded.
    """
    x = np.asarray(values, float)
    if len(x) > MOST_UNITS:
        x = np.array([part.mean() for part in np.array_split(x, MOST_UNITS)])
    bits = np.arange(1, 1 << len(x))[:, None] >> np.arange(len(x)) & 1
    means = np.sort(bits @ x / bits.sum(1))
    out = int((1 - CONFIDENCE) / 2 * (1 << len(x)))
    if out < 1:
        return -inf, inf
    return float(means[out - 1]), float(means[-out])


def shift_interval(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """The exact 99 % interval of how far y is shifted from x (Mann, Whitney; Hodges, Lehmann)."""
    differences = np.sort(np.subtract.outer(np.asarray(y), np.asarray(x)), axis=None)
    counts = rank_sums(len(x), len(y))
    tail, out = 0, 0
    while out < len(counts) and tail + counts[out] <= (1 - CONFIDENCE) / 2 * comb(
        len(x) + len(y), len(x)
    ):
        tail += counts[out]
        out += 1
    if out < 1:
        return -inf, inf
    return float(differences[out - 1]), float(differences[-out])


def rank_sums(n: int, m: int) -> list[int]:
    """In how many orders of n and m things exactly u pairs stand the wrong way round, by u."""
    ways = [1]  # the Gaussian binomial coefficient, factor by factor
    for k in range(1, n + 1):
        grown = ways + [0] * (m + k)
        for u in range(len(ways)):
            grown[u + m + k] -= ways[u]
        for u in range(k, len(grown)):
            grown[u] += grown[u - k]
        ways = grown[: n * m + 1]
    return ways


# ---------------------------------------------------------------------------- several kernels


def t_test(values: Sequence[float]) -> float:
    """The two-sided p-value of a mean of 0 by Student's t."""
    n = len(values)
    if n < 2:
        return 1.0
    deviation = float(np.std(values, ddof=1))
    if deviation == 0:
        return 1.0 if np.mean(values) == 0 else 0.0
    return student_tail(abs(float(np.mean(values))) / deviation * sqrt(n), n - 1)


def student_tail(t: float, freedom: int) -> float:
    """P(|T| > t) for a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3-4)."""
    angle = atan(t / sqrt(freedom))
    c, total = cos(angle), 0.0
    if freedom % 2:
        term = c
        for k in range(3, freedom + 1, 2):
            total += term
            term *= c * c * (k - 1) / k
        inside = 2 / pi * (angle + sin(angle) * total)
    else:
        term = 1.0
        for k in range(2, freedom + 1, 2):
            total += term
            term *= c * c * (k - 1) / k
        inside = sin(angle) * total
    return max(0.0, 1.0 - inside)


def holm(p: Sequence[float], level: float = 1 - CONFIDENCE) -> list[bool]:
    """Which of several hypotheses fall, so that a wrong one does with at most `level` in all."""
    order = sorted(range(len(p)), key=p.__getitem__)
    fallen = list(
        itertools.takewhile(lambda item: p[item[1]] <= level / (len(p) - item[0]), enumerate(order))
    )
    chosen = {k for _, k in fallen}
    return [k in chosen for k in range(len(p))]
