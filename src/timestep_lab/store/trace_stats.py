"""Statistics over many traces: counts over time and by facet, latency and cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from timestep_lab.model.clock import to_aware_utc, to_naive_utc
from timestep_lab.store.base import Database, Dialect, Row, Rows
from timestep_lab.store.filters import CompiledFilter
from timestep_lab.store.trace_sums import ARROW

FacetField = Literal[
    "outcome", "source", "agent", "model", "failed_tool", "error_type", "user", "tag", "score"
]  # fmt: skip
FACETS: Mapping[FacetField, str] = {
    "outcome": "outcome", "source": "source", "agent": "agent_path", "model": "model", "failed_tool": "failed_tools",
    "error_type": "error_types", "user": "end_user", "tag": "tags",
}  # fmt: skip
"""Maps a facet to its column in the view. Scores come from the view `scores`."""
_MANY: Mapping[FacetField, str] = {"agent": ARROW, "failed_tool": "\n", "error_type": "\n", "tag": "\n"}
"""Facets of which a trace may have several values, with their separator."""
_QUANTILE: dict[Dialect, str] = {
    "duckdb": "quantile_cont({1}, {0})", "postgres": "percentile_cont({0}) within group (order by {1})",
}  # fmt: skip
_SECONDS: dict[Dialect, str] = {
    "duckdb": "epoch_us(t.started_at - {0}) / 1000000.0", "postgres": "date_part('epoch', t.started_at - {0})",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeBucket:
    """Traces that started between `start` (inclusive) and `end` (exclusive, except for the last bucket)."""

    start: datetime
    end: datetime
    count: int
    failed: int
    """Traces that failed (`outcome == "failed"`)."""
    steps_failed: int
    """Traces that succeeded although some of their steps failed (`outcome == "steps_failed"`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FacetValue:
    """A value and the number of traces that have it. `filter` is the filter expression for it."""

    value: str
    count: int
    filter: str


def histogram(
    db: Database, user_id: str, where: CompiledFilter, *, buckets: int, since: datetime | None, until: datetime | None
) -> list[TimeBucket]:
    """Returns equal time buckets from `since` to `until`, or over all matches. Empty when nothing matches."""
    ends = _ends(db, user_id, where, since, until)
    if ends is None:
        return []
    rows, edges = _in_steps(
        db,
        user_id,
        where,
        ends,
        buckets,
        "count(*), sum(case when t.outcome = 'failed' then 1 else 0 end), "
        "sum(case when t.outcome = 'steps_failed' then 1 else 0 end)",
    )
    sums = [[0, 0, 0] for _ in range(buckets)]
    for bucket, *numbers in rows:
        place = min(max(int(bucket), 0), buckets - 1)
        sums[place] = [a + int(b) for a, b in zip(sums[place], numbers, strict=True)]
    return [
        TimeBucket(start=edges[i], end=edges[i + 1], count=all_, failed=failed, steps_failed=steps)
        for i, (all_, failed, steps) in enumerate(sums)
    ]


def _ends(
    db: Database, user_id: str, where: CompiledFilter, since: datetime | None, until: datetime | None
) -> tuple[datetime, datetime] | None:
    """Returns the time range; missing bounds come from the matches. None when nothing matches."""
    if since is not None and until is not None:
        return to_aware_utc(since), to_aware_utc(until)
    sql = f"select min(t.started_at), max(t.started_at) from traces t where {where.sql}"
    if db.dialect == "postgres":
        # The index on the start is read from either end up to the first match; for min and max the view would read everything.
        one = f"select t.started_at from traces t where {where.sql} and t.started_at is not null order by t.started_at"
        sql = f"select ({one} limit 1), ({one} desc limit 1)"
    row = db.query(user_id, sql, where.params).one()
    if row is None or row[0] is None:
        return None
    return to_aware_utc(since or row[0]), to_aware_utc(until or row[1])


def _in_steps(
    db: Database,
    user_id: str,
    where: CompiledFilter,
    ends: tuple[datetime, datetime],
    steps: int,
    columns: str,
    group: str = "",
) -> tuple[list[Row], list[datetime]]:
    """Returns rows of (step, `group` if given, `columns`), and the edges of the steps."""
    first, last = ends
    width_s = max((last - first).total_seconds(), 0.001) / steps
    n = len(where.params)
    seconds = _SECONDS[db.dialect].format(f"cast(${n + 1} as timestamp)")
    more = f", {group}" if group else ""
    rows = db.query(
        user_id,
        f"select least(cast(floor({seconds} / cast(${n + 2} as double precision)) as bigint), {steps - 1}) as step{more}, {columns} "
        f"from traces t where {where.sql} group by 1{', 2' if group else ''}",
        [*where.params, to_naive_utc(first), width_s],
    ).rows
    rows.sort(key=lambda row: row[0])
    return rows, [first + timedelta(seconds=width_s * step) for step in range(steps)] + [last]


def facets(db: Database, user_id: str, where: CompiledFilter, *, most: int = 20) -> dict[FacetField, list[FacetValue]]:
    """Returns the values of each facet with the number of traces that have each, most frequent first."""
    few = ", ".join(column for name, column in FACETS.items() if name != "user")
    empty = ", ".join("null" for name in FACETS if name != "user")
    # Many traces share all of these values: they are read once, counted by all columns and the user in SQL, then by each column here.
    sql = (
        f"with counted as (select {few}, end_user, grouping(end_user) as by_few, count(*) as n from traces t where {where.sql} "
        f"group by grouping sets (({few}), (end_user))) "
        f"select 'all', {few}, n, null, null, null from counted where by_few = 1 "
        f"union all (select 'user', {empty}, n, end_user, null, null from counted where by_few = 0 and end_user is not null "
        f"order by n desc, end_user limit {most}) "
        f"union all (select 'score', {empty}, count(distinct t.trace_id), s.name, s.label, "
        "case when s.label is null then case when s.value < 0.5 then 'low' else 'high' end end "
        f"from scores s join traces t on s.target = 'trace' and s.target_id = t.trace_id where {where.sql} "
        f"group by 10, 11, 12 order by count(distinct t.trace_id) desc limit {most})"
    )
    counted: dict[FacetField, Counter[str]] = {name: Counter() for name in FACETS}
    scores: list[FacetValue] = []
    names = [name for name in FACETS if name != "user"]
    for kind, *values, count, text, label, level in db.query(user_id, sql, where.params).rows:
        if kind == "user":
            counted["user"][text] = int(count)
        elif kind == "score":
            scores.append(_scored(text, label, level, int(count)))
        else:
            for name, value in zip(names, values, strict=True):
                parts = {value} if name not in _MANY else set((value or "").split(_MANY[name]))
                counted[name].update(dict.fromkeys(parts - {None, ""}, int(count)))
    by_field: dict[FacetField, list[FacetValue]] = {
        name: [
            FacetValue(value=value, count=count, filter=_condition(name, value))
            for value, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:most]
        ]
        for name, counts in counted.items()
    }
    return {**by_field, "score": scores}


