"""Paired comparison of two candidates on the same cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from timestep_lab.evals.statistics.intervals import (
    LEAST_GROUPS,
    Floats,
    Interval,
    all_alike,
    binomial_cdf,
    clipped,
    cluster_interval,
    expanded_quantiles,
    group_sums,
    is_pass_fail,
    mean_of_repeats,
    normal_cdf,
    normal_quantile,
    skewed_interval,
    skewness,
    t_cdf,
    t_interval,
    tango,
    two_sided_z,
    unseen,
    within_unit,
)

# --- Sample size


def cases_needed(diff: float, sd_if_equal: float, sd: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Number of cases for a two-sided paired test at level `alpha` to detect a true difference `diff` with this power.

    n = ((z(1−α/2)·σ₀ + z(power)·σ) / diff)², where σ₀ is the standard deviation of the paired difference under the null
    hypothesis and σ the actual one (for pass/fail results: Connor 1987, Biometrics 43:207). Infinite if `diff` is 0.
    """
    if diff == 0:
        return math.inf
    return float(((normal_quantile(1 - alpha / 2) * sd_if_equal + normal_quantile(power) * sd) / diff) ** 2)


def cases_to_settle(
    n: int, diff: float, sd_if_equal: float, sd: float, *, alpha: float = 0.05, power: float = 0.8, least: float = 0.0
) -> int | None:
    """Approximate number of additional cases beyond `n`, assuming that the true difference is the observed one. None:
    not attainable.

    `least`: minimum number of cases, however clear the difference.
    """
    if n < 2 or diff == 0:
        return None
    needed = max(least, cases_needed(diff, sd_if_equal, sd, alpha=alpha, power=power))
    return max(0, math.ceil(needed - 1e-9) - n) if needed < 1e7 else None


# --- Fisher's exact test for two independent proportions


def fisher(passed_a: int, n_a: int, passed_b: int, n_b: int) -> float:
    """Two-sided p-value: the total probability of all tables with the same margins that are no more likely than the
    observed one (as `scipy.stats.fisher_exact`).
    """
    passed, n = passed_a + passed_b, n_a + n_b
    if n_a == 0 or n_b == 0:
        return 1.0
    ways = [comb(n_a, k) * comb(n_b, passed - k) for k in range(max(0, passed - n_b), min(n_a, passed) + 1)]
    seen = comb(n_a, passed_a) * comb(n_b, passed_b)
    return min(1.0, sum(way for way in ways if way <= seen) / comb(n, passed))


# --- Multiple comparisons


