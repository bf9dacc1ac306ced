"""The exact test over cases: were there no difference, each case's difference might as well have had the other sign."""

from __future__ import annotations

import math

import numpy as np

from timestep_lab.evals.statistics.distributions import normal_cdf
from timestep_lab.evals.statistics.intervals import Floats

_MOST_PARTS = 64
"""Differences that are multiples of 1/k for a k up to this one (pass/fail over k epochs) are counted exactly."""
_GRID = 2**15
_MOST_ADDITIONS = 2e8
"""Beyond these the normal distribution stands in for the exact one; then there are thousands of cases."""


def sign_flips(differences: Floats) -> float:
    """Two-sided p-value of the randomization test of paired differences (Fisher 1935, The Design of Experiments, section 21).

    The share of all choices of signs with a sum at least as far from zero as the one seen. It takes nothing for granted about the
    shape of the scores and is never below `least_p`. With differences all of one size it is the sign test; with those of a pass/fail
    score, McNemar's exact test.

    The sum's distribution is built by adding one difference after the other (Pagano & Tritchler 1983, JASA 78:435), in whole steps:
    of 1/k where all differences are multiples of that, else of 1/32768 of their sum. A rounded difference keeps its sign, so
    the test stays exact; only what it measures is rounded.
    """
    told = differences[differences != 0.0]
    if len(told) == 0:
        return 1.0
    steps = _whole_steps(np.abs(told))
    total = int(steps.sum())
    seen = abs(int((np.sign(told) * steps).sum()))
    if len(steps) * total > _MOST_ADDITIONS:
        return 2.0 * normal_cdf(-abs(float(told.sum())) / math.sqrt(float((told**2).sum())))
    chances = np.zeros(total + 1)
    chances[0], reached = 1.0, 0
    for step in map(int, steps):
        with_it = chances[: reached + 1] * 0.5
        chances[: reached + 1] = with_it
        chances[step : step + reached + 1] += with_it
        reached += step
    return min(1.0, 2.0 * float(chances[(total + seen) // 2 :].sum()))


def least_p(decided_by: int) -> float:
    """The smallest p-value that this many differing cases can give: all of one sign, 2 of the 2^m ways they could have gone."""
    return 2.0 ** (1 - decided_by) if decided_by > 0 else 1.0


def least_decided(alpha: float) -> int:
    """How many differing cases it takes at least until a p-value can be as small as `alpha`: 6 for 0.05."""
    return max(1, math.ceil(1.0 - math.log2(alpha)))


def _whole_steps(sizes: Floats) -> Floats:
    steps: Floats
    for parts in range(1, _MOST_PARTS + 1):
        steps = np.rint(sizes * parts)
        if np.abs(sizes * parts - steps).max() < 1e-9 and steps.sum() <= 2 * _GRID:
            return steps
    steps = np.rint(sizes * (_GRID / sizes.sum()))
    return steps
