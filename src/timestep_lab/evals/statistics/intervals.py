"""Confidence intervals for one candidate's mean, and the score interval for a difference of paired proportions."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

# --- The few distributions needed for tests and intervals. SciPy's special functions load five times faster than `scipy.stats`


_NORMAL = NormalDist()


def normal_cdf(z: float) -> float:
    return _NORMAL.cdf(z)


def normal_cdf_array(z: Floats) -> Floats:
    """The standard normal distribution function of an array."""
    shares: Floats = _special().ndtr(z)
    return shares


def normal_quantile(p: float) -> float:
    return _NORMAL.inv_cdf(p)


def two_sided_z(level: float) -> float:
    """The normal quantile of a two-sided interval of this level: 1.96 for 0.95."""
    return _NORMAL.inv_cdf(0.5 + level / 2.0)


def two_sided_t(level: float, degrees: float) -> float:
    """The quantile of Student's t distribution for a two-sided interval of this level."""
    return float(_special().stdtrit(degrees, 0.5 + level / 2.0))


def t_cdf(t: float, degrees: float) -> float:
    return float(_special().stdtr(degrees, t))


def beta_cdf(x: Floats, a: float, b: float) -> Floats:
    """The beta distribution function of an array."""
    shares: Floats = _special().betainc(a, b, x)
    return shares


def binomial_cdf(k: int, n: int, p: float) -> float:
    return float(_special().bdtr(k, n, p))


def _special() -> ModuleType:
    import scipy.special  # type: ignore[import-untyped]

    functions: ModuleType = scipy.special
    return functions


# --- Repeats of a pass/fail case: the probability that one of k tries passes, and that all k pass


def pass_at_k(tries: int, passes: int, k: int) -> float:
    """Probability that at least one of `k` tries passes: 1 − C(n−c, k) / C(n, k), unbiased (Chen et al. 2021,
    arXiv:2107.03374).
    """
    _check(tries, passes, k)
    return 1.0 - math.comb(tries - passes, k) / math.comb(tries, k)


def pass_hat_k(tries: int, passes: int, k: int) -> float:
    """Probability that all of `k` tries pass: C(c, k) / C(n, k), unbiased (Yao et al. 2024, τ-bench, arXiv:2406.12045)."""
    _check(tries, passes, k)
    return math.comb(passes, k) / math.comb(tries, k)


def over_cases(results: Iterable[tuple[int, int]], k: int) -> tuple[float, float]:
    """Means of pass@k and pass^k over cases given as (tries, passes). Cases with fewer than `k` tries are excluded; NaN
    if none is left.
    """
    enough = [(n, c) for n, c in results if n >= k]
    if not enough:
        return math.nan, math.nan
    at = sum(pass_at_k(n, c, k) for n, c in enough) / len(enough)
    hat = sum(pass_hat_k(n, c, k) for n, c in enough) / len(enough)
    return at, hat


def _check(tries: int, passes: int, k: int) -> None:
    if not 1 <= k <= tries or not 0 <= passes <= tries:
        raise ValueError(
            f"pass@k needs 1 <= k <= tries and 0 <= passes <= tries, not k={k}, tries={tries}, passes={passes}"
        )


Floats = NDArray[np.float64]

_BISECTIONS = 60
"""Bisection steps from width 2 to an error below 1e-17."""


@dataclass(frozen=True, slots=True)
class Interval:
    """`low` and `high` are in the units of the values; both are NaN if there is too little data."""

    low: float
    high: float


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927). It stays within 0 to 1 and has positive width even if all
    or none succeeded.
    """
    if n <= 0:
        return Interval(math.nan, math.nan)
    z2 = two_sided_z(level) ** 2
    p = successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # The ends are exact where all or none succeeded: rounding would say 0.9999999999999999.
    return Interval(
        max(0.0, centre - half) if successes > 0 else 0.0, min(1.0, centre + half) if successes < n else 1.0
    )


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's t interval of a mean. NaN for a single value."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return Interval(math.nan, math.nan)
    half = two_sided_t(level, len(x) - 1) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Interval(float(x.mean()) - half, float(x.mean()) + half)


def expanded_quantiles(drawn: Floats, n: int, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of what was drawn from `n` cases, as far out as Student's interval would be on normal data.

    Plain percentiles are too close at small `n`: they use z for t, and the sample's variance with n for n − 1. Expanded ones cure both
    (Hesterberg 2015, The American Statistician 69:371, section 4.3).
    """
    tail = normal_cdf(-math.sqrt(n / (n - 1)) * two_sided_t(level, n - 1))
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return float(low), float(high)


