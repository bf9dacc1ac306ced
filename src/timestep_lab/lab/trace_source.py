"""A lab in this process, as the trace views need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from timestep_lab.store.base import Change
from timestep_lab.types.graph import AgentGraph
from timestep_lab.types.records import ScoreRecord
from timestep_lab.ui.sources import Bucket, DiffRow, SpanColumns, Suggestion, TracePage, TraceQuery

if TYPE_CHECKING:
    import pandas

    from timestep_lab.store.store import Store


class StoreTraceSource:
    """`ui.sources.TraceSource` over a store's traces."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._traces = store.traces

    def list(self, query: TraceQuery, *, limit: int, after: str | None = None) -> TracePage:
        page = self._traces.list(**_asked(query), limit=limit, after=after)
        return TracePage(
            rows=page.data,
            total=None if after else self._traces.count(**_asked(query)),
            sql=self._traces.sql(**_asked(query)),
            after=page.after,
        )

    def frame(self, query: TraceQuery) -> pandas.DataFrame:
        return self._traces.frame(**_asked(query))

    def histogram(self, query: TraceQuery, *, buckets: int) -> Sequence[Bucket]:
        found = self._traces.histogram(buckets, **_asked(query))
        return [Bucket(start=b.start, end=b.end, count=b.count, errors=b.errors) for b in found]

    def suggest(self, text: str, cursor: int) -> Sequence[Suggestion]:
        from timestep_lab.store.filters.complete import complete

        return [
            Suggestion(text=s.text, start=s.start, end=s.end, detail=s.detail)
            for s in complete(text, cursor, self._traces)
        ]

    def trace(self, trace_id: str) -> Mapping[str, Any]:
        return self._traces.get(trace_id)

    def spans(self, trace_id: str) -> SpanColumns:
        return self._traces.columns(trace_id)

    def payloads(self, trace_id: str, span_ids: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        return self._traces.payloads(trace_id, span_ids)

    def graph(self, *, trace_id: str | None = None, query: TraceQuery | None = None) -> AgentGraph:
        if trace_id is not None:
            return self._traces.graph([trace_id])
        return self._traces.graph(**_asked(query or TraceQuery()))

    def diff(self, left: str, right: str) -> Sequence[DiffRow]:
        from timestep_lab.lab.trace_diff import diff_rows

        return diff_rows(self._store, left, right)

    def scores(self, trace_id: str) -> Sequence[ScoreRecord]:
        return self._traces.scores(trace_id)

    def add_score(
        self,
        target: Literal["trace", "span"],
        target_id: str,
        *,
        name: str,
        value: float | None,
        label: str | None,
        note: str | None,
    ) -> ScoreRecord:
        return self._traces.score(target, target_id, name, value, label=label, note=note)

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        def changed(change: Change) -> None:
            if change.topic in ("traces", "runs", "scores"):
                # A run's or a score's change is a trace's change too; which one costs a look-up that a redraw makes anyway.
                callback(change.id if change.topic == "traces" else "")

        return self._store.subscribe(changed)


def _asked(query: TraceQuery) -> dict[str, Any]:
    return {"filter": query.filter, "search": query.search, "since": query.since, "until": query.until}
