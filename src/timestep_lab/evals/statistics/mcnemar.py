"""Did one candidate pass more of the same cases than the other?"""

from __future__ import annotations

from timestep_lab.evals.statistics.distributions import binomial_cdf


def exact_mcnemar(wins: int, losses: int) -> float:
    """Two-sided p-value of McNemar's exact test (McNemar 1947): the discordant pairs are tosses of a fair coin.

    `wins`: cases only the first passed; `losses`: cases only the second passed. Never rejects too often, at any size.
    """
    n = wins + losses
    if n == 0:
        return 1.0
    return min(1.0, 2.0 * binomial_cdf(min(wins, losses), n, 0.5))
