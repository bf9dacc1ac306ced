"""The blind arena: pairwise votes on the answers of a comparison, without candidate names. The next pair is the most
informative one.

arena = Arena(rows, grid)
duel = arena.next()                  # a DuelRecord, without candidate names
arena.vote(duel.id, "left")          # stored before it returns
arena.ranking()                      # ratings with intervals
"""

from __future__ import annotations

import math
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from timestep_lab.evals.over_traces import Scrubber
from timestep_lab.evals.statistics.intervals import Agreement, agreement, normal_cdf_array, two_sided_z
from timestep_lab.model.codec import Json, objects_of
from timestep_lab.model.comparison import CellRecord
from timestep_lab.model.errors import NotFoundError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import DuelRecord, VoteRecord

if TYPE_CHECKING:
    from timestep_lab.evals.grid import Grid


# --- Bradley–Terry ratings from pairwise votes: P(left wins) = σ(θ_left − θ_right + γ·x)
#
# Bradley & Terry 1952, Biometrika 39:324. A tie counts as half a win for each side. θ has a wide normal prior, so that ratings exist
# from the first vote on. γ, the effect of `x` (how much longer the left answer is), is estimated jointly, so θ is the rating after
# controlling for length (the "style control" of Chatbot Arena, Li et al. 2024).


Floats = NDArray[np.float64]
Outcome = Literal["left", "right", "tie", "both_bad"]

POINTS = {"left": 1.0, "right": 0.0, "tie": 0.5, "both_bad": 0.5}
ELO_SCALE = 400.0 / math.log(10.0)
LEAST_VOTES = 5
"""Minimum number of votes on a candidate for an interval; with fewer, the interval would mostly reflect the prior."""
ELO_BASE = 1000.0
_PRIOR_SD = 2.0
"""Standard deviation of the prior of a rating, in logits: 2 is a win rate of 88 % against an average candidate."""
_NEWTON_STEPS = 12


