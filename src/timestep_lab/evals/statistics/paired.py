"""The paired comparison of two candidates over the same cases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from timestep_lab.evals.statistics import bootstrap
from timestep_lab.evals.statistics.distributions import t_cdf, two_sided_z
from timestep_lab.evals.statistics.forecast import cases_to_settle
from timestep_lab.evals.statistics.intervals import (
    Floats,
    Interval,
    is_pass_fail,
    mean_of_repeats,
    t_interval,
    tango,
)  # fmt: skip
from timestep_lab.evals.statistics.mcnemar import exact_mcnemar

Test = Literal["exact McNemar", "paired t", "cluster bootstrap", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedResult:
    """`diff` is mean(b) − mean(a) over the cases both have, in the score's units; positive means b is ahead."""

    n: int
    """Cases compared."""
    diff: float
    ci_low: float
    ci_high: float
    p_value: float
    test: Test
    decided_by: int
    """Cases in which the two differ. The others say nothing about who is better."""
    cases_to_settle: int | None
    """About how many more cases a difference like this would need; 0 when it needs none, None when no number is in sight."""


def paired_difference(
    a: Floats, b: Floats, *, level: float = 0.95, alpha: float | None = None, resamples: int = 10_000, seed: int = 0
) -> PairedResult:
    """Compare two candidates. `a` and `b`: cases × epochs, NaN where there is no score; rows are the same cases.

    | scores | interval | test |
    |---|---|---|
    | pass/fail, one epoch | Tango's score interval | McNemar's exact |
    | numbers, one epoch | Student's, paired | paired t |
    | more epochs | expanded percentile, cases resampled | the same bootstrap |

    Cases one side has no score for are left out. `alpha` is the level the forecast aims at (after a correction for several
    comparisons it is smaller than 1 − `level`). Raises `ValueError` for shapes that differ.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"a and b must both be cases × epochs, not {a.shape} and {b.shape}")
    both = ~np.isnan(a).all(axis=1) & ~np.isnan(b).all(axis=1)
    a, b = a[both], b[both]
    n = len(a)
    if n == 0:
        return _nothing(0, math.nan)
    differences = mean_of_repeats(b)[0] - mean_of_repeats(a)[0]
    differences[np.abs(differences) < 1e-12] = 0.0
    diff = float(differences.mean())
    decided_by = int(np.count_nonzero(differences))
    pass_fail = is_pass_fail(a) and is_pass_fail(b)
    repeated = bool((np.isfinite(a).sum(axis=1) > 1).any() or (np.isfinite(b).sum(axis=1) > 1).any())

    if pass_fail and not repeated:
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        interval, p, test = tango(wins, losses, n, level), exact_mcnemar(wins, losses), "exact McNemar"
    elif n < 2:
        return _nothing(n, diff)
    elif decided_by == 0:
        interval, p, test = _unseen_difference(a, b, n, level), 1.0, "cluster bootstrap" if repeated else "paired t"
    elif repeated:
        means = bootstrap.resampled_means(differences, resamples=resamples, seed=seed)
        interval, p, test = (
            bootstrap.expanded_percentile(means, n, level),
            bootstrap.p_value(means, n),
            "cluster bootstrap",
        )
    else:
        interval, p, test = t_interval(differences, level), _paired_t(differences), "paired t"

    squares = float((differences**2).mean())
    settle = cases_to_settle(
        n, diff, math.sqrt(squares), math.sqrt(max(0.0, squares - diff * diff)), alpha=alpha or 1 - level
    )
    return PairedResult(
        n=n, diff=diff, ci_low=interval.low, ci_high=interval.high, p_value=p, test=test,  # type: ignore[arg-type]
        decided_by=decided_by, cases_to_settle=settle,
    )  # fmt: skip


def _paired_t(differences: Floats) -> float:
    """Two-sided p-value of Student's paired test (Student 1908)."""
    n = len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        return 0.0
    return 2.0 * t_cdf(-abs(float(differences.mean())) / error, n - 1)


def _unseen_difference(a: Floats, b: Floats, n: int, level: float) -> Interval:
    """No case differed: the interval is not a point, but what `n` equal pairs of scores from 0 to 1 cannot rule out."""
    values = np.concatenate([a[np.isfinite(a)], b[np.isfinite(b)]])
    if values.min() < 0 or values.max() > 1:
        return Interval(math.nan, math.nan)
    z2 = two_sided_z(level) ** 2
    return Interval(-z2 / (n + z2), z2 / (n + z2))


def _nothing(n: int, diff: float) -> PairedResult:
    return PairedResult(
        n=n,
        diff=diff,
        ci_low=math.nan,
        ci_high=math.nan,
        p_value=math.nan,
        test="none",
        decided_by=0,
        cases_to_settle=None,
    )
