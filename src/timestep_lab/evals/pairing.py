"""Which two candidates to show next: the pair whose vote tells most about the order of all.

A vote between a and b narrows what is known of every contrast θ_i − θ_j. For each possible pair the entropy of "who of i and j is
better", summed over all pairs i, j, is predicted after the vote; the pair that lowers it most is next (expected
information gain, Lindley 1956, under the normal approximation of the posterior).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

from timestep_lab.evals.bradley_terry import Fit, Floats
from timestep_lab.evals.statistics.distributions import normal_cdf_array

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def information_gains(fit: Fit) -> dict[tuple[str, str], float]:
    """Bits about the order that one vote between each pair is expected to bring."""
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
    # Row: the pair voted on. A vote lowers every contrast's variance by a rank-one update, and will move its mean by as much.
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
    """The most telling pair, left and right by chance. `seen`: pairs with nothing left to show."""
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
    """E[σ(x)] for normal x, by MacKay's approximation (MacKay 1992)."""
    return np.asarray(1.0 / (1.0 + np.exp(-mean / np.sqrt(1.0 + np.pi * variance / 8.0))))


def _entropy(z: Floats) -> Floats:
    """Bits of the event that a normal with this z-score is above 0."""
    p = np.clip(normal_cdf_array(z), 1e-15, 1 - 1e-15)
    return np.asarray(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)))
