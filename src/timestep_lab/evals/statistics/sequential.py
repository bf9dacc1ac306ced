"""Sequential paired comparisons: may be checked after every case and stopped at any look.

A fixed-sample test that is checked repeatedly rejects too often: up to 27 % of the time instead of 5 %. These tests
hold their level over all looks together, and so do their intervals, which exclude zero exactly when the test rejects.

| scores | number of cases | test |
|---|---|---|
| pass/fail | planned | exact McNemar with α spent case by case (Lan & DeMets 1983, Biometrika 70:659), Pocock type |
| graded | planned | Student's and Hall's t, both, against an O'Brien-Fleming boundary, and exact sign flips of the cases' differences with the same α spending; none before case 72 |
| grouped cases | planned | sign flips of group sums with α spent group by group, O'Brien-Fleming type, and a CR2 interval (graded: skewness-corrected as in Hall's); none before group 6 |
| pass/fail, or from 0 to 1 | open: cases may be added | betting, with uniformly mixed stakes (on pass/fail: the beta mixture) |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from timestep_lab.evals.statistics.intervals import (
    LEAST_GROUPS,
    Floats,
    Interval,
    clipped,
    cluster_interval,
    group_sums,
    normal_cdf,
    normal_cdf_array,
    normal_quantile,
    skewed_interval_of,
    skewness,
    tango_at,
    tango_statistic,
    two_sided_t,
    unseen,
)
from timestep_lab.evals.statistics.paired import CASES_PER_SQUARED_SKEWNESS, LEAST_GRADED

MOST_LOOKS = 400
"""Maximum number of looks at graded scores: with more cases, there is a look after every second, third … case."""
_NODES_A_SD = 3.0
_SIDE, _SIDE_WEIGHTS = np.polynomial.legendre.leggauss(24)


def pocock(share: float, alpha: float) -> float:
    """Pocock-type spending function: the part of `alpha` that may be spent when this share of the cases is in; nearly
    uniform (Lan & DeMets 1983).
    """
    return alpha * math.log1p((math.e - 1.0) * min(1.0, share))


def obrien_fleming(share: float, alpha: float) -> float:
    """O'Brien–Fleming type spending function: almost nothing is spent early (Lan & DeMets 1983)."""
    return 2.0 * normal_cdf(-normal_quantile(1.0 - alpha / 2.0) / math.sqrt(min(1.0, share))) if share > 0 else 0.0


class SpendingMcNemar:
    """McNemar's exact test after each of `planned` cases, with `alpha` for all looks together.

    Given the discordant cases, each win is a fair coin toss under the null hypothesis. The distribution of wins minus
    losses over all paths that have not crossed the boundary is updated case by case; after each case its tails are cut
    off as far as the spending function allows.
    """

    def __init__(self, planned: int, alpha: float, spend: Callable[[float, float], float] = pocock) -> None:
        self.planned, self.alpha, self._spend = planned, alpha, spend
        self.cases = self.wins = self.losses = 0
        self.crossed_chance = 0.0
        """Probability under the null hypothesis that a path has crossed so far; at most `alpha`."""
        self.crossed = False
        self._chances: Floats = np.ones(1)
        self._cut = 0

    def add(self, difference: float) -> None:
        """Add the next case: 1 for a win, −1 for a loss, 0 for no difference."""
        self.cases += 1
        if difference:
            self.wins, self.losses = self.wins + (difference > 0), self.losses + (difference < 0)
            grown = np.zeros(len(self._chances) + 1)
            grown[:-1] = self._chances
            grown[1:] += self._chances
            self._chances = grown * 0.5
        left = self.room - self.crossed_chance
        while len(self._chances) > 1 and (ends := float(self._chances[0] + self._chances[-1])) <= left:
            self._chances, self._cut = self._chances[1:-1], self._cut + 1
            self.crossed_chance += ends
            left -= ends
        self.crossed = self.crossed or abs(self.wins - self.losses) > self.bound

    @property
    def room(self) -> float:
        """The cumulative α that may have been spent by now."""
        return self._spend(self.cases / self.planned, self.alpha)

    @property
    def bound(self) -> int:
        """Wins minus losses beyond this value, in either direction, reject."""
        return self.wins + self.losses - 2 * self._cut

    @property
    def z(self) -> float:
        """The critical value of the repeated interval, instead of 1.96: `(bound + 1) / √(wins + losses)` (Jennison &
        Turnbull 1989, JRSS B 51:305).

        If too few cases differ for any outcome to reject, at least the value for the smallest number that could.
        """
        differ = self.wins + self.losses
        if differ > 0 and self.bound < differ:
            return (self.bound + 1) / math.sqrt(differ)
        fewest = math.sqrt(max(1.0, math.ceil(1.0 - math.log2(max(self.room, 1e-300)))))
        return max(fewest, (self.bound + 1) / math.sqrt(differ)) if differ else fewest


