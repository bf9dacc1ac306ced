"""Statistics for paired evaluations: pure functions of numbers, independent of models, runs and stores.

The unit of analysis is the case: cases are a sample of what users will ask, and repeats of a case (epochs) are not
additional cases. Every comparison of two candidates is therefore paired by case, and repeats are averaged within a case
first (Miller 2024, "Adding Error Bars to Evals", arXiv:2411.00640, sections 2 to 4).
"""

from __future__ import annotations

from timestep_lab.evals.statistics.intervals import (
    Agreement,
    Interval,
    agreement,
    mean_interval,
    pass_at_k,
    pass_hat_k,
    wilson,
)
from timestep_lab.evals.statistics.paired import (
    PairedResult,
    cases_to_settle,
    exact_mcnemar,
    holm,
    paired_difference,
    sign_flips,
)

__all__ = [
    "Agreement", "Interval", "PairedResult", "agreement", "cases_to_settle", "exact_mcnemar", "holm", "mean_interval",
    "paired_difference", "pass_at_k", "pass_hat_k", "sign_flips", "wilson",
]  # fmt: skip