@dataclass(frozen=True, slots=True)
class Vote:
    left: str
    right: str
    outcome: Outcome
    length: float = 0.0
    """`length_difference` of the two answers; 0 ignores length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A rating on the Elo scale: 1000 is the average of the pool, and a difference of 400 means odds of ten to one."""

    name: str
    rating: float
    ci_low: float
    ci_high: float
    votes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    ratings: tuple[Rating, ...]
    """Best first."""
    length_effect: float
    """Log-odds that the left answer gains per unit of `length_difference`; positive if voters prefer long answers."""
    votes: int


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted model, in logits. `covariance` is that of the posterior of (ratings…, length effect)."""

    names: tuple[str, ...]
    theta: Floats
    length_effect: float
    covariance: Floats


def length_difference(left: str, right: str) -> float:
    """(a − b) / (a + b) for the lengths in words of two answers: 0 for equal lengths, 1 if the right answer is empty."""
    a, b = len(left.split()), len(right.split())
    return (a - b) / (a + b) if a + b else 0.0


def fit(names: Sequence[str], votes: Sequence[Vote]) -> Fit:
    """The mode of the posterior and its normal approximation. Every candidate in `votes` must be in `names`."""
    tally: dict[tuple[str, str, float], list[float]] = {}
    for vote in votes:
        tally.setdefault((vote.left, vote.right, vote.length), []).append(POINTS[vote.outcome])
    alike = [Vote(left, right, "tie", length) for left, right, length in tally]
    design, _ = _design(names, alike)
    points = np.array([sum(group) / len(group) for group in tally.values()])
    counts = np.array([float(len(group)) for group in tally.values()])
    beta, information = _newton(design, points, counts)
    covariance = np.asarray(np.linalg.inv(information), dtype=np.float64)
    return Fit(tuple(names), beta[:-1], float(beta[-1]), covariance)


def rank(
    names: Sequence[str], votes: Sequence[Vote], *, draws: int = 3_000, level: float = 0.95, seed: int = 0
) -> Ranking:
    """Ratings relative to the pool's average, each with an interval: the hull of two posterior intervals.

    The first consists of quantiles of `draws` importance samples (proposal: Student's t with 5 degrees of freedom
    around the mode); the second is the normal approximation around the mode. With few votes each alone is too narrow in
    some cases: the normal interval ignores the skew of one-sided votes, and the quantiles depend on the prior. Unlike
    bootstrap intervals, neither collapses to a point if all votes agree.
    """
    fitted = fit(names, votes)
    k = len(names)
    centred = np.eye(k + 1)
    centred[:k, :k] -= 1.0 / k
    mode = np.append(fitted.theta, fitted.length_effect)
    drawn, weights = _posterior(mode, fitted.covariance, *_design(names, votes), draws=draws, seed=seed)
    ratings = []
    for i, name in enumerate(names):
        had = sum(name in (vote.left, vote.right) for vote in votes)
        rating = float(centred[i] @ mode)
        low, high = -math.inf, math.inf
        if had >= LEAST_VOTES:
            half = two_sided_z(level) * math.sqrt(float(centred[i] @ fitted.covariance @ centred[i]))
            least, most = _quantiles(drawn @ centred[i], weights, ((1.0 - level) / 2.0, (1.0 + level) / 2.0))
            low, high = min(rating - half, least), max(rating + half, most)
        ratings.append(Rating(name=name, rating=_elo(rating), ci_low=_elo(low), ci_high=_elo(high), votes=had))
    ratings.sort(key=lambda r: -r.rating)
    return Ranking(ratings=tuple(ratings), length_effect=fitted.length_effect, votes=len(votes))


def _posterior(
    mode: Floats, covariance: Floats, design: Floats, points: Floats, *, draws: int, seed: int
) -> tuple[Floats, Floats]:
    """Draws of all parameters and their importance weights, which sum to 1."""
    degrees, d = 5.0, len(mode)
    generator = np.random.default_rng(seed)
    steps = generator.standard_normal((draws, d)) / np.sqrt(generator.chisquare(degrees, draws) / degrees)[:, None]
    drawn = mode + steps @ np.linalg.cholesky(covariance).T
    proposed = -0.5 * (degrees + d) * np.log1p((steps**2).sum(axis=1) / degrees)
    target = -0.5 * (drawn**2).sum(axis=1) / _PRIOR_SD**2
    rows, counts = np.unique(np.column_stack([design, points]), axis=0, return_counts=True)
    for row, count in zip(rows, counts, strict=True):
        eta = drawn @ row[:-1]
        target += count * (row[-1] * eta - np.logaddexp(0.0, eta))
    weights = np.exp(target - proposed - (target - proposed).max())
    return drawn, weights / weights.sum()


def _quantiles(values: Floats, weights: Floats, shares: tuple[float, float]) -> tuple[float, float]:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) - 0.5 * weights[order]
    low, high = np.interp(shares, reached, values[order])
    return float(low), float(high)


def _elo(logit: float) -> float:
    return ELO_BASE + ELO_SCALE * float(logit)


def _design(names: Sequence[str], votes: Sequence[Vote]) -> tuple[Floats, Floats]:
    """The design matrix, one row per vote: +1 left, −1 right, then the length difference; and the left side's points
    (1, ½ or 0).
    """
    place = {name: index for index, name in enumerate(names)}
    design = np.zeros((len(votes), len(names) + 1))
    for row, vote in enumerate(votes):
        design[row, place[vote.left]] += 1.0
        design[row, place[vote.right]] -= 1.0
        design[row, -1] = vote.length
    return design, np.array([POINTS[vote.outcome] for vote in votes])


def _newton(design: Floats, points: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """The mode of the posterior and its information matrix, by Newton's method. `counts`: number of votes per row."""
    prior = np.eye(design.shape[1]) / _PRIOR_SD**2
    beta, information = np.zeros(design.shape[1]), prior
    for _ in range(_NEWTON_STEPS):
        expected = 1.0 / (1.0 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = (counts * (points - expected)) @ design - prior @ beta
        information = (design.T * (counts * expected * (1.0 - expected))) @ design + prior
        step = np.linalg.solve(information, gradient)
        beta = beta + np.clip(step, -2.0, 2.0)
        if np.abs(step).max(initial=0.0) < 1e-9:
            break
    return beta, information


# -- Which two candidates to show next: the pair whose vote is expected to tell most about the ranking

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def information_gains(fit: Fit) -> dict[tuple[str, str], float]:
    """Expected information in bits about the ranking from one vote, for each pair."""
    n = len(fit.names)
    pairs = list(combinations(range(n), 2))
    contrasts = np.zeros((len(pairs), n))
    for row, (i, j) in enumerate(pairs):
        contrasts[row, i], contrasts[row, j] = 1.0, -1.0
    covariance = fit.covariance[:n, :n]
    means = contrasts @ fit.theta
    joint = contrasts @ covariance @ contrasts.T
    variances = np.diag(joint)
    before = _entropy(means / np.sqrt(variances)).sum()
    # Row: the pair voted on. A vote reduces the variance of every contrast by a rank-one update, and shifts its mean by as much.
    rate = _win_rate(means, variances)
    information = rate * (1.0 - rate)
    moved = joint**2 * (information / (1.0 + information * variances))[:, None]
    left = np.maximum(variances[None, :] - moved, 1e-12)
    shifted = means[None, None, :] + np.sqrt(moved)[None] * _NODES[:, None, None]
    after = np.einsum("q,qrc->r", _WEIGHTS, _entropy(shifted / np.sqrt(left)))
    gains = np.maximum(0.0, before - after)
    return {(fit.names[i], fit.names[j]): float(gain) for (i, j), gain in zip(pairs, gains, strict=True)}


def next_pair(
    fit: Fit, *, seen: Iterable[tuple[str, str]] = (), generator: np.random.Generator | None = None
) -> tuple[str, str]:
    """The most informative pair, in random left/right order. `seen`: pairs with no remaining cases."""
    gone = {frozenset(pair) for pair in seen}
    gains = {pair: gain for pair, gain in information_gains(fit).items() if frozenset(pair) not in gone}
    if not gains:
        raise ValueError("every pair has been shown")
    generator = generator or np.random.default_rng()
    best = max(gains.values())
    ties: Sequence[tuple[str, str]] = [pair for pair, gain in gains.items() if gain >= best - 1e-9]
    left, right = ties[int(generator.integers(len(ties)))]
    return (left, right) if generator.random() < 0.5 else (right, left)


def _win_rate(mean: Floats, variance: Floats) -> Floats:
    """E[σ(x)] for normal x, by MacKay's approximation (MacKay 1992, Neural Computation 4:720)."""
    return np.asarray(1.0 / (1.0 + np.exp(-mean / np.sqrt(1.0 + np.pi * variance / 8.0))))


def _entropy(z: Floats) -> Floats:
    """Entropy in bits of the event that a normal variable with this z-score is above 0."""
    p = np.clip(normal_cdf_array(z), 1e-15, 1 - 1e-15)
    return np.asarray(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)))


