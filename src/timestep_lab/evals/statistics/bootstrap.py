"""The cluster bootstrap over cases: a case is drawn with all its repeats, so repeats never pass for further evidence."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from timestep_lab.evals.statistics.distributions import normal_cdf, two_sided_t
from timestep_lab.evals.statistics.intervals import Floats, Interval

_BATCH_CELLS = 1_000_000
"""Draws held in memory at once."""


def resampled_means(case_values: Floats, *, resamples: int = 10_000, seed: int = 0) -> Floats:
    """Means of `resamples` samples of cases drawn with replacement (Efron 1979). `case_values`: one mean a case.

    Drawing cases and averaging each one's mean is the cluster bootstrap with cases as clusters. The same seed gives the same
    means, those of `scipy.stats.bootstrap` for the same generator and batch.
    """
    n = len(case_values)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = batch_size(n)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        drawn: NDArray[np.int64] = generator.integers(0, n, (stop - start, n))
        means[start:stop] = case_values[drawn].mean(axis=1)
    return means


def batch_size(n: int) -> int:
    """Resamples drawn at once for `n` cases."""
    return max(1, _BATCH_CELLS // n)


def expanded_percentile(means: Floats, n: int, level: float = 0.95) -> Interval:
    """Percentile interval, widened to what Student's interval would be on normal data.

    The plain percentile interval is too short at small `n`: it uses z for t, and the sample's variance with n for n − 1. The
    expanded one cures both (Hesterberg 2015, The American Statistician 69:371, section 4.3). It never leaves the range of what was
    seen, and the range of fewer than six cases is no 95 % interval: 1 − 2·2^−n. Those need another.
    """
    tail = normal_cdf(-math.sqrt(n / (n - 1)) * two_sided_t(level, n - 1))
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(low), float(high))
