"""The landing page; `?period=` is 1h, 24h, 7d, 30d or all, `source=` live, evaluation, imported or all, `by=` model or
agent.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Literal, TypedDict, Unpack, get_args

from timestep_lab.model.clock import iso, parse_iso, utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import NotFoundError, UsageError
from timestep_lab.server.pages.approvals import waiting_calls
from timestep_lab.server.pages.page_view import PageView
from timestep_lab.server.pages.sql import answer
from timestep_lab.server.panel import page_argument
from timestep_lab.service.traces import SavedView, Source
from timestep_lab.store.base import Topic, in_thread
from timestep_lab.store.trace_stats import Step
from timestep_lab.ui.view import handles

if TYPE_CHECKING:
    from timestep_lab.server.labs import UserLab
    from timestep_lab.service.traces import Row, Traces


class Selected(TypedDict, total=False):
    """A selection of traces, as keyword arguments of `Traces.series`."""

    source: Source


class Range(Selected):
    """A selection of traces in a range of time."""

    since: datetime
    until: datetime


BUCKETS = 48
_GROUPS = 6
"""Maximum number of lines in a split chart: the most used models or agents."""
_MODELS = 8


def first_moment(traces: Traces) -> datetime | None:
    """When the oldest trace started."""
    oldest = traces.page(order="started_at asc", limit=1, with_total=False).data
    return oldest[0]["started_at"] if oldest else None


def over_time(traces: Traces, since: datetime, until: datetime, **words: Unpack[Selected]) -> list[Step]:
    """`BUCKETS` equal time intervals, including empty ones."""
    width = max(until - since, timedelta(milliseconds=1)) / BUCKETS
    steps = {
        round((step.start - since) / width): step
        for step in traces.series(steps=BUCKETS, since=since, until=until, **words)
    }
    return [
        steps.get(n) or Step(start=since + n * width, end=since + (n + 1) * width, group=None) for n in range(BUCKETS)
    ]


def by_group(traces: Traces, by: Split, since: datetime, until: datetime, **words: Unpack[Selected]) -> list[Step]:
    """The totals of each model or agent, most used first."""
    steps = traces.series(steps=1, by=by, since=since, until=until, **words)
    return sorted((step for step in steps if step.group is not None), key=lambda step: (-step.runs, step.group or ""))


# --- The landing page: recent runs, pending approvals, failures, cost


PERIODS: dict[str, timedelta | None] = {
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "all": None,
}
Split = Literal["model", "agent"]
_LATEST = 8
_ROW = (
    "trace_id",
    "input",
    "outcome",
    "n_errors",
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
    """The page. Selecting a time range in a chart restricts the whole page to it."""

    stem = "pages/overview"
    title = "Overview"
    topics: ClassVar[frozenset[Topic]] = frozenset({"traces", "runs", "approvals"})

    def __init__(self, lab: UserLab, *, period: str = "24h", source: Source = "live", by: Split | None = None) -> None:
        super().__init__(lab)
        self._period = period
        self._source: Source = source
        self._by: Split | None = by
        self._brushed: tuple[datetime, datetime] | None = None

    @handles("period")
    async def _choose(self, period: str) -> None:
        if period not in PERIODS:
            raise UsageError(f"Unknown period {period!r}.", f"Choose one of {', '.join(PERIODS)}.")
        self._period, self._brushed = period, None
        await self.refresh()

    @handles("look")
    async def _look(self, source: Source, by: Split | None) -> None:
        if source not in get_args(Source) or by not in (None, *get_args(Split)):
            raise UsageError(f"Unknown source {source!r}, or split by {by!r}.", "Reload the page.")
        self._source, self._by = source, by
        await self.refresh()

    @handles("forget_panel")
    async def _forget_panel(self, view_id: str) -> None:
        await in_thread(self.lab.trace_source.delete_view, view_id)
        await self.refresh()

    @handles("brush")
    async def _brush(self, since: str | None, until: str | None) -> None:
        self._brushed = (parse_iso(since), parse_iso(until)) if since and until else None
        await self.refresh()

    async def read(self) -> object:
        return await self.in_turn(self._read)

    def _read(self) -> object:
        traces: Traces = self.lab.trace_source
        first = first_moment(traces)
        until = utc_now()
        length = PERIODS[self._period]
        # A new lab is drawn from its first trace on, without an empty range before it.
        begin = (first or until) - timedelta(seconds=1)
        since = max(until - length, begin) if length else begin
        if self._brushed:
            since, until = self._brushed
        words: Range = {"source": self._source, "since": since, "until": until}
        latest = traces.page(**words, limit=_LATEST, with_total=False).data
        failed = traces.page(filter='outcome == "failed"', **words, limit=_LATEST, with_total=False).data
        waiting = waiting_calls(self.lab)
        span: Range = {"since": since, "until": until, "source": self._source}
        [totals] = traces.series(steps=1, **span) or [Step(start=since, end=until, group=None)]
        models = by_group(traces, "model", **span)
        groups = [step.group for step in (models if self._by == "model" else by_group(traces, "agent", **span))][
            :_GROUPS
        ]
        return {
            "period": self._period,
            "periods": list(PERIODS),
            "source": self._source,
            "by": self._by,
            "brushed": self._brushed is not None,
            "since": iso(since),
            "until": iso(until),
            "is_empty": first is None,
            "totals": _step_row(totals),
            "steps": [_step_row(step) for step in over_time(traces, **span)],
            "groups": groups if self._by else [],
            "split": [
                _step_row(step) for step in traces.series(steps=BUCKETS, by=self._by, **span) if step.group in groups
            ]
            if self._by
            else [],
            "models": [_step_row(step) for step in models[:_MODELS]],
            "panels": [
                {"id": view.id, "name": view.name, "chart": view.body.get("chart"), "query": view.body.get("query")}
                for view in self._panels()
            ],
            "latest": [_row(trace) for trace in latest],
            "failed": [_row(trace) for trace in failed],
            "waiting": waiting[:_LATEST],
            "n_waiting": len(waiting),
        }

    def _panels(self) -> list[SavedView]:
        return [view for view in self.lab.trace_source.views("sql") if view.body.get("panel")]

    @handles("panel")
    async def _panel(self, view_id: str) -> Json:
        """The rows of a saved query. Asked for each panel by itself, so that a slow query holds up nothing else."""
        for view in await self.in_turn(self._panels):
            if view.id == view_id:
                return await self.in_turn(answer, self.lab, str(view.body.get("query")))
        raise NotFoundError("This panel does not exist any more.", "Reload the page.")


def _step_row(step: Step) -> dict[str, object]:
    return {**asdict(step), "start": iso(step.start), "end": iso(step.end)}


def _row(trace: Row) -> dict[str, object]:
    row = {name: trace[name] for name in _ROW}
    for name in ("input", "output"):
        row[name] = row[name][:_CLIP] if isinstance(row[name], str) else row[name]
    return row


def page(lab: UserLab, *, is_owner: bool) -> Overview:
    period, source, by = page_argument("period"), page_argument("source") or "live", page_argument("by")
    return Overview(
        lab,
        period=period if period in PERIODS else "24h",
        source="" if source == "all" else source if source in get_args(Source) else "live",  # type: ignore[arg-type]
        by=by if by in get_args(Split) else None,  # type: ignore[arg-type]
    )
