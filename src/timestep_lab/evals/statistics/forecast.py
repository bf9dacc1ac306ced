"""How many more cases it would take."""

from __future__ import annotations

import math

from timestep_lab.evals.statistics.intervals import normal_quantile


def cases_needed(diff: float, sd_if_equal: float, sd: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Cases for a two-sided paired test of level `alpha` to find a true difference `diff` with this power.

    n = ((z(1−α/2)·σ₀ + z(power)·σ) / diff)², σ₀ being the standard deviation of the paired difference were there none, σ as it is
    (for pass/fail results: Connor 1987, Biometrics 43:207). Infinite when `diff` is 0.
    """
    if diff == 0:
        return math.inf
    return float(((normal_quantile(1 - alpha / 2) * sd_if_equal + normal_quantile(power) * sd) / diff) ** 2)


def cases_to_settle(
    n: int, diff: float, sd_if_equal: float, sd: float, *, alpha: float = 0.05, power: float = 0.8, least: float = 0.0
) -> int | None:
    """About how many more cases than the `n` at hand, should the truth be what was seen. None: no number in sight.

    `least`: fewer cases than these cannot settle anything, however clear they are.
    """
    if n < 2 or diff == 0:
        return None
    needed = max(least, cases_needed(diff, sd_if_equal, sd, alpha=alpha, power=power))
    return max(0, math.ceil(needed - 1e-9) - n) if needed < 1e7 else None
