"""The landing page: what ran lately, what waits for approval, what failed, what it cost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar

from timestep_lab.model.clock import iso, parse_iso, utc_now
from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import Json
from timestep_lab.server.views import overview_numbers as numbers
from timestep_lab.server.views.page_view import PageView
from timestep_lab.server.views.waiting import waiting_calls
from timestep_lab.store.base import Topic
from timestep_lab.ui.view import handles

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
        first = numbers.first_moment(store)
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
            "totals": numbers.totals(store, since, until),
            "steps": numbers.over_time(store, since, until),
            "models": numbers.by_model(store, since, until),
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
