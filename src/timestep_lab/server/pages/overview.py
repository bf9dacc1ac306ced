"""The landing page; `?period=` is 1h, 24h, 7d, 30d or all."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from timestep_lab.model.clock import iso, parse_iso, to_aware_utc, to_naive_utc, utc_now
from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import Json
from timestep_lab.server.pages.approvals import waiting_calls
from timestep_lab.server.pages.page_view import PageView
from timestep_lab.server.panel import page_argument
from timestep_lab.store.base import Topic
from timestep_lab.ui.view import handles

if TYPE_CHECKING:
    from timestep_lab.store.store import Store


# --- The numbers of the overview: totals, charts over time and models, each one query over the documented view `traces`


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


# --- The landing page: what ran lately, what waits for approval, what failed, what it cost


PERIODS: dict[str, timedelta | None] = {
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "all": None,
}
_LATEST = 8
_ROW = (
    "trace_id",
    "input",
    "status",
    "started_at",
    "duration_ms",
    "agent_path",
    "model",
    "cost_usd",
    "workflow",
    "output",
)
_CLIP = 160


class Overview(PageView):
    """A stretch of time that a reader brushed in a chart narrows all of the page to it."""

    stem = "pages/overview"
    title = "Overview"
    topics: ClassVar[frozenset[Topic]] = frozenset({"traces", "runs", "approvals"})

    def __init__(self, lab: Any, *, period: str = "24h") -> None:
        super().__init__(lab)
        self._period = period
        self._brushed: tuple[datetime, datetime] | None = None

    @handles("period")
    async def _choose(self, period: str) -> None:
        if period not in PERIODS:
            raise UsageError(f"There is no period {period!r}.", f"Choose one of {', '.join(PERIODS)}.")
        self._period, self._brushed = period, None
        await self.refresh()

    @handles("brush")
    async def _brush(self, since: str | None, until: str | None) -> None:
        self._brushed = (parse_iso(since), parse_iso(until)) if since and until else None
        await self.refresh()

    async def read(self) -> Json:
        return await self.in_turn(self._read)

    def _read(self) -> Json:
        store = self.lab.store
        first = first_moment(store)
        until = utc_now()
        length = PERIODS[self._period]
        # A young lab is drawn from its first trace on: an empty stretch before it tells nothing.
        begin = (first or until) - timedelta(seconds=1)
        since = max(until - length, begin) if length else begin
        if self._brushed:
            since, until = self._brushed
        latest = store.traces.list(since=since, until=until, limit=_LATEST).data
        failed = store.traces.list('status == "failed"', since=since, until=until, limit=_LATEST).data
        waiting = waiting_calls(self.lab)
        return {
            "period": self._period,
            "periods": list(PERIODS),
            "brushed": self._brushed is not None,
            "since": iso(since),
            "until": iso(until),
            "is_empty": first is None,
            "totals": totals(store, since, until),
            "steps": over_time(store, since, until),
            "models": by_model(store, since, until),
            "latest": [_row(trace) for trace in latest],
            "failed": [_row(trace) for trace in failed],
            "waiting": waiting[:_LATEST],
            "n_waiting": len(waiting),
        }


def _row(trace: Any) -> dict[str, Any]:
    row = {name: trace[name] for name in _ROW}
    for name in ("input", "output"):
        row[name] = row[name][:_CLIP] if isinstance(row[name], str) else row[name]
    return row


def page(lab: Any, *, is_owner: bool) -> Any:
    period = page_argument("period")
    return Overview(lab, period=period if period in PERIODS else "24h")
