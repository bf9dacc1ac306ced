"""What a comparison will take, said before it is spent. The ranges come from what the same models took in this lab before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from timestep_lab.evals.options import DEFAULT_CONCURRENCY, MOST_CONCURRENCY, Options
from timestep_lab.model.comparison import PlanRow
from timestep_lab.model.numbers import cost_text, duration_text
from timestep_lab.runtime.pricing import has_price, is_free

if TYPE_CHECKING:
    import pandas

    from timestep_lab.evals.candidates import Candidate
    from timestep_lab.evals.datasets.case import Case
    from timestep_lab.evals.engine import Comparison
    from timestep_lab.evals.rows import ComparisonRows
    from timestep_lab.runtime.provider import ModelRef

Slot = tuple["Candidate", "Case", int]
LEAST_HISTORY = 5
"""Answers of a model that must be known before a range is ventured."""
AROUND_S = 1.0
"""What a comparison does around its calls (cases and answers stored, statistics worked out) takes up to this long."""
_SUMS = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """`rows`: one a candidate, then one a judge. Totals are None as soon as one part is unknown."""

    rows: tuple[PlanRow, ...]

    @property
    def calls(self) -> int:
        return sum(row.calls for row in self.rows)

    @property
    def cache_hits(self) -> int:
        return sum(row.cache_hits for row in self.rows)

    @property
    def cost_usd(self) -> tuple[float, float] | None:
        """10th and 90th percentile of what it will cost, all candidates together."""
        return _total([(row.cost_usd_low, row.cost_usd_high) for row in self.rows])

    @property
    def time_s(self) -> tuple[float, float] | None:
        """Of how long it will take. Candidates of one provider share its slots; providers work side by side, so the slowest decides."""
        lanes = [
            _total([(row.time_s_low, row.time_s_high) for row in self.rows if row.provider == provider])
            for provider in {row.provider for row in self.rows}
        ]
        known = [lane for lane in lanes if lane is not None]
        if not known or len(known) < len(lanes):
            return None
        return max(low for low, _ in known), max(high for _, high in known)

    def df(self) -> pandas.DataFrame:
        import pandas

        return pandas.DataFrame(
            [{name: getattr(row, name) for name in PlanRow.__dataclass_fields__} for row in self.rows]
        )

    def __str__(self) -> str:
        cost, time = self.cost_usd, self.time_s
        unpriced = dict.fromkeys(row.candidate for row in self.rows if row.calls and not row.priced)
        money = (
            f"cost unknown{': no price is known for ' if unpriced else ''}{', '.join(unpriced)}"
            if cost is None
            else cost_text(0)
            if cost[1] == 0
            else f"{cost_text(cost[0])} to {cost_text(cost[1])}"
        )
        wait = "time unknown" if time is None else f"{duration_text(time[0] * 1000)} to {duration_text(time[1] * 1000)}"
        judging = sum(row.calls for row in self.rows if row.judge)
        kept = [
            f"{n} {what} from the cache"
            for judge, what in ((False, "answers"), (True, "judgements"))
            if (n := sum(row.cache_hits for row in self.rows if row.judge is judge))
        ]
        calls = [f"{self.calls} calls", *([f"{judging} of them to judges"] if judging else []), *kept]
        return f"{', '.join(calls)}; {money}; {wait}."

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>{self.df().to_html(index=False)}"


def make_plan(
    rows: ComparisonRows,
    candidates: Sequence[Candidate],
    slots: Sequence[Slot],
    to_ask: Sequence[Slot],
    options: Options,
    *,
    judges: Sequence[ModelRef] = (),
    questions: Mapping[str, set[str]] | None = None,
) -> Plan:
    """`questions`: judge to the cache keys of what it is to be asked. Blocks: reads the lab's history."""
    found = []
    for candidate in candidates:
        calls = sum(c is candidate for c, _, _ in to_ask)
        hits = sum(c is candidate for c, _, _ in slots) - calls
        found.append(
            _row(
                candidate.name, candidate.model, calls, hits, rows.history(candidate.record.name), options, judge=False
            )
        )
    asked = questions or {}
    known = (
        set() if options.cache == "off" else set(rows.cached(sorted({key for keys in asked.values() for key in keys})))
    )
    for model in judges:
        keys = asked.get(model.full, set())
        hits = len(keys & known)
        found.append(
            _row(model.full, model, len(keys) - hits, hits, rows.judge_history(model.full), options, judge=True)
        )
    return Plan(tuple(found))


def _row(
    name: str, model: ModelRef, calls: int, hits: int, history: Sequence[tuple[float | None, float | None]], options: Options, *, judge: bool,
) -> PlanRow:  # fmt: skip
    costs = [cost for cost, _ in history if cost is not None]
    times = [time for _, time in history if time is not None]
    free = is_free(model.prefix, model.model)
    cost: tuple[float | None, float | None] = (0.0, 0.0) if free else _range(costs, calls)
    low, high = _time_s(times, calls, options)
    return PlanRow(
        candidate=name, calls=calls, cache_hits=hits, cost_usd_low=cost[0], cost_usd_high=cost[1], time_s_low=low, time_s_high=high,
        basis="history" if len(history) >= LEAST_HISTORY else "unknown", provider=model.prefix, judge=judge,
        priced=has_price(model.prefix, model.model),
    )  # fmt: skip


def _time_s(history: Sequence[float], calls: int, options: Options) -> tuple[float | None, float | None]:
    """Seconds until the last of `calls` answers is there, from the milliseconds that earlier ones took.

    With m slots that is at least the sum over m, and at most that and what is left of the longest (Graham 1966). Where
    the number of slots adapts, the range is from all of them at once to those it begins with.
    """
    low, high = _range(history, calls)
    if low is None or high is None or calls == 0:
        return low, high
    most = min(calls, options.concurrency or MOST_CONCURRENCY)
    least = min(calls, options.concurrency or DEFAULT_CONCURRENCY)
    last = float(np.quantile(history, 0.9)) * (1 - 1 / least)
    return low / most / 1000.0, (high / least + last) / 1000.0 + AROUND_S


def _range(history: Sequence[float], calls: int) -> tuple[float | None, float | None]:
    """10th and 90th percentile of the sum of `calls` draws. Their mean is itself uncertain, so each sum draws a sample of the
    history first and then from that sample: a prediction interval, not only one for a known mean."""
    if calls == 0:
        return 0.0, 0.0
    if len(history) < LEAST_HISTORY:
        return None, None
    generator = np.random.default_rng(0)
    past = np.asarray(history, dtype=float)
    samples = past[generator.integers(0, len(past), (_SUMS, len(past)))]
    means, spreads = samples.mean(axis=1), samples.std(axis=1)
    sums: Any = means * calls + generator.normal(size=_SUMS) * spreads * np.sqrt(calls)
    low, high = np.quantile(np.maximum(sums, 0.0), [0.1, 0.9])
    return float(low), float(high)


def _total(parts: Sequence[tuple[float | None, float | None]]) -> tuple[float, float] | None:
    if not parts or any(low is None or high is None for low, high in parts):
        return None
    return sum(low for low, _ in parts if low is not None), sum(high for _, high in parts if high is not None)


async def plan(comparison: Comparison) -> tuple[PlanRow, ...]:
    """One row a candidate of a comparison that is ready to run."""
    return (await comparison.plan()).rows
