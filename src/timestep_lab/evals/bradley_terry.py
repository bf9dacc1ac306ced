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

Floats = NDArray[np.float64]
Outcome = Literal["left", "right", "tie", "both_bad"]

POINTS = {"left": 1.0, "right": 0.0, "tie": 0.5, "both_bad": 0.5}
ELO_SCALE = 400.0 / math.log(10.0)
LEAST_VOTES = 5
"""Of fewer votes on a candidate nothing can be resampled: one vote drawn again and again would be an interval without width."""
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
    counts = np.array([[float(len(group)) for group in tally.values()]]).reshape(1, len(tally))
    beta, information = _newton(design, points, counts)
    return Fit(tuple(names), beta[0, :-1], float(beta[0, -1]), np.linalg.inv(information[0]))


def rank(
    names: Sequence[str], votes: Sequence[Vote], *, resamples: int = 500, level: float = 0.95, seed: int = 0
) -> Ranking:
    """Ratings with percentile intervals over votes drawn again with replacement."""
    design, points = _design(names, votes)
    beta = _newton(design, points, np.ones((1, len(votes))))[0][0]
    tail = (1.0 - level) / 2.0
    if votes:
        counts = np.random.default_rng(seed).multinomial(
            len(votes), np.full(len(votes), 1.0 / len(votes)), size=resamples
        )
        low, high = np.quantile(_newton(design, points, counts.astype(float))[0][:, :-1], [tail, 1.0 - tail], axis=0)
    else:
        low, high = np.full(len(names), -math.inf), np.full(len(names), math.inf)
    had = {name: sum(name in (v.left, v.right) for v in votes) for name in names}
    ratings = [
        Rating(
            name=name,
            rating=_elo(beta[i]),
            votes=had[name],
            ci_low=_elo(low[i]) if had[name] >= LEAST_VOTES else -math.inf,
            ci_high=_elo(high[i]) if had[name] >= LEAST_VOTES else math.inf,
        )
        for i, name in enumerate(names)
    ]
    ratings.sort(key=lambda r: -r.rating)
    return Ranking(ratings=tuple(ratings), length_effect=float(beta[-1]), votes=len(votes))


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


def _newton(design: Floats, points: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Posterior modes (resamples × parameters) and informations, one for each row of vote weights (resamples × votes)."""
    n, d = design.shape
    products = (design[:, :, None] * design[:, None, :]).reshape(n, d * d)
    prior = np.eye(d) / _PRIOR_SD**2
    beta = np.zeros((len(weights), d))
    information = np.broadcast_to(prior, (len(weights), d, d))
    for _ in range(_NEWTON_STEPS):
        expected = 1.0 / (1.0 + np.exp(-np.clip(beta @ design.T, -30, 30)))
        gradient = (weights * (points - expected)) @ design - beta @ prior
        information = ((weights * expected * (1.0 - expected)) @ products).reshape(-1, d, d) + prior
        step = np.linalg.solve(information, gradient[:, :, None])[:, :, 0]
        beta = beta + np.clip(step, -2.0, 2.0)
        if np.abs(step).max(initial=0.0) < 1e-9:
            break
    return beta, information
