"""Bradley–Terry ratings from votes between pairs: P(left wins) = σ(θ_left − θ_right + γ·x).

Bradley & Terry 1952, Biometrika 39:324. A tie is half a win for each side. θ has a wide normal prior, so that ratings exist
from the first vote on, and γ, the effect of `x` (how much longer the left answer is), is estimated with them: what remains in θ is
what length does not explain (the "style control" of Chatbot Arena, Li et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from timestep_lab.evals.statistics.distributions import two_sided_z

Floats = NDArray[np.float64]
Outcome = Literal["left", "right", "tie", "both_bad"]

POINTS = {"left": 1.0, "right": 0.0, "tie": 0.5, "both_bad": 0.5}
ELO_SCALE = 400.0 / math.log(10.0)
LEAST_VOTES = 5
"""Of fewer votes on a candidate an interval would be the prior's and not the votes'."""
ELO_BASE = 1000.0
_PRIOR_SD = 2.0
"""Of a rating, in logits: 2 is a win rate of 88 % against an average model."""
_NEWTON_STEPS = 12


@dataclass(frozen=True, slots=True)
class Vote:
    left: str
    right: str
    outcome: Outcome
    length: float = 0.0
    """`length_difference` of the two answers; 0 leaves length out of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """On the Elo scale: 1000 is the average of the pool, 400 more means ten to one."""

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
    """Log-odds that the left answer gains per unit of `length_difference`: positive when voters like length."""
    votes: int


@dataclass(frozen=True, slots=True)
class Fit:
    """Logits. `covariance` is the posterior's, of (ratings…, length effect)."""

    names: tuple[str, ...]
    theta: Floats
    length_effect: float
    covariance: Floats


def length_difference(left: str, right: str) -> float:
    """(a − b) / (a + b) of the two lengths in words: 0 for equal length, 1 when the right one is empty."""
    a, b = len(left.split()), len(right.split())
    return (a - b) / (a + b) if a + b else 0.0


def fit(names: Sequence[str], votes: Sequence[Vote]) -> Fit:
    """The posterior's mode and its normal approximation. Every vote's candidates must be among `names`."""
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
    """Ratings against the pool's average, each with the hull of two intervals of its posterior.

    The one is of quantiles of `draws` from it by importance sampling (Student's distribution with five degrees about the mode), the
    other normal about the mode. Either alone is too narrow somewhere when votes are few: the normal one is blind to the skew that
    agreeing votes leave, the quantiles to a truth at which the prior looks away. Neither is a point when all votes agree, as
    intervals over votes drawn again are.
    """
    found = fit(names, votes)
    k = len(names)
    centred = np.eye(k + 1)
    centred[:k, :k] -= 1.0 / k
    mode = np.append(found.theta, found.length_effect)
    drawn, weights = _posterior(mode, found.covariance, *_design(names, votes), draws=draws, seed=seed)
    ratings = []
    for i, name in enumerate(names):
        had = sum(name in (vote.left, vote.right) for vote in votes)
        rating = float(centred[i] @ mode)
        low, high = -math.inf, math.inf
        if had >= LEAST_VOTES:
            half = two_sided_z(level) * math.sqrt(float(centred[i] @ found.covariance @ centred[i]))
            least, most = _quantiles(drawn @ centred[i], weights, ((1.0 - level) / 2.0, (1.0 + level) / 2.0))
            low, high = min(rating - half, least), max(rating + half, most)
        ratings.append(Rating(name=name, rating=_elo(rating), ci_low=_elo(low), ci_high=_elo(high), votes=had))
    ratings.sort(key=lambda r: -r.rating)
    return Ranking(ratings=tuple(ratings), length_effect=found.length_effect, votes=len(votes))


def _posterior(
    mode: Floats, covariance: Floats, design: Floats, points: Floats, *, draws: int, seed: int
) -> tuple[Floats, Floats]:
    """Draws of all parameters and their weights, which sum to 1."""
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
    """One row a vote: +1 left, −1 right, then the length difference; and the left's share of the point."""
    place = {name: index for index, name in enumerate(names)}
    design = np.zeros((len(votes), len(names) + 1))
    for row, vote in enumerate(votes):
        design[row, place[vote.left]] += 1.0
        design[row, place[vote.right]] -= 1.0
        design[row, -1] = vote.length
    return design, np.array([POINTS[vote.outcome] for vote in votes])


def _newton(design: Floats, points: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """The posterior's mode and its information. `counts`: votes of each row."""
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