def skewness(values: Floats) -> float:
    """Third central moment divided by the cubed standard deviation; 0 if all values are equal."""
    centred = values - values.mean()
    spread = float((centred**2).mean()) ** 1.5
    return float((centred**3).mean()) / spread if spread > 0 else 0.0


def skewed_interval(values: Floats, level: float = 0.95) -> Interval:
    """`skewed_interval_of` these values. NaN for a single value."""
    if len(values) < 2:
        return Interval(math.nan, math.nan)
    return skewed_interval_of(float(values.mean()), float(values.std(ddof=1)), skewness(values), len(values), level)


def skewed_interval_of(mean: float, sd: float, g: float, n: int, level: float = 0.95) -> Interval:
    """The hull of Student's interval and Hall's, which corrects for the skewness `g` by a cubic transformation (Hall
    1992, JRSS B 54:221).

    Student's interval alone is too short towards rare extreme values; Hall's alone is sometimes too short for symmetric
    distributions with heavy tails.
    """
    reach = two_sided_t(level, n - 1) / math.sqrt(n)
    low, high = mean - sd * reach, mean + sd * reach
    if abs(g) < 1e-6:
        return Interval(low, high)

    def untransformed(x: float) -> float:
        return 3.0 / g * (math.cbrt(1.0 + g * (x - g / (6 * n))) - 1.0)

    return Interval(min(low, mean - sd * untransformed(reach)), max(high, mean - sd * untransformed(-reach)))


def clipped(interval: Interval, low: float, high: float) -> Interval:
    """The interval restricted to the range of possible scores."""
    return Interval(float(np.clip(interval.low, low, high)), float(np.clip(interval.high, low, high)))


def unseen(value: float, n: int, low: float, high: float, level: float = 0.95) -> Interval:
    """The interval of a mean when all `n` cases have the same `value`, for scores from `low` to `high`.

    Zero sample variance does not imply zero variance. A value not seen in `n` cases may have a probability of up to z²
    / (n + z²), Wilson's upper limit for 0 of n (Wilson 1927; compare the rule of three: Hanley & Lippman-Hand 1983,
    JAMA 249:1743), and may be anywhere in the range. At 0 or 1 this is Wilson's interval; for differences of −1, 0 or
    1, Tango's.
    """
    z2 = two_sided_z(level) ** 2
    share = z2 / (n + z2)
    return Interval(value - share * (value - low), value + share * (high - value))


def all_alike(values: Floats, scores: Floats) -> bool:
    """Whether the values are equal up to rounding (single precision, for scores from 0 to 1). `scores`: the scores they
    are computed from.
    """
    noise = 1e-6 if within_unit(scores) else 1e-9 * max(1.0, float(np.nanmax(np.abs(scores))))
    return bool(np.ptp(values) <= noise)


def mean_interval(scores: Floats, level: float = 0.95, groups: Sequence[object] | None = None) -> Interval:
    """The interval of a candidate's mean score. `scores`: cases × epochs, NaN if missing.

    Pass/fail scores get Wilson's interval; with repeats, on the effective number of trials, which is the binomial
    variance over the variance between case means (Dean & Pagano 2015, J. Survey Stat. Methodol. 3:484), limited to
    between the number of cases and the number of trials. Other scores get `skewed_interval` over case means, clipped to
    0 to 1 for scores in that range, or `unseen` if all are equal; if they are equal on an unbounded scale, there is no
    interval. With `groups` (of each case) they get `cluster_interval`, and if all are equal, `unseen` counts groups.
    """
    case_means, trials = mean_of_repeats(scores)
    n = len(case_means)
    if n == 0:
        return Interval(math.nan, math.nan)
    if groups is not None:
        return _grouped_mean(scores, case_means, groups, level)
    if not is_pass_fail(scores):
        if n > 1 and all_alike(case_means, scores):
            known = within_unit(scores)
            return unseen(float(case_means.mean()), n, 0.0, 1.0, level) if known else Interval(math.nan, math.nan)
        interval = skewed_interval(case_means, level)
        return clipped(interval, 0.0, 1.0) if within_unit(scores) else interval
    p = float(case_means.mean())
    effective = float(n)
    if trials > n > 1 and 0.0 < p < 1.0:
        between = float(case_means.var(ddof=1)) / n
        effective = min(float(trials), max(float(n), p * (1 - p) / between)) if between > 0 else float(trials)
    return wilson(p * effective, effective, level)


