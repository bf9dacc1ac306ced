"""Fisher's exact test for two shares that were counted independently."""

from __future__ import annotations

from math import comb


def fisher(passed_a: int, n_a: int, passed_b: int, n_b: int) -> float:
    """Two-sided p: all tables with the same margins that are no more likely than the one seen (as `scipy.stats.fisher_exact`)."""
    passed, n = passed_a + passed_b, n_a + n_b
    if n_a == 0 or n_b == 0:
        return 1.0
    ways = [comb(n_a, k) * comb(n_b, passed - k) for k in range(max(0, passed - n_b), min(n_a, passed) + 1)]
    seen = comb(n_a, passed_a) * comb(n_b, passed_b)
    return min(1.0, sum(way for way in ways if way <= seen) / comb(n, passed))