@lru_cache(maxsize=64)
def normal_boundary(
    planned: int, first: int, alpha: float, spend: Callable[[float, float], float] = obrien_fleming
) -> dict[int, float]:
    """Critical z by case, for a normal score checked from case `first` on.

    The density of the score over paths that have not crossed is propagated from look to look by Gauss–Legendre
    quadrature (Armitage, McPherson & Rowe 1969, JRSS A 132:235), and the boundary is chosen so that the probability
    beyond it is what may be spent.
    """
    step = max(1, math.ceil((planned - first) / MOST_LOOKS))
    looks = [*range(first, planned, step), planned] if planned >= first else []
    boundary: dict[int, float] = {}
    nodes: Floats = np.zeros(1)
    mass: Floats = np.ones(
        1
    )  # The density is even, so only the half line is stored: a point mass at 0 before the first case.
    before, spent = 0, 0.0
    for look in looks:
        sd, room = math.sqrt(look - before), spend(look / planned, alpha) - spent
        bound = _where_room_is_left(nodes, mass, sd, room)
        spent += _beyond(bound, nodes, mass, sd)
        x, w = _legendre(16 * math.ceil((24 + _NODES_A_SD * bound / sd) / 16))
        new = bound * (x + 1.0) / 2.0
        away, across = (new[:, None] - nodes[None]) / sd, (new[:, None] + nodes[None]) / sd
        density = (np.exp(-0.5 * away**2) + np.exp(-0.5 * across**2)) @ mass / (sd * math.sqrt(2.0 * math.pi))
        # Each point stands for itself and its mirror image, so the half line carries the full probability.
        nodes, mass, before = new, density * w * bound / 2.0, look
        boundary[look] = bound / math.sqrt(look)
    return boundary


def _beyond(bound: float, nodes: Floats, mass: Floats, sd: float) -> float:
    """The probability outside of ± `bound` one step later."""
    return float((normal_cdf_array((nodes - bound) / sd) + normal_cdf_array((-nodes - bound) / sd)) @ mass)


def _where_room_is_left(nodes: Floats, mass: Floats, sd: float, room: float) -> float:
    low, high = 0.0, float(nodes[-1]) + 12.0 * sd
    for _ in range(48):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _beyond(middle, nodes, mass, sd) > room else (low, middle)
    return (low + high) / 2.0


@lru_cache(maxsize=256)
def _legendre(count: int) -> tuple[Floats, Floats]:
    x, w = np.polynomial.legendre.leggauss(count)
    return x, w