def _condition(name: FacetField, value: str) -> str:
    quoted = json.dumps(value, ensure_ascii=False)
    return f"{quoted} in {name}s" if name in _MANY else f"{name} == {quoted}"


def _scored(name: str, label: str | None, level: str | None, count: int) -> FacetValue:
    quoted = json.dumps(name, ensure_ascii=False)
    if label is not None:
        quoted_label = json.dumps(label, ensure_ascii=False)
        return FacetValue(value=f"{name}: {label}", count=count, filter=f"labels[{quoted}] == {quoted_label}")
    sign = "<" if level == "low" else ">="
    return FacetValue(value=f"{name} {sign} 0.5", count=count, filter=f"scores[{quoted}] {sign} 0.5")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Statistics of the traces that started between `start` and `end`; durations in ms. None: unknown."""

    start: datetime
    end: datetime
    group: str | None
    """The model or agent; None when not split, or unknown."""
    runs: int = 0
    failed: int = 0
    steps_failed: int = 0
    calls: int = 0
    tokens: int = 0
    cost_usd: float | None = None
    n_unpriced: int = 0
    """Traces with fully or partly unknown cost."""
    cost_p50_usd: float | None = None
    cost_p95_usd: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    ttft_p50_ms: float | None = None
    ttft_p95_ms: float | None = None


SPLITS: Mapping[str, str] = {"model": "t.model", "agent": "t.workflow"}


def series(
    db: Database,
    user_id: str,
    where: CompiledFilter,
    *,
    steps: int,
    by: str | None,
    since: datetime | None,
    until: datetime | None,
) -> list[Step]:
    """Returns statistics by time; steps without runs are omitted. `by` is one of `SPLITS`. With one step: totals."""
    ends = _ends(db, user_id, where, since, until)
    if ends is None:
        return []
    quantile = _QUANTILE[db.dialect]
    quantiles = ", ".join(
        quantile.format(q, column) for column in ("t.cost_usd", "t.duration_ms", "t.ttft_ms") for q in (0.5, 0.95)
    )
    columns = (
        "count(*), coalesce(sum(case when t.outcome = 'failed' then 1 else 0 end), 0), "
        "coalesce(sum(case when t.outcome = 'steps_failed' then 1 else 0 end), 0), coalesce(sum(t.turns), 0), "
        "coalesce(sum(coalesce(t.input_tokens, 0) + coalesce(t.output_tokens, 0)), 0), sum(t.cost_usd), "
        "coalesce(sum(case when t.n_unpriced > 0 or (t.cost_usd is null and t.turns > 0) then 1 else 0 end), 0), "
        f"{quantiles}"
    )
    rows, edges = _in_steps(db, user_id, where, ends, steps, columns, SPLITS[by] if by else "cast(null as varchar)")
    return [
        Step(
            start=edges[(place := min(max(int(step), 0), steps - 1))], end=edges[place + 1], group=group, runs=int(runs),
            failed=int(failed), steps_failed=int(steps_failed), calls=int(calls), tokens=int(tokens), cost_usd=cost,
            n_unpriced=int(unpriced), cost_p50_usd=numbers[0], cost_p95_usd=numbers[1], p50_ms=numbers[2], p95_ms=numbers[3],
            ttft_p50_ms=numbers[4], ttft_p95_ms=numbers[5],
        )
        for step, group, runs, failed, steps_failed, calls, tokens, cost, unpriced, *numbers in rows
    ]  # fmt: skip


def latency(db: Database, user_id: str, *, since: datetime | None, until: datetime | None) -> Rows:
    """Returns calls, failed calls, p50 and p95 of generation duration in ms, and p50 of time to first token, by hour and model."""
    conditions, params = "kind = 'generation'", []
    for bound, symbol in ((since, ">="), (until, "<")):
        if bound is not None:
            params.append(to_naive_utc(bound))
            conditions += f" and started_at {symbol} ${len(params)}"
    quantile = _QUANTILE[db.dialect]
    return db.query(
        user_id,
        "select date_trunc('hour', started_at) as hour, model, count(*) as calls, "
        "sum(case when status = 'error' then 1 else 0 end) as errors, "
        f"{quantile.format(0.5, 'duration_ms')} as p50_ms, {quantile.format(0.95, 'duration_ms')} as p95_ms, "
        f"{quantile.format(0.5, 'ttft_ms')} as ttft_p50_ms "
        f"from core.span_rows where {conditions} group by 1, 2 order by 1, 2",
        params,
    )


def values_of(db: Database, user_id: str, view: str, column: str, prefix: str, limit: int) -> list[tuple[str, int]]:
    """Returns the most frequent values of a text column with a prefix, and their counts. `view` and `column` must be trusted names."""
    rows = db.query(
        user_id,
        f"select {column}, count(*) from {view} where {column} is not null and starts_with(lower({column}), lower($1)) "
        f"group by 1 order by 2 desc, 1 limit {int(limit)}",
        [prefix],
    ).rows
    return [(str(value), int(count)) for value, count in rows]