def _grouped_mean(scores: Floats, case_means: Floats, groups: Sequence[object], level: float) -> Interval:
    members = [group for group, row in zip(groups, scores, strict=True) if not np.isnan(row).all()]
    interval = cluster_interval(case_means, members, level)
    if not within_unit(scores):
        return interval
    if interval.high - interval.low < 1e-12 and len(set(members)) >= LEAST_GROUPS:
        return unseen(float(case_means.mean()), len(set(members)), 0.0, 1.0, level)
    return clipped(interval, 0.0, 1.0)


def mean_of_repeats(scores: Floats) -> tuple[Floats, int]:
    """Case means (without cases that have no score) and the total number of scores."""
    scored = ~np.isnan(scores)
    counts = scored.sum(axis=1)
    sums = np.where(scored, scores, 0.0).sum(axis=1)
    return sums[counts > 0] / counts[counts > 0], int(counts.sum())


def is_pass_fail(scores: Floats) -> bool:
    """Whether all scores are exactly 0 or 1."""
    return bool(np.all(np.isnan(scores) | (scores == 0.0) | (scores == 1.0)))


def within_unit(scores: Floats) -> bool:
    """Whether all scores are between 0 and 1."""
    return bool(np.all(np.isnan(scores) | ((scores >= 0.0) & (scores <= 1.0))))


def tango(wins: int, losses: int, n: int, level: float = 0.95) -> Interval:
    """Score interval of p(win) − p(loss) over `n` pairs of pass/fail results.

    Tango 1998, Statistics in Medicine 17:891; recommended for small samples by Fagerland, Lydersen & Laake 2014,
    Statistics in Medicine 33:2850. It has positive width even without discordant pairs.
    """
    return tango_at(wins, losses, n, two_sided_z(level))


def tango_at(wins: int, losses: int, n: int, z: float) -> Interval:
    """Tango's interval for a given z instead of a level."""
    if n <= 0:
        return Interval(math.nan, math.nan)
    return Interval(
        _root(lambda d: tango_statistic(wins, losses, n, d) - z),
        _root(lambda d: tango_statistic(wins, losses, n, d) + z),
    )


def tango_statistic(wins: int, losses: int, n: int, d: float) -> float:
    """The score statistic: the distance of the observed difference from `d`, in standard errors under `d`."""
    if d <= -1.0 or d >= 1.0:
        return -math.copysign(math.inf, d)
    b = -wins - losses + (2 * n - wins + losses) * d
    c = -losses * d * (1 - d)
    q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    variance = n * (2 * q + d * (1 - d))
    distance = wins - losses - n * d
    if variance <= 0.0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _root(falling: Callable[[float], float]) -> float:
    """The zero of a function that decreases from positive to negative between −1 and 1."""
    low, high = -1.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


# --- Agreement between two labellings (a judge and people, a model and the labels), and inference for grouped cases


# --- Grouped cases: ten questions about one document are not ten independent cases
#
# What affects a document affects all its questions, so groups rather than cases are the unit of a test.


LEAST_GROUPS = 6
"""Minimum number of groups for inference: five groups cannot give a p-value below 1/16, and intervals over them do not
have their nominal coverage.
"""


def cluster_interval(values: Floats, groups: Sequence[object], level: float = 0.95) -> Interval:
    """Interval of a mean of grouped values: cluster-robust variance with the CR2 correction and Satterthwaite's degrees
    of freedom (Bell & McCaffrey 2002, Survey Methodology 28:169; Pustejovsky & Tipton 2018, J. Bus. Econ. Stat.
    36:672).

    For a mean these have a closed form: a group with n_g of the N values, whose deviations sum to S_g, contributes S_g²
    / (1 − n_g/N). Both ends are NaN for fewer than `LEAST_GROUPS` groups.
    """
    sizes, sums = group_sums(values - values.mean(), groups)
    n = float(len(values))
    if len(sizes) < LEAST_GROUPS:
        return Interval(math.nan, math.nan)
    variance = float((sums**2 / (1.0 - sizes / n)).sum()) / n**2
    q = sizes**2 / (1.0 - sizes / n)
    freedom = n**2 / (float((sizes**2).sum()) + (float(q.sum()) ** 2 - float((q**2).sum())) / n**2)
    half = two_sided_t(level, freedom) * math.sqrt(variance)
    mean = float(values.mean())
    return Interval(mean - half, mean + half)


def group_sums(values: Floats, groups: Sequence[object]) -> tuple[Floats, Floats]:
    """(number of values, their sum) for each group."""
    names: dict[object, int] = {}
    places = np.array([names.setdefault(group, len(names)) for group in groups], dtype=int)
    sizes: Floats = np.bincount(places, minlength=len(names)).astype(float)
    sums: Floats = np.bincount(places, weights=values, minlength=len(names)).astype(float)
    return sizes, sums


