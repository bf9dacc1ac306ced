"""How many times longer one candidate takes than another on the same cases. Times are positive and skewed, so they are compared as ratios."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from timestep_lab.evals.statistics.intervals import Floats, Interval, beta_cdf, t_cdf, t_interval
from timestep_lab.evals.statistics.paired import LEAST_GRADED, batch_size, least_p

RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """b over a. NaN where too little is known to say."""

    n: int
    ratio: float
    interval: Interval
    p_value: float | None
    """None: the interval alone decides."""
    test: str


def typical_ratio(a: Floats, b: Floats, level: float = 0.95) -> Ratio:
    """The geometric mean of the cases' ratios, by Student's t on their logarithms. No p-value is below `least_p` of the cases."""
    logs = np.log(b / a)
    n = len(logs)
    if n < 2:
        return Ratio(n=n, ratio=math.nan, interval=Interval(math.nan, math.nan), p_value=None, test="t on logarithms")
    mean, sd = float(logs.mean()), float(logs.std(ddof=1))
    interval = t_interval(logs, level)
    p = 2.0 * t_cdf(-abs(mean) * math.sqrt(n) / sd, n - 1) if sd > 0 else float(mean == 0.0)
    return Ratio(
        n=n, ratio=math.exp(mean), interval=Interval(math.exp(interval.low), math.exp(interval.high)), p_value=max(p, least_p(n)),
        test="t on logarithms",
    )  # fmt: skip


def median_ratio(a: Floats, b: Floats, level: float = 0.95, *, seed: int = 0) -> Ratio:
    """Of the medians, each by the estimator of Harrell & Davis (1982, Biometrika 69:635); cases resampled in pairs, percentiles of the
    logarithm of the ratio."""
    n = len(a)
    if n < 6:
        return Ratio(n=n, ratio=math.nan, interval=Interval(math.nan, math.nan), p_value=None, test="paired bootstrap")
    weights = harrell_davis_weights(n, 0.5)

    def log_ratio(x: Floats, y: Floats) -> Floats:
        return np.asarray(np.log(np.sort(y) @ weights) - np.log(np.sort(x) @ weights))

    return _bootstrapped(a, b, log_ratio, level, seed)


def tail_ratio(a: Floats, b: Floats, level: float = 0.95, *, quantile: float = 0.95, seed: int = 0) -> Ratio:
    """Of the 95th percentiles; cases resampled in pairs. None below 72 cases, where the slowest twentieth may be missing altogether."""
    n = len(a)
    if n < LEAST_GRADED:
        return Ratio(n=n, ratio=math.nan, interval=Interval(math.nan, math.nan), p_value=None, test="paired bootstrap")

    def log_ratio(x: Floats, y: Floats) -> Floats:
        return np.asarray(np.log(np.quantile(y, quantile, axis=-1)) - np.log(np.quantile(x, quantile, axis=-1)))

    return _bootstrapped(a, b, log_ratio, level, seed)


def harrell_davis_weights(n: int, q: float) -> Floats:
    """Of the ordered values: what a beta distribution with (n + 1)q and (n + 1)(1 − q) puts on each nth part of 0 to 1."""
    edges = beta_cdf(np.arange(n + 1) / n, (n + 1) * q, (n + 1) * (1 - q))
    return np.asarray(np.diff(edges))


def _bootstrapped(
    a: Floats, b: Floats, log_ratio: Callable[[Floats, Floats], Floats], level: float, seed: int
) -> Ratio:
    n, generator = len(a), np.random.default_rng(seed)
    drawn = np.empty(RESAMPLES)
    step = batch_size(n)
    for start in range(0, RESAMPLES, step):
        stop = min(start + step, RESAMPLES)
        cases = generator.integers(0, n, (stop - start, n))
        drawn[start:stop] = log_ratio(a[cases], b[cases])
    low, high = np.exp(np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2]))
    return Ratio(
        n=n, ratio=float(np.exp(log_ratio(a, b))), interval=Interval(float(low), float(high)), p_value=None, test="paired bootstrap"
    )  # fmt: skip