def _falling_root(falling: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2.0


def mixture_e_value(wins: int, losses: int) -> float:
    """2^k · B(1 + wins, 1 + losses) / B(1, 1) with k = wins + losses: the wealth, starting from 1, of a gambler who
    mixes all stakes uniformly.

    Under the null hypothesis it ever reaches 1/α with a probability of at most α, for any number of looks (Ville 1939).
    """
    k = wins + losses
    log = k * math.log(2.0) + math.lgamma(1 + wins) + math.lgamma(1 + losses) - math.lgamma(2 + k)
    return math.exp(min(log, 700.0))


def betting_e_value(differences: Floats, null: float = 0.0) -> float:
    """The e-value for differences between −1 and 1 with any distribution, against a mean of `null`: half on positive
    and half on negative stakes, each mixed uniformly up to the largest admissible stake (Waudby-Smith & Ramdas 2024,
    JRSS B 86:1). For pass/fail at 0 it equals the beta mixture."""
    up, down = (_SIDE + 1.0) / 2.0 / (1.0 + null), -(_SIDE + 1.0) / 2.0 / (1.0 - null)
    sizes, counts = np.unique(differences, return_counts=True)
    logs = np.log1p(np.outer(np.concatenate([up, down]), sizes - null)) @ counts
    return float(np.concatenate([_SIDE_WEIGHTS, _SIDE_WEIGHTS]) @ np.exp(np.minimum(logs, 700.0))) / 4.0


def betting_interval(differences: Floats, alpha: float) -> Interval:
    """All means for which the e-value has not reached 1/α: a confidence sequence, valid at all looks together."""
    mean, edge = float(np.clip(differences.mean(), -1 + 1e-9, 1 - 1e-9)), 1.0 - 1e-9
    if betting_e_value(differences, mean) >= 1.0 / alpha:
        return Interval(mean, mean)
    low, high = -edge, mean
    if betting_e_value(differences, -edge) < 1.0 / alpha:
        high = -1.0
    else:
        high = _falling_root(lambda m: betting_e_value(differences, m) - 1.0 / alpha, low, high)
    up = edge
    if betting_e_value(differences, edge) < 1.0 / alpha:
        return Interval(high, 1.0)
    return Interval(high, -_falling_root(lambda m: betting_e_value(differences, -m) - 1.0 / alpha, -up, -mean))


@dataclass(slots=True)
class Moments:
    """Count, mean, and sums of squared and cubed deviations, updated incrementally (Pébay 2008, SAND2008-6212)."""

    n: int = 0
    mean: float = 0.0
    second: float = 0.0
    third: float = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        delta = value - self.mean
        step = delta / self.n
        term = delta * step * (self.n - 1)
        self.mean += step
        self.third += term * step * (self.n - 2) - 3.0 * step * self.second
        self.second += term

    @property
    def sd(self) -> float:
        return math.sqrt(self.second / (self.n - 1)) if self.n > 1 else 0.0

    @property
    def skewness(self) -> float:
        return math.sqrt(self.n) * self.third / self.second**1.5 if self.second > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The state of a pair after a number of cases. `z`: the critical value at this look (instead of 1.96); infinite if
    no conclusion is allowed.
    """

    cases: int
    """Number of cases looked at, including those without a score on one side."""
    n: int
    diff: float
    decided_by: int
    z: float
    score: float
    """The difference in standard errors."""
    low_above: Callable[[float], bool]
    """Whether the interval is above this difference."""
    high_below: Callable[[float], bool]
    interval: Callable[[], Interval]
    test: str


GRID = 2048
"""Steps into which the largest of 40 sums is divided, at most: of more sums, less finely."""


class SpendingFlips:
    """Whether the mean difference is `null`, looked at after every group (or case) with `alpha` for all looks together.

    Were it so and the sums symmetric about it, each sum had either sign with the same chance. The distribution of their total over all
    paths of signs that have not crossed is carried along; after each sum as much of its outermost ends is cut off as may be spent (Lan &
    DeMets 1983), and the total seen rejects when it lies there.

    Sums are counted in whole steps of `unit`. A rounded sum still has either sign with the same chance, so the level is exact; only what
    is measured is rounded.
    """

    def __init__(self, alpha: float, null: float = 0.0, unit: float = 1.0 / GRID) -> None:
        self._alpha, self.null, self.unit = alpha, null, unit
        self._chances: Floats = np.ones(1)
        self._seen, self.count = 0, 0
        self.crossed_chance = 0.0
        """Of a path having crossed up to now, were there no difference: never more than `alpha`."""
        self.crossed = 0
        """1 once it lies above, −1 once below."""

    @classmethod
    def over(cls, sums: Sequence[tuple[float, int, float]], alpha: float, null: float) -> SpendingFlips:
        """Of the sums that are there, in steps that fit these: arguments of `add`, one after the other."""
        steps = np.abs([total - size * null for total, size, _ in sums])
        test = cls(alpha, null, _unit_of(steps, max(16, GRID * 40 // max(40, len(sums)))))
        test.catch_up(sums)
        return test

    def fits(self, sums: Sequence[tuple[float, int, float]]) -> bool:
        """Whether what came since is still of the size that its steps were made for."""
        return all(abs(total - size * self.null) <= 2 * GRID * self.unit for total, size, _ in sums[self.count :])

    def catch_up(self, sums: Sequence[tuple[float, int, float]]) -> None:
        """With those that came since."""
        for total, size, share in sums[self.count :]:
            self.add(total, size, share)

    def add(self, total: float, size: int, share: float) -> None:
        """The next group: the sum of its differences, and how many; `share` of the cases that are in then."""
        steps = round((total - size * self.null) / self.unit)
        self._seen, self.count = self._seen + steps, self.count + 1
        if reach := abs(steps):
            grown = np.zeros(len(self._chances) + 2 * reach)
            grown[: len(self._chances)] = self._chances
            grown[2 * reach :] += self._chances
            self._chances = grown * 0.5
        if self.count >= LEAST_GROUPS:
            self._spend(obrien_fleming(share, self._alpha))

    def _spend(self, room: float) -> None:
        middle = len(self._chances) // 2
        # The outermost one, two, three … of both sides.
        ends = np.cumsum(self._chances[:middle] + self._chances[: -middle - 1 : -1])
        cut = int(np.searchsorted(ends, room - self.crossed_chance, side="right"))
        if cut:
            self.crossed_chance += float(ends[cut - 1])
            self._chances = self._chances[cut : len(self._chances) - cut]
        if not self.crossed and abs(self._seen) > len(self._chances) // 2:
            self.crossed = 1 if self._seen > 0 else -1


def _unit_of(sizes: Floats, grid: int) -> float:
    """Of sums of these sizes. Later ones may be finer, so it is divided further as long as the grid allows."""
    largest = float(sizes.max(initial=0.0)) or 1.0
    for parts in range(1, 65):
        if np.abs(sizes * parts - np.rint(sizes * parts)).max(initial=0.0) < 1e-9 and largest * parts <= grid:
            return 1.0 / (parts * max(finer for finer in (1, 2, 4, 12, 60, 120) if largest * parts * finer <= grid))
    return largest / grid


class Watched:
    """One pair of candidates at one level, case by case."""

    def __init__(self, planned: int, alpha: float, *, open_ended: bool = False) -> None:
        self.planned, self.alpha, self.open_ended = planned, alpha, open_ended
        self.cases = 0
        self._moments = Moments()
        self._mcnemar = SpendingMcNemar(planned, alpha)
        self._differences: list[float] = []
        self._sums: list[tuple[float, int, float]] = []
        self._flips: dict[float, SpendingFlips] = {}
        self._pass_fail = self.is_unit = True
        """So far: all scores are 0 or 1; all scores are between 0 and 1."""
        self._wins = self._losses = 0

    def add(self, scores: tuple[float, float] | None) -> Look:
        """Add the next case: the means of a and b; None if missing."""
        self.cases += 1
        difference = 0.0
        if scores is not None:
            difference = scores[1] - scores[0]
            if abs(difference) < 1e-12 * max(1.0, abs(scores[0]), abs(scores[1])):
                difference = 0.0
            self._pass_fail = self._pass_fail and all(score in (0.0, 1.0) for score in scores)
            self.is_unit = self.is_unit and all(0.0 <= score <= 1.0 for score in scores)
            self._moments.add(difference)
            self._wins, self._losses = self._wins + (difference > 0), self._losses + (difference < 0)
            if self.open_ended:
                self._differences.append(difference)
            else:
                self._sums.append((difference, 1, self.cases / self.planned))
        if not self.open_ended and self._pass_fail:
            self._mcnemar.add(difference)
        return self._open() if self.open_ended else self._exact() if self._pass_fail else self._graded()

    def _exact(self) -> Look:
        test, n = self._mcnemar, self._moments.n
        wins, losses, z = test.wins, test.losses, test.z

        def low_above(d: float) -> bool:
            if d == 0.0:
                return wins - losses > test_bound
            return n > 0 and tango_statistic(wins, losses, n, d) > z

        def high_below(d: float) -> bool:
            if d == 0.0:
                return losses - wins > test_bound
            return n > 0 and tango_statistic(wins, losses, n, d) < -z

        test_bound = test.bound
        return self._look(
            z, low_above, high_below, lambda: tango_at(wins, losses, n, z), "exact McNemar, α spent by case"
        )

    def _graded(self) -> Look:
        moments, unit = self._moments, self.is_unit
        boundary = normal_boundary(self.planned, LEAST_GRADED, self.alpha)
        z = boundary.get(self.cases, math.inf)
        n, mean, sd, skew = moments.n, moments.mean, moments.sd, moments.skewness
        silent = n < max(LEAST_GRADED, CASES_PER_SQUARED_SKEWNESS * skew**2)
        name = "skew-corrected t, O’Brien-Fleming"
        if math.isinf(z) or n < 2:
            return self._look(math.inf, _never, _never, lambda: Interval(math.nan, math.nan), name)
        level = 2.0 * normal_cdf(z) - 1.0
        if sd > 0:
            interval = skewed_interval_of(mean, sd, skew, n, level)
        elif unit:
            interval = unseen(mean, n, -1.0, 1.0, level)
        else:
            interval = Interval(math.nan, math.nan)
        interval = clipped(interval, -1.0, 1.0) if unit else interval
        sums = len(self._sums)
        return self._look(
            z, lambda d: not silent and interval.low > d and self._crossed(d, sums) > 0,
            lambda d: not silent and interval.high < d and self._crossed(d, sums) < 0, lambda: interval, name,
        )  # fmt: skip

    def _crossed(self, null: float, count: int) -> int:
        """What flips of the first `count` sums say of a mean of `null`: 1 it lies above, −1 below. Worked out only where the interval leaves
        `null` out: t takes normal scores for granted, and grades that seldom differ, all by the same, are not."""
        sums = self._sums[:count]
        if null not in self._flips or not self._flips[null].fits(sums):
            self._flips[null] = SpendingFlips.over(sums, self.alpha, null)
        self._flips[null].catch_up(sums)
        return self._flips[null].crossed

    def _open(self) -> Look:
        if not self.is_unit or not self._differences:
            return self._look(math.inf, _never, _never, lambda: Interval(math.nan, math.nan), "none")
        wins, losses, mean = self._wins, self._losses, self._moments.mean
        pass_fail, enough = self._pass_fail, 1.0 / self.alpha
        differences = np.asarray(self._differences)

        def e_value(d: float) -> float:
            return mixture_e_value(wins, losses) if pass_fail and d == 0.0 else betting_e_value(differences, d)

        return self._look(
            math.sqrt(2.0 * math.log(enough)), lambda d: mean > d and e_value(d) >= enough, lambda d: mean < d and e_value(d) >= enough,
            lambda: betting_interval(differences, self.alpha), "betting, at every look",
        )  # fmt: skip

    def _look(
        self, z: float, low_above: Callable[[float], bool], high_below: Callable[[float], bool], interval: Callable[[], Interval], test: str,
    ) -> Look:  # fmt: skip
        moments, decided = self._moments, self._wins + self._losses
        if self._pass_fail:
            score = (self._wins - self._losses) / math.sqrt(decided) if decided else 0.0
        else:
            score = moments.mean / (moments.sd / math.sqrt(moments.n)) if moments.sd else 0.0
        is_level = abs(moments.mean) < 1e-12 * max(1.0, moments.sd)  # The mean is kept up case by case.
        return Look(
            score=score, cases=self.cases, n=moments.n, diff=math.nan if not moments.n else 0.0 if is_level else moments.mean,
            decided_by=decided, z=z, low_above=low_above, high_below=high_below, interval=interval, test=test,
        )  # fmt: skip


class WatchedGroups(Watched):
    """One pair whose cases come in groups: `groups` is the group of each case, in the order of the cases."""

    def __init__(self, planned: int, alpha: float, groups: Sequence[object]) -> None:
        super().__init__(planned, alpha)
        self._groups = groups
        self._values: list[float] = []
        self._members: list[object] = []
        self._open_sum, self._open_size = 0.0, 0
        self._last = self._look(math.inf, _never, _never, lambda: Interval(math.nan, math.nan), "none")

    def add(self, scores: tuple[float, float] | None) -> Look:
        """Add the next case. The look changes only when a group is complete."""
        at, self.cases = self.cases, self.cases + 1
        if scores is not None:
            difference = scores[1] - scores[0]
            self._pass_fail = self._pass_fail and all(score in (0.0, 1.0) for score in scores)
            self.is_unit = self.is_unit and all(0.0 <= score <= 1.0 for score in scores)
            self._moments.add(difference)
            self._wins, self._losses = self._wins + (difference > 1e-12), self._losses + (difference < -1e-12)
            self._values.append(difference)
            self._members.append(self._groups[at])
            self._open_sum, self._open_size = self._open_sum + difference, self._open_size + 1
        if self.cases < len(self._groups) and self._groups[self.cases] == self._groups[at]:
            return self._last
        if self._open_size:
            self._sums.append((self._open_sum, self._open_size, self.cases / self.planned))
            self._open_sum, self._open_size = 0.0, 0
        self._last = self._grouped()
        return self._last

    def _grouped(self) -> Look:
        name, count = "flips of group sums, α spent by group", len(self._sums)
        planned = len(dict.fromkeys(self._groups))
        z = (
            normal_boundary(planned, LEAST_GROUPS, self.alpha).get(count, math.inf)
            if planned >= LEAST_GROUPS
            else math.inf
        )
        if math.isinf(z) or (not self._pass_fail and len(self._values) < LEAST_GRADED):
            return self._look(math.inf, _never, _never, lambda: Interval(math.nan, math.nan), name)
        values = np.asarray(self._values)
        level = 2.0 * normal_cdf(z) - 1.0
        interval, silent = cluster_interval(values, self._members, level), False
        if interval.high - interval.low < 1e-12:  # No group differs from the others.
            interval = (
                unseen(float(values.mean()), count, -1.0, 1.0, level) if self.is_unit else Interval(math.nan, math.nan)
            )
        elif not self._pass_fail:
            mean, sizes = float(values.mean()), group_sums(values, self._members)
            skew = skewness(sizes[1] - mean * sizes[0])
            silent = count < CASES_PER_SQUARED_SKEWNESS * skew**2
            interval = skewed_interval_of(
                mean, (interval.high - mean) / two_sided_t(level, count - 1) * math.sqrt(count), skew, count, level
            )
        interval = clipped(interval, -1.0, 1.0) if self.is_unit else interval

        return self._look(
            z, lambda d: not silent and interval.low > d and self._crossed(d, count) > 0,
            lambda d: not silent and interval.high < d and self._crossed(d, count) < 0, lambda: interval, name,
        )  # fmt: skip


def _never(_: float) -> bool:
    return False


def chance_of_better(z: float, share: float, alpha: float) -> float:
    """Conditional power: the probability that the leader will be shown to be better by the last case, if the trend
    continues (Lan & Wittes 1988, Biometrics 44:579). `z`: the standardised difference at this share of the cases."""
    if share >= 1.0:
        return 0.0
    return normal_cdf((abs(z) / math.sqrt(share) - normal_quantile(1.0 - alpha / 2.0)) / math.sqrt(1.0 - share))


def cases_for_margin(differing: float, margin: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Number of cases to show, with this power, that one of two equally good candidates is no worse by more than the
    margin, if they differ in this fraction of cases: (z(1−α/2) + z(power))² · D / margin², which is 7.85 · D / margin²
    for 5 % and 80 %."""
    return math.ceil((normal_quantile(1 - alpha / 2) + normal_quantile(power)) ** 2 * differing / margin**2 - 1e-9)