def holm(p_values: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order (Holm 1979, Scand. J. Statist. 6:65). NaN stays NaN.

    `weights`: the relative share of α of each hypothesis (Benjamini & Hochberg 1997, Scand. J. Statist. 24:407).
    """
    weigh = [1.0] * len(p_values) if weights is None else weights
    known = sorted((p / weigh[index], index) for index, p in enumerate(p_values) if p == p)
    adjusted = [float("nan")] * len(p_values)
    floor, left = 0.0, sum(weigh[index] for _, index in known)
    for ratio, index in known:
        floor = max(floor, min(1.0, left * ratio))
        adjusted[index] = floor
        left -= weigh[index]
    return adjusted


# --- Test of paired pass/fail results


def exact_mcnemar(wins: int, losses: int) -> float:
    """Two-sided p-value of McNemar's exact test (McNemar 1947): a binomial test with probability ½ on the discordant
    pairs.

    `wins`: cases that only the first passed; `losses`: cases that only the second passed. Holds its level at any sample
    size.
    """
    n = wins + losses
    if n == 0:
        return 1.0
    return min(1.0, 2.0 * binomial_cdf(min(wins, losses), n, 0.5))


# --- Exact randomization test over cases: under the null hypothesis the sign of each case's difference is arbitrary


_MOST_PARTS = 64
"""Differences that are multiples of 1/k for k up to this (pass/fail over k epochs) are counted exactly."""
_GRID = 2**15
_MOST_ADDITIONS = 2e8
"""Above this number of additions the normal approximation is used; there are thousands of cases then."""


def sign_flips(differences: Floats) -> float:
    """Two-sided p-value of the sign-flip randomization test of paired differences (Fisher 1935, The Design of
    Experiments, section 21).

    The fraction of all sign assignments whose sum is at least as far from zero as the observed sum. It makes no
    assumption about the distribution of scores and is never below `least_p`. For differences of equal size it is the
    sign test; for pass/fail scores, McNemar's exact test.

    The distribution of the sum is computed by adding one difference at a time (Pagano & Tritchler 1983, JASA 78:435) on
    a grid: of 1/k if all differences are multiples of it, else of 1/32768 of their sum. A rounded difference keeps its
    sign, so the test remains exact; only the test statistic is rounded.
    """
    nonzero = differences[differences != 0.0]
    if len(nonzero) == 0:
        return 1.0
    steps = _whole_steps(np.abs(nonzero))
    total = int(steps.sum())
    seen = abs(int((np.sign(nonzero) * steps).sum()))
    if len(steps) * total > _MOST_ADDITIONS:
        return 2.0 * normal_cdf(-abs(float(nonzero.sum())) / math.sqrt(float((nonzero**2).sum())))
    chances = np.zeros(total + 1)
    chances[0], reached = 1.0, 0
    for step in map(int, steps):
        with_it = chances[: reached + 1] * 0.5
        chances[: reached + 1] = with_it
        chances[step : step + reached + 1] += with_it
        reached += step
    return min(1.0, 2.0 * float(chances[(total + seen) // 2 :].sum()))


def least_p(decided_by: int) -> float:
    """The smallest possible p-value with this number m of differing cases: 2 / 2^m, all signs equal."""
    return 2.0 ** (1 - decided_by) if decided_by > 0 else 1.0


def least_decided(alpha: float) -> int:
    """The minimum number of differing cases for a p-value of `alpha`: 6 for 0.05."""
    return max(1, math.ceil(1.0 - math.log2(alpha)))


def _whole_steps(sizes: Floats) -> Floats:
    steps: Floats
    for parts in range(1, _MOST_PARTS + 1):
        steps = np.rint(sizes * parts)
        if np.abs(sizes * parts - steps).max() < 1e-9 and steps.sum() <= 2 * _GRID:
            return steps
    steps = np.rint(sizes * (_GRID / sizes.sum()))
    return steps


# --- Cluster bootstrap over cases: a case is resampled with all its repeats, so repeats do not count as additional evidence


_BATCH_CELLS = 1_000_000
"""Number of draws held in memory at once."""


def resampled_means(case_values: Floats, *, resamples: int = 10_000, seed: int = 0) -> Floats:
    """Means of `resamples` bootstrap samples of cases (Efron 1979). `case_values`: one mean per case.

    Resampling cases and averaging their means is the cluster bootstrap with cases as clusters. The same seed gives the
    same means, equal to those of `scipy.stats.bootstrap` with the same generator and batch size.
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
    """Number of resamples drawn at once for `n` cases."""
    return max(1, _BATCH_CELLS // n)


def expanded_percentile(means: Floats, n: int, level: float = 0.95) -> Interval:
    """The `expanded_quantiles` of resampled means. The interval never exceeds the observed range, and the range of fewer than
    six cases has a level of only 1 − 2·2^−n; those need another interval."""
    return Interval(*expanded_quantiles(means, n, level))


Test = Literal["exact McNemar", "skew-corrected t", "betting", "exact sign flips", "exact flips of group sums", "none"]

LEAST_GRADED = 72
"""Below this number of graded cases, an outcome with a frequency of 1 in 20 may be missing: 0.95^72 = 2.5 %."""
_ASKED_AGAIN = 0.2
"""Above this p-value of the corrected t, the exact test (a hundred times slower) could not change the decision."""
CASES_PER_SQUARED_SKEWNESS = 10.0
"""Number of cases per squared skewness from which the corrected t holds its level (Cochran's rule uses 25)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedResult:
    """`diff` is mean(b) − mean(a) over the cases that both have, in the score's units; positive if b is ahead."""

    n: int
    """Number of cases compared."""
    diff: float
    ci_low: float
    ci_high: float
    p_value: float
    test: Test
    decided_by: int
    """Number of cases in which the two differ. The others carry no information about which is better."""
    cases_to_settle: int | None
    """Approximate number of additional cases needed for a difference of this size; 0 if none are needed, None if not
    attainable.
    """


def paired_difference(
    a: Floats, b: Floats, *, level: float = 0.95, alpha: float | None = None, resamples: int = 10_000, seed: int = 0,
    groups: Sequence[object] | None = None,
) -> PairedResult:  # fmt: skip
    """Compare two candidates. `a` and `b`: cases × epochs, NaN if there is no score; rows are the same cases.

    | scores | interval | test |
    |---|---|---|
    | pass/fail, all repeats of a case equal | Tango's score interval | McNemar's exact |
    | pass/fail, several epochs | expanded percentile, cases resampled | exact sign flips over cases |
    | graded | the hull of Student's and Hall's | the largest p of Student's, Hall's and, below 0.2, the exact sign flips |
    | all differences equal | `unseen` | exact sign flips over cases |
    | from 0 to 1, fewer than 6 cases | the wider of Student's and `unseen` | as above |

    Identical repeats count as one answer: a deterministic model gives the same result as with one epoch. The p-value is at
    least `least_p` of the number of differing cases: t assumes normal scores, and five cases cannot show that they are.
    The same holds if few grades differ, all by the same amount: with 21 such cases t alone has a false positive rate of
    7.8 %, so the exact test must agree.

    Graded scores may have rare cases in which one side is far worse, which no test can detect if they did not occur.
    With fewer than `LEAST_GRADED` cases, or fewer than ten times the squared skewness of the differences, p is
    therefore at least `betting_p`, which is valid for any distribution on 0 to 1; scores on another scale then have no
    p-value. Intervals of scores from 0 to 1 are limited to −1 and 1.

    `groups` is the group of each case (such as the document that questions are about): then the interval is
    `cluster_interval`, and the test flips the signs of the groups' summed differences; for graded scores Hall's test of
    these sums must agree. With fewer than `LEAST_GROUPS` groups there is neither.

    If all differences are equal on an unbounded scale, there is no interval. Cases without a score on one side are
    excluded. `alpha` is the level used for the sample-size forecast (after a correction for multiple comparisons it is
    smaller than 1 − `level`). Raises `ValueError` for different shapes.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"a and b must both be cases × epochs, not {a.shape} and {b.shape}")
    both = ~np.isnan(a).all(axis=1) & ~np.isnan(b).all(axis=1)
    members = None if groups is None else [groups[int(place)] for place in np.flatnonzero(both)]
    a, b = a[both], b[both]
    n = len(a)
    if n == 0:
        return _nothing(0, math.nan, 0)
    scores = np.concatenate([a, b])
    mean_a, mean_b = mean_of_repeats(a)[0], mean_of_repeats(b)[0]
    differences = mean_b - mean_a
    noise = 1e-12 * max(1.0, float(np.nanmax(np.abs(scores))))
    differences[np.abs(differences) < noise] = 0.0
    diff = mean if abs(mean := float(differences.mean())) >= noise else 0.0
    decided_by = int(np.count_nonzero(differences))
    aim = alpha or 1 - level
    least = least_decided(aim) * n / max(1, decided_by)
    graded, unit = not is_pass_fail(scores), within_unit(scores)
    interval: Interval
    test: Test

    if members is not None:
        return _grouped(differences, members, diff, decided_by, graded=graded, unit=unit, level=level)
    if is_pass_fail(scores) and all(np.isin(means, (0.0, 1.0)).all() for means in (mean_a, mean_b)):
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        interval, p, test = tango(wins, losses, n, level), exact_mcnemar(wins, losses), "exact McNemar"
    elif n < 2:
        return _nothing(n, diff, decided_by)
    elif all_alike(differences, scores):
        interval, p, test = Interval(math.nan, math.nan), sign_flips(differences), "exact sign flips"
        if unit:
            interval = unseen(diff, n, -1.0, 1.0, level)
            # The number of cases from which that interval excludes zero.
            least = max(least, two_sided_z(1 - aim) ** 2 / abs(diff)) if diff else least
    else:
        if least_p(n) > 1 - level:
            interval = _of_few(differences, scores, level)
        elif graded:
            interval = skewed_interval(differences, level)
        else:
            resampled = resampled_means(differences, resamples=resamples, seed=seed)
            interval = expanded_percentile(resampled, n, level)
        interval = clipped(interval, -1.0, 1.0) if unit else interval
        if graded:
            p, test = max(_paired_t(differences), _hall(differences)), "skew-corrected t"
            p = max(p, sign_flips(differences) if p <= _ASKED_AGAIN else least_p(decided_by))
        else:
            p, test = sign_flips(differences), "exact sign flips"

    if graded and diff and n < (enough := max(LEAST_GRADED, CASES_PER_SQUARED_SKEWNESS * skewness(differences) ** 2)):
        guaranteed = betting_p(differences) if unit else math.nan
        if not p > guaranteed:
            p, test = guaranteed, "betting" if unit else "none"
        least = least if p <= aim else max(least, enough)

    squares = float((differences**2).mean())
    settle = cases_to_settle(
        n, diff, math.sqrt(squares), math.sqrt(max(0.0, squares - diff * diff)), alpha=aim, least=least
    )
    return PairedResult(
        n=n, diff=diff, ci_low=interval.low, ci_high=interval.high, p_value=p, test=test, decided_by=decided_by, cases_to_settle=settle
    )  # fmt: skip


def _grouped(
    differences: Floats, groups: Sequence[object], diff: float, decided_by: int, *, graded: bool, unit: bool, level: float
) -> PairedResult:  # fmt: skip
    """`paired_difference` for grouped cases."""
    n = len(differences)
    sizes, sums = group_sums(differences, groups)
    if len(sizes) < LEAST_GROUPS:
        return _nothing(n, diff, decided_by)
    interval = cluster_interval(differences, groups, level)
    if interval.high - interval.low < 1e-12:
        # No group differs from the others: use the limit for this number of groups.
        interval = unseen(diff, len(sizes), -1.0, 1.0, level) if unit else Interval(math.nan, math.nan)
    p = sign_flips(sums)
    if graded and n < max(LEAST_GRADED, CASES_PER_SQUARED_SKEWNESS * skewness(sums) ** 2 * n / len(sums)):
        # Rare cases may not have occurred. The sums are valid bets once scaled to at most 1.
        p = max(p, betting_p(sums / sizes.max())) if unit else math.nan
    elif graded and p <= _ASKED_AGAIN and sums.std() > 0:
        # Flips assume symmetric sums: with rare disasters in forty groups of five their false positive rate is 11 %.
        p = max(p, _hall(sums))
    return PairedResult(
        n=n, diff=diff, ci_low=max(-1.0, interval.low) if unit else interval.low, ci_high=min(1.0, interval.high) if unit else interval.high,
        p_value=p, test="none" if math.isnan(p) else "exact flips of group sums", decided_by=decided_by, cases_to_settle=None,
    )  # fmt: skip


def skew_rule_p(differences: Floats) -> float:
    """The larger p-value of Student's t and Hall's test of a zero mean on an unbounded scale; NaN for fewer cases than
    ten times the squared skewness, where neither holds its level. Never below `least_p`."""
    n = len(differences)
    if n < 2 or n < CASES_PER_SQUARED_SKEWNESS * skewness(differences) ** 2:
        return math.nan
    if not differences.std(ddof=1) > 1e-12 * max(1e-300, float(np.abs(differences).max())):
        return sign_flips(differences)
    return max(_paired_t(differences), _hall(differences), least_p(n))


def _paired_t(differences: Floats) -> float:
    """Two-sided p-value of Student's paired t test (Student 1908)."""
    n = len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    return 2.0 * t_cdf(-abs(float(differences.mean())) / error, n - 1)


def _hall(differences: Floats) -> float:
    """Two-sided p-value of Student's t after Hall's transformation (Hall 1992, JRSS B 54:221)."""
    n, g = len(differences), skewness(differences)
    w = float(differences.mean()) / float(differences.std(ddof=1))
    t = math.sqrt(n) * (w + g * w**2 / 3 + g**2 * w**3 / 27 + g / (6 * n))
    return 2.0 * t_cdf(-abs(t), n - 1)


def betting_p(differences: Floats) -> float:
    """A p-value for mean zero that is valid for differences between −1 and 1 with any distribution.

    The reciprocal of the wealth of a gambler who stakes the fraction λ on each case, averaged over λ from −1 to 1:
    under the null hypothesis, it exceeds 1/p with a probability of at most p (Waudby-Smith & Ramdas 2024, JRSS B 86:1).
    """
    stakes, weights = np.polynomial.legendre.leggauss(48)
    log_wealth = np.log1p(np.outer(stakes, differences)).sum(axis=1)
    return float(min(1.0, 2.0 / (weights @ np.exp(np.minimum(log_wealth, 700.0)))))


def _of_few(differences: Floats, scores: Floats, level: float) -> Interval:
    """The interval for so few cases that no test can reject: their sample variance is not informative either."""
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
