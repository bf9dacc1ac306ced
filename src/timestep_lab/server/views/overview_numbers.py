"""The numbers of the overview: totals, charts over time and models, each one query over the documented view `traces`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from timestep_lab.model.clock import iso, to_aware_utc, to_naive_utc

if TYPE_CHECKING:
    from timestep_lab.store.store import Store

BUCKETS = 48
_MODELS = 8
_MEDIAN = {
    "duckdb": "quantile_cont(duration_ms, {0})",
    "postgres": "percentile_cont({0}) within group (order by duration_ms)",
}
_SECONDS = {
    "duckdb": "epoch_us(started_at - cast($1 as timestamp)) / 1000000.0",
    "postgres": "cast(extract(epoch from started_at - cast($1 as timestamp)) as double precision)",
}
_WHERE = "started_at >= cast($1 as timestamp) and started_at <= cast($2 as timestamp)"


def first_moment(store: Store) -> datetime | None:
    """When the oldest trace began."""
    [found] = store.sql("select min(started_at) from traces").one() or (None,)
    return None if found is None else to_aware_utc(found)


def totals(store: Store, since: datetime, until: datetime) -> dict[str, Any]:
    """`cost_usd` is the sum of what is known; of `n_unpriced` traces nobody knows the cost, or a part of it."""
    dialect = store.db.dialect
    rows = store.sql(f"select {_columns(dialect)} from traces where {_WHERE}", _between(since, until))
    return dict(zip(_NAMES, rows.one() or (), strict=True))


def over_time(store: Store, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """`BUCKETS` equal steps of time, those in which nothing ran included."""
    dialect = store.db.dialect
    width_s = max((until - since).total_seconds(), 0.001) / BUCKETS
    query = (
        f"select cast(floor({_SECONDS[dialect]} / cast($3 as double precision)) as bigint) as bucket, {_columns(dialect)} "
        f"from traces where {_WHERE} group by 1"
    )
    found = {
        min(int(row[0]), BUCKETS - 1): row[1:] for row in store.sql(query, [*_between(since, until), width_s]).rows
    }
    nothing = (0, 0, None, 0, None, None, 0, 0)
    steps = []
    for n in range(BUCKETS):
        edges = {
            "start": iso(since + timedelta(seconds=n * width_s)),
            "end": iso(since + timedelta(seconds=(n + 1) * width_s)),
        }
        steps.append({**edges, **dict(zip(_NAMES, found.get(n, nothing), strict=True))})
    return steps


def by_model(store: Store, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """The models used most, by the model that a trace names."""
    columns = _columns(store.db.dialect)
    query = (
        f"select model, {columns} from traces where {_WHERE} and model is not null "
        f"group by model order by count(*) desc, model limit {_MODELS}"
    )
    rows = store.sql(query, _between(since, until)).rows
    return [{"model": model, **dict(zip(_NAMES, numbers, strict=True))} for model, *numbers in rows]


_NAMES = ("runs", "failed", "cost_usd", "n_unpriced", "p50_ms", "p95_ms", "calls", "tokens")


def _columns(dialect: str) -> str:
    median = _MEDIAN[dialect]
    return (
        "count(*), coalesce(sum(case when status = 'failed' then 1 else 0 end), 0), sum(cost_usd), "
        "coalesce(sum(case when n_unpriced > 0 or (cost_usd is null and turns > 0) then 1 else 0 end), 0), "
        f"{median.format(0.5)}, {median.format(0.95)}, "
        "coalesce(sum(turns), 0), coalesce(sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)), 0)"
    )


def _between(since: datetime, until: datetime) -> list[Any]:
    return [to_naive_utc(since), to_naive_utc(until)]
