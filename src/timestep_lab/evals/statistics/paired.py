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
    all_alike,
    is_pass_fail,
    mean_of_repeats,
    t_interval,
    tango,
    unseen,
    within_unit,
)  # fmt: skip
from timestep_lab.evals.statistics.mcnemar import exact_mcnemar
from timestep_lab.evals.statistics.sign_flips import least_decided, least_p, sign_flips

Test = Literal["exact McNemar", "paired t", "exact sign flips", "none"]


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
    | pass/fail, a case's repeats all alike | Tango's score interval | McNemar's exact |
    | numbers, one epoch | Student's, paired | paired t |
    | more epochs | expanded percentile, cases resampled | exact sign flips over cases |
    | all cases differ by the same | `unseen` | exact sign flips over cases |
    | from 0 to 1, fewer than 6 cases | the wider of Student's and `unseen` | as above |

    Repeats that all say the same are one answer: a model without chance in it gives what one epoch gives. No p-value is
    below `least_p` of the cases that differ: t takes normal scores for granted, and five cases cannot show that they are.
    Scores that all differ by the same on a scale without ends have no interval. Cases one side has no score for are left out. `alpha`
    is the level the forecast aims at (after a correction for several comparisons it is smaller than 1 − `level`).
    Raises `ValueError` for shapes that differ.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"a and b must both be cases × epochs, not {a.shape} and {b.shape}")
    both = ~np.isnan(a).all(axis=1) & ~np.isnan(b).all(axis=1)
    a, b = a[both], b[both]
    n = len(a)
    if n == 0:
        return _nothing(0, math.nan, 0)
    scores = np.concatenate([a, b])
    mean_a, mean_b = mean_of_repeats(a)[0], mean_of_repeats(b)[0]
    differences = mean_b - mean_a
    differences[np.abs(differences) < 1e-12 * max(1.0, float(np.nanmax(np.abs(scores))))] = 0.0
    diff = float(differences.mean())
    decided_by = int(np.count_nonzero(differences))
    aim = alpha or 1 - level
    least = least_decided(aim) * n / max(1, decided_by)
    repeated = bool((np.isfinite(a).sum(axis=1) > 1).any() or (np.isfinite(b).sum(axis=1) > 1).any())
    interval: Interval
    test: Test

    if is_pass_fail(scores) and all(np.isin(means, (0.0, 1.0)).all() for means in (mean_a, mean_b)):
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        interval, p, test = tango(wins, losses, n, level), exact_mcnemar(wins, losses), "exact McNemar"
    elif n < 2:
        return _nothing(n, diff, decided_by)
    elif all_alike(differences, scores):
        interval, p, test = Interval(math.nan, math.nan), sign_flips(differences), "exact sign flips"
        if within_unit(scores):
            interval = unseen(diff, n, -1.0, 1.0, level)
            # From this many cases on that interval leaves zero out.
            least = max(least, two_sided_z(1 - aim) ** 2 / abs(diff)) if diff else least
    else:
        if least_p(n) > 1 - level:
            interval = _of_few(differences, scores, level)
        elif repeated:
            resampled = bootstrap.resampled_means(differences, resamples=resamples, seed=seed)
            interval = bootstrap.expanded_percentile(resampled, n, level)
        else:
            interval = t_interval(differences, level)
        p = sign_flips(differences) if repeated else max(_paired_t(differences), least_p(decided_by))
        test = "exact sign flips" if repeated else "paired t"

    squares = float((differences**2).mean())
    settle = cases_to_settle(
        n, diff, math.sqrt(squares), math.sqrt(max(0.0, squares - diff * diff)), alpha=aim, least=least
    )
    return PairedResult(
        n=n, diff=diff, ci_low=interval.low, ci_high=interval.high, p_value=p, test=test, decided_by=decided_by, cases_to_settle=settle
    )  # fmt: skip


def _paired_t(differences: Floats) -> float:
    """Two-sided p-value of Student's paired test (Student 1908)."""
    n = len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    return 2.0 * t_cdf(-abs(float(differences.mean())) / error, n - 1)


def _of_few(differences: Floats, scores: Floats, level: float) -> Interval:
    """So few cases that no test over them can reject: they do not show how scores scatter either."""
    student = t_interval(differences, level)
    if not within_unit(scores):
        return student
    other = unseen(float(differences.mean()), len(differences), -1.0, 1.0, level)
    return Interval(max(-1.0, min(student.low, other.low)), min(1.0, max(student.high, other.high)))


def _nothing(n: int, diff: float, decided_by: int) -> PairedResult:
    return PairedResult(
        n=n,
        diff=diff,
        ci_low=math.nan,
        ci_high=math.nan,
        p_value=math.nan,
        test="none",
        decided_by=decided_by,
        cases_to_settle=None,
    )
