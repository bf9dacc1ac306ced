"""Several comparisons at once: what is still significant when each had its chance to be so by luck."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979, Scand. J. Statist. 6:65). NaN stays NaN."""
    known = sorted((p, index) for index, p in enumerate(p_values) if p == p)
    adjusted = [float("nan")] * len(p_values)
    floor = 0.0
    for rank, (p, index) in enumerate(known):
        floor = max(floor, min(1.0, (len(known) - rank) * p))
        adjusted[index] = floor
    return adjusted