# --- Two labellings of the same things, as a table of counts


_DRAWS = 4_000


def tables_behind(table: Floats, *, seed: int = 0) -> Floats:
    """Tables of shares that may lie behind the counts seen: draws × labels × labels.

    Draws of the posterior when each label (row) has one thing more, half of it where both say the same: a table without a single
    disagreement is not certainty, as it is for an interval by the counts' variance, or by drawing the things seen again.
    """
    k = len(table)
    before = np.where(np.eye(k) > 0, 0.5, 0.5 / max(1, k - 1))
    drawn = np.random.default_rng(seed).gamma(table + before, size=(_DRAWS, k, k))
    return np.asarray(drawn / drawn.sum(axis=(1, 2), keepdims=True))


Weights = Literal["none", "linear", "quadratic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    n: int
    observed: float
    """Fraction of items with equal labels."""
    kappa: float
    """Agreement beyond chance: 1 is perfect, 0 is chance; NaN if both raters always used the same single label."""
    ci_low: float
    ci_high: float
    labels: tuple[Hashable, ...]
    table: tuple[tuple[int, ...], ...]
    """Contingency table. Rows: the first rater's labels; columns: the second rater's."""


def agreement(
    first: Sequence[Hashable], second: Sequence[Hashable], *, weights: Weights = "none", level: float = 0.95
) -> Agreement:
    """Cohen's kappa (Cohen 1960; weighted: Cohen 1968) with the hull of two intervals: the large-sample interval of
    Fleiss, Cohen & Everitt 1969, whose coverage is only 27 to 93 % for 20 items with mostly equal labels, and quantiles
    over `tables_behind`.

    The two sequences label the same items in the same order. Weighted kappa treats the sorted labels as an ordinal
    scale. Raises `ValueError` for different lengths, or no items.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            f"agreement needs two labellings of the same things, not {len(first)} and {len(second)} labels"
        )
    labels = tuple(sorted({*first, *second}, key=_label_order))
    place = {label: index for index, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)))
    for one, other in zip(first, second, strict=True):
        table[place[one], place[other]] += 1
    credit, n = _credit(len(labels), weights), len(first)
    kappa, interval = kappa_by_variance(table / n, n, credit, level)
    low, high = interval.low, interval.high
    if not math.isnan(kappa) and n > 1:
        least, most = expanded_quantiles(_kappas(tables_behind(table), credit), n, level)
        low, high = max(-1.0, min(low, least)), min(1.0, max(high, most))
    return Agreement(
        n=n, observed=float(np.trace(table)) / n, kappa=kappa, ci_low=low, ci_high=high,
        labels=labels, table=tuple(tuple(int(v) for v in row) for row in table),
    )  # fmt: skip


def _label_order(label: object) -> tuple[int, object]:
    return (0, label) if isinstance(label, bool | int | float) else (1, str(label))


def _credit(k: int, weights: Weights) -> Floats:
    """The agreement credit of each pair of labels: 1 on the diagonal."""
    if weights == "none" or k == 1:
        return np.eye(k)
    distance = np.abs(np.subtract.outer(np.arange(k), np.arange(k))) / (k - 1)
    return 1.0 - (distance if weights == "linear" else distance**2)


def _kappas(p: Floats, credit: Floats) -> Floats:
    """Kappa of each of many tables of shares."""
    observed = (p * credit).sum(axis=(1, 2))
    chance = np.einsum("ti,tj,ij->t", p.sum(axis=2), p.sum(axis=1), credit)
    return np.asarray((observed - chance) / (1.0 - chance))


def kappa_by_variance(p: Floats, n: int, credit: Floats, level: float) -> tuple[float, Interval]:
    """(kappa, its large-sample interval) of a table of shares of `n` things."""
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    observed = float((p * credit).sum())
    chance = float((np.outer(rows, columns) * credit).sum())
    if chance >= 1.0:
        return math.nan, Interval(math.nan, math.nan)
    kappa = (observed - chance) / (1 - chance)
    mean_credit = np.add.outer(credit @ columns, credit.T @ rows)
    variance = (p * (credit - mean_credit * (1 - kappa)) ** 2).sum() - (kappa - chance * (1 - kappa)) ** 2
    half = two_sided_z(level) * math.sqrt(max(0.0, float(variance)) / n) / (1 - chance)
    return kappa, Interval(kappa - half, kappa + half)
