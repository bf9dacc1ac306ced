"""What to ship: every candidate beside the first one given, in quality, cost and time, each better, no worse, worse or not settled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from timestep_lab.evals.results import ALPHA, MARGIN
from timestep_lab.evals.statistics.intervals import Floats, skewed_interval
from timestep_lab.evals.statistics.paired import holm, skew_rule_p
from timestep_lab.evals.statistics.ratios import Ratio, median_ratio, tail_ratio, typical_ratio
from timestep_lab.model.comparison import CellRecord, DecisionRow, Measure, Outcome, PairRow

_QUANTILES: tuple[tuple[Measure, Callable[..., Ratio]], ...] = (("time p50", median_ratio), ("time p95", tail_ratio))


def decide(
    candidates: Sequence[str],
    cells: Sequence[CellRecord],
    pairs: Sequence[PairRow],
    *,
    margin: float | None = None,
    seed: int = 0,
) -> list[DecisionRow]:
    """Five rows a candidate but the first: quality (of the pairs given), cost, time, its median and its 95th percentile.

    Cost is the mean difference of a case, by the rule for skewed values; time the typical ratio. Each is corrected by Holm over the
    candidates. `margin` also says how much dearer or slower, as a share, is still no worse.
    """
    if len(candidates) < 2:
        return []
    share = margin if margin is not None and 0 < margin < 1 else MARGIN
    reference, others = candidates[0], candidates[1:]
    quality = {pair.b: pair for pair in pairs if pair.a == reference}
    costs = _corrected([_cost(reference, name, cells, share) for name in others])
    times = _corrected([_time(reference, name, cells, share, "time", typical_ratio) for name in others])
    rows = []
    for name, cost, time in zip(others, costs, times, strict=True):
        rows += [*([_quality(quality[name])] if name in quality else []), cost, time]
        for measure, how in _QUANTILES:
            rows.append(_time(reference, name, cells, share, measure, partial(how, seed=seed)))
    return rows


def _quality(pair: PairRow) -> DecisionRow:
    outcome: Outcome | None = pair.outcome if pair.outcome != "no better" else "not settled"
    return DecisionRow(
        candidate=pair.b, reference=pair.a, measure="quality", outcome=outcome or "not settled", estimate=_known(pair.diff),
        ci_low=_known(pair.ci_low), ci_high=_known(pair.ci_high), unit="points" if pair.points else "score", n=pair.n,
        p_value=pair.p_value, p_holm=pair.p_holm, test=pair.test,
    )  # fmt: skip


def _cost(reference: str, name: str, cells: Sequence[CellRecord], share: float) -> DecisionRow:
    a, b = _both(reference, name, cells, lambda cell: cell.cost_usd)
    row = DecisionRow(
        candidate=name, reference=reference, measure="cost", outcome="not settled", estimate=None, ci_low=None, ci_high=None, unit="usd",
        n=len(a), p_value=None, p_holm=None, test="skew-corrected t",
    )  # fmt: skip
    if len(a) == 0:
        return row
    differences = b - a
    if not differences.any():
        return replace(row, outcome="no worse", estimate=0.0, ci_low=0.0, ci_high=0.0, test="all alike")
    interval = skewed_interval(differences)
    p, dearer = skew_rule_p(differences), skew_rule_p(b - (1 + share) * a)
    # No worse: even where it is dearer, by less than the share of what the reference costs.
    no_worse = skewed_interval(b - (1 + share) * a).high < 0 and dearer <= ALPHA
    return replace(
        row, outcome="no worse" if no_worse else "not settled", estimate=float(differences.mean()), ci_low=_known(interval.low),
        ci_high=_known(interval.high), p_value=_known(p),
    )  # fmt: skip


def _time(
    reference: str, name: str, cells: Sequence[CellRecord], share: float, measure: Measure, how: Callable[[Floats, Floats], Ratio],
) -> DecisionRow:  # fmt: skip
    a, b = _both(
        reference, name, cells, lambda cell: cell.latency_ms if cell.latency_ms and cell.latency_ms > 0 else None
    )
    found = how(a, b)
    low, high = found.interval.low, found.interval.high
    outcome: Outcome = "no worse" if high < 1 + share and (found.p_value is None or found.n >= 6) else "not settled"
    if found.p_value is None:
        outcome = "better" if high < 1 else "worse" if low > 1 else outcome
    return DecisionRow(
        candidate=name, reference=reference, measure=measure, outcome=outcome, estimate=_known(found.ratio), ci_low=_known(low),
        ci_high=_known(high), unit="ratio", n=found.n, p_value=found.p_value, p_holm=None, test=found.test,
    )  # fmt: skip


def _corrected(rows: Sequence[DecisionRow]) -> list[DecisionRow]:
    """With Holm's p over the candidates, and better or worse where that rejects and the interval agrees."""
    adjusted = holm([math.nan if row.p_value is None else row.p_value for row in rows])
    found = []
    for row, p in zip(rows, adjusted, strict=True):
        level = 1.0 if row.unit == "ratio" else 0.0
        if p <= ALPHA and row.ci_high is not None and row.ci_low is not None:
            outcome = "better" if row.ci_high < level else "worse" if row.ci_low > level else row.outcome
            row = replace(row, outcome=outcome)
        found.append(replace(row, p_holm=_known(p)))
    return found


def _both(
    reference: str, name: str, cells: Sequence[CellRecord], number: Callable[[CellRecord], float | None]
) -> tuple[Floats, Floats]:
    """The means over epochs on the cases that both answered."""
    known: dict[str, dict[str, list[float]]] = {reference: {}, name: {}}
    for cell in cells:
        if cell.candidate in known and cell.status == "done" and (value := number(cell)) is not None:
            known[cell.candidate].setdefault(cell.case_id, []).append(value)
    shared = [case for case in known[reference] if case in known[name]]
    a, b = (np.array([np.mean(known[who][case]) for case in shared]) for who in (reference, name))
    return a, b


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
