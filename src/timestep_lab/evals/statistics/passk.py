"""Repeats of a pass/fail case: will one of k tries pass, and will all k?"""

from __future__ import annotations

import math
from collections.abc import Iterable


def pass_at_k(tries: int, passes: int, k: int) -> float:
    """Probability that at least one of `k` tries passes: 1 − C(n−c, k) / C(n, k), unbiased (Chen et al. 2021, arXiv:2107.03374)."""
    _check(tries, passes, k)
    return 1.0 - math.comb(tries - passes, k) / math.comb(tries, k)


def pass_hat_k(tries: int, passes: int, k: int) -> float:
    """Probability that all of `k` tries pass: C(c, k) / C(n, k), unbiased (Yao et al. 2024, τ-bench, arXiv:2406.12045)."""
    _check(tries, passes, k)
    return math.comb(passes, k) / math.comb(tries, k)


def over_cases(results: Iterable[tuple[int, int]], k: int) -> tuple[float, float]:
    """Means of pass@k and pass^k over cases given as (tries, passes). Cases tried fewer than `k` times are left out; NaN when none is left."""
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