# --

Fight = tuple[str, int, str, str]
"""Case id, epoch, left candidate, right candidate."""


class Votes(Protocol):
    def find(self, *, comparison_id: str) -> list[VoteRecord]: ...
    def insert(self, record: VoteRecord, /) -> VoteRecord: ...


class ArenaRows(Protocol):
    """Storage of votes: `evals.rows.ComparisonRows`, or a served lab."""

    @property
    def user_id(self) -> str: ...
    @property
    def votes(self) -> Votes: ...


@dataclass(frozen=True, slots=True)
class Revealed:
    """The candidates of a duel, revealed after the vote."""

    left: str
    right: str
    outcome: Outcome


class Arena:
    """Serves duels and stores votes in `rows`. Methods block. Raises `UsageError` if fewer than two candidates answered
    a common case.
    """

    def __init__(self, rows: ArenaRows, grid: Grid, *, seed: int | None = None) -> None:
        self._rows, self._grid = rows, grid
        self._generator = np.random.default_rng(seed)
        self._cells: dict[tuple[str, int], dict[str, CellRecord]] = defaultdict(dict)
        for cell in grid.cells:
            if cell.status == "done" and cell.output:
                self._cells[cell.case_id, cell.epoch][cell.candidate] = cell
        self._inputs = {case.case_id: case.input for case in grid.cases}
        agents = [str(c["agent"]) for c in objects_of(grid.record.candidates) if c.get("agent")]
        models = [str(c["model"]) for c in objects_of(grid.record.candidates) if c.get("model")]
        self._scrubber = Scrubber([*grid.candidates, *agents, *models])
        self._open: dict[str, Fight] = {}
        self._votes = rows.votes.find(comparison_id=grid.id)
        if not self._fights_left(set()):
            raise UsageError("No case has answers from two candidates.", "Compare at least two candidates.")

    @property
    def votes(self) -> list[VoteRecord]:
        return list(self._votes)

    def next(self) -> DuelRecord | None:
        """The next duel: the most informative pair of candidates, on a case without a vote for this pair; None if there
        are none left.
        """
        left = self._fights_left(self._voted())
        if not left:
            return None
        known = fit(self._grid.candidates, [_as_vote(vote) for vote in self._votes])
        spent = [pair for pair in combinations(self._grid.candidates, 2) if frozenset(pair) not in left]
        a, b = next_pair(known, seen=spent, generator=self._generator)
        choices = left[frozenset((a, b))]
        case_id, epoch = choices[int(self._generator.integers(len(choices)))]
        duel_id = secrets.token_hex(12)
        self._open[duel_id] = (case_id, epoch, a, b)
        one, two = self._cells[case_id, epoch][a], self._cells[case_id, epoch][b]
        return DuelRecord(
            id=duel_id, input=self._inputs[case_id], left=self._scrubber.text(one.output or ""), right=self._scrubber.text(two.output or ""),
            left_steps=self._steps(one), right_steps=self._steps(two),
        )  # fmt: skip

    def vote(self, duel_id: str, outcome: Outcome) -> Revealed:
        """Store a vote and reveal the candidates. Each duel takes one vote. Raises `NotFoundError`, `UsageError`."""
        if outcome not in POINTS:
            raise UsageError(f"{outcome!r} is not a valid vote.", f"Vote {', '.join(POINTS)}.")
        if duel_id not in self._open:
            raise NotFoundError(
                f"There is no open duel {duel_id!r}.",
                "It may have been voted on already; get the next one with arena.next().",
            )
        case_id, epoch, left, right = self._open[duel_id]
        cells = self._cells[case_id, epoch]
        record = VoteRecord(
            id=new_id("vote"), user_id=self._rows.user_id, comparison_id=self._grid.id, case_id=case_id, epoch=epoch,
            left_candidate=left, right_candidate=right, outcome=outcome,
            length=length_difference(cells[left].output or "", cells[right].output or ""),
        )  # fmt: skip
        self._rows.votes.insert(record)
        del self._open[duel_id]
        self._votes.append(record)
        return Revealed(left, right, outcome)

    def ranking(self) -> Ranking:
        """Bradley–Terry ratings from all votes so far, controlling for length."""
        return ranking_of(self._votes, self._grid.candidates)

    def agreement_with(self, scorer: str) -> Agreement:
        """Agreement between votes and a scorer: Cohen's kappa over left, tie and right. Raises `UsageError` if there
        are no votes on scored answers."""
        scores = {cell.key: score.value for cell in self._grid.cells for score in cell.scores if score.scorer == scorer}
        human, judge = [], []
        for vote in self._votes:
            left = scores.get((vote.case_id, vote.left_candidate, vote.epoch))
            right = scores.get((vote.case_id, vote.right_candidate, vote.epoch))
            if left is not None and right is not None:
                human.append("tie" if vote.outcome == "both_bad" else vote.outcome)
                judge.append("left" if left > right else "right" if right > left else "tie")
        if not human:
            raise UsageError(
                f"There are no votes on two answers that {scorer!r} scored.",
                f"Scorers: {', '.join(self._grid.scorers) or 'none'}.",
            )
        return agreement(human, judge)

    def _steps(self, cell: CellRecord) -> tuple[Mapping[str, Json], ...]:
        value = self._scrubber.value
        return tuple({key: value(inner) for key, inner in step.items()} for step in objects_of(cell.steps))

    def _voted(self) -> set[tuple[str, int, frozenset[str]]]:
        return {(v.case_id, v.epoch, frozenset((v.left_candidate, v.right_candidate))) for v in self._votes}

    def _fights_left(self, voted: set[tuple[str, int, frozenset[str]]]) -> dict[frozenset[str], list[tuple[str, int]]]:
        left: dict[frozenset[str], list[tuple[str, int]]] = defaultdict(list)
        for (case_id, epoch), cells in self._cells.items():
            for pair in combinations(cells, 2):
                if (case_id, epoch, frozenset(pair)) not in voted:
                    left[frozenset(pair)].append((case_id, epoch))
        return left


def ranking_of(votes: Sequence[VoteRecord], names: Sequence[str] | None = None) -> Ranking:
    """Ratings from these votes, for `names` or else for all candidates in the votes."""
    known = names or sorted({name for vote in votes for name in (vote.left_candidate, vote.right_candidate)})
    if not known:
        return Ranking(ratings=(), length_effect=0.0, votes=0)
    return rank(known, [_as_vote(vote) for vote in votes])


def _as_vote(record: VoteRecord) -> Vote:
    return Vote(record.left_candidate, record.right_candidate, record.outcome, record.length)
