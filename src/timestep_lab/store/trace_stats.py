"""Numbers over many traces: how many when, of which kind, how fast."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from timestep_lab.model.clock import to_aware_utc, to_naive_utc
from timestep_lab.store.base import Database, Dialect, Rows
from timestep_lab.store.filters import CompiledFilter

FACETS = ("status", "model", "agent_path", "workflow")
_QUANTILE: dict[Dialect, str] = {
    "duckdb": "quantile_cont(duration_ms, {0})", "postgres": "percentile_cont({0}) within group (order by duration_ms)",
}  # fmt: skip
_SECONDS: dict[Dialect, str] = {
    "duckdb": "epoch_us(t.started_at - {0}) / 1000000.0", "postgres": "date_part('epoch', t.started_at - {0})",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeBucket:
    """Traces that started from `start` (inclusive) to `end` (exclusive; the last bucket's is included)."""

    start: datetime
    end: datetime
    count: int
    errors: int
    """Those that failed or hold a failed span."""


def histogram(
    db: Database, user_id: str, where: CompiledFilter, *, buckets: int, since: datetime | None, until: datetime | None
) -> list[TimeBucket]:
    """Equal steps of time from `since` to `until`, or over all that matches. Empty when nothing does."""
    first, last = since, until
    if first is None or last is None:
        # Without a filter an index knows the first and the last; the view would read all.
        source = "core.trace_rollups" if db.dialect == "postgres" and where.sql == "true" else "traces"
        found = db.query(
            user_id, f"select min(t.started_at), max(t.started_at) from {source} t where {where.sql}", where.params
        ).one()
        if found is None or found[0] is None:
            return []
        first, last = first or found[0], last or found[1]
    first, last = to_aware_utc(first), to_aware_utc(last)
    width_s = max((last - first).total_seconds(), 0.001) / buckets
    n = len(where.params)
    seconds = _SECONDS[db.dialect].format(f"cast(${n + 1} as timestamp)")
    rows = db.query(
        user_id,
        f"select cast(floor({seconds} / cast(${n + 2} as double precision)) as bigint) as bucket, count(*), "
        "sum(case when t.status = 'failed' or t.n_errors > 0 then 1 else 0 end) "
        f"from traces t where {where.sql} group by 1",
        [*where.params, to_naive_utc(first), width_s],
    ).rows
    counts, errors = [0] * buckets, [0] * buckets
    for bucket, count, failed in rows:
        place = min(max(int(bucket), 0), buckets - 1)
        counts[place] += int(count)
        errors[place] += int(failed)
    edges = [first + timedelta(seconds=width_s * step) for step in range(buckets)] + [last]
    return [TimeBucket(start=edges[i], end=edges[i + 1], count=counts[i], errors=errors[i]) for i in range(buckets)]


def facets(db: Database, user_id: str, where: CompiledFilter, *, most: int = 20) -> dict[str, list[tuple[str, int]]]:
    """Of each field in `FACETS`: its values and how many traces have each, most frequent first."""
    sets = ", ".join(f"({name})" for name in FACETS)
    names = ", ".join(FACETS)
    # Of a hundred thousand traces few differ in all four: counted once by all, then by each.
    rows = db.query(
        user_id,
        f"select grouping({names}), {names}, sum(n) from (select {names}, count(*) as n from traces t where {where.sql} "
        f"group by {names}) kinds group by grouping sets ({sets}) order by sum(n) desc",
        where.params,
    ).rows
    found: dict[str, list[tuple[str, int]]] = {name: [] for name in FACETS}
    # grouping() has a bit for each column that is not grouped by, the first column's highest.
    places = {(1 << len(FACETS)) - 1 - (1 << (len(FACETS) - 1 - place)): place for place in range(len(FACETS))}
    for mask, *values, count in rows:
        place = places[int(mask)]
        if values[place] is not None and len(found[FACETS[place]]) < most:
            found[FACETS[place]].append((values[place], int(count)))
    return found


def latency(db: Database, user_id: str, *, since: datetime | None, until: datetime | None) -> Rows:
    """Of each hour and model: calls, failed calls, p50 and p95 of the generations' duration in ms, and p50 of time to first token."""
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
        f"{quantile.format('0.5')} as p50_ms, {quantile.format('0.95')} as p95_ms, "
        f"{quantile.format('0.5').replace('duration_ms', 'ttft_ms')} as ttft_p50_ms "
        f"from core.span_rows where {conditions} group by 1, 2 order by 1, 2",
        params,
    )


def values_of(db: Database, user_id: str, view: str, column: str, prefix: str, limit: int) -> list[tuple[str, int]]:
    """The most frequent values of a text column that begin so, with how often. `view` and `column` are names of ours."""
    rows = db.query(
        user_id,
        f"select {column}, count(*) from {view} where {column} is not null and starts_with(lower({column}), lower($1)) "
        f"group by 1 order by 2 desc, 1 limit {int(limit)}",
        [prefix],
    ).rows
    return [(str(value), int(count)) for value, count in rows]
