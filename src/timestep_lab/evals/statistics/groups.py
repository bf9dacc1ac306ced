"""Cases that come in groups: ten questions about one document are not ten independent cases.

What holds for a document holds for all its questions, so the groups, not the cases, are what a test may count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from timestep_lab.evals.statistics.distributions import two_sided_t
from timestep_lab.evals.statistics.intervals import Floats, Interval

LEAST_GROUPS = 6
"""With fewer nothing is said: five groups can give no p-value below 1/16, and no interval over them covers what it should."""


def cluster_interval(values: Floats, groups: Sequence[object], level: float = 0.95) -> Interval:
    """The interval of a mean of grouped values: the cluster-robust variance with the CR2 correction and Satterthwaite's degrees of freedom
    (Bell & McCaffrey 2002, Survey Methodology 28:169; Pustejovsky & Tipton 2018, J. Bus. Econ. Stat. 36:672).

    For a mean these have a closed form. A group of n_g of the N values, whose deviations sum to S_g, counts S_g² / (1 − n_g/N). Both ends
    are NaN for fewer than `LEAST_GROUPS` groups.
    """
    sizes, sums = group_sums(values - values.mean(), groups)
    n = float(len(values))
    if len(sizes) < LEAST_GROUPS:
        return Interval(math.nan, math.nan)
    variance = float((sums**2 / (1.0 - sizes / n)).sum()) / n**2
    q = sizes**2 / (1.0 - sizes / n)
    freedom = n**2 / (float((sizes**2).sum()) + (float(q.sum()) ** 2 - float((q**2).sum())) / n**2)
    half = two_sided_t(level, freedom) * math.sqrt(variance)
    mean = float(values.mean())
    return Interval(mean - half, mean + half)


def group_sums(values: Floats, groups: Sequence[object]) -> tuple[Floats, Floats]:
    """(how many values, their sum) of each group."""
    names: dict[object, int] = {}
    places = np.array([names.setdefault(group, len(names)) for group in groups], dtype=int)
    sizes: Floats = np.bincount(places, minlength=len(names)).astype(float)
    sums: Floats = np.bincount(places, weights=values, minlength=len(names)).astype(float)
    return sizes, sums
