"""What the trace views ask, answered by a served lab (`ui.sources.TraceSource`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from timestep_lab.lab.remote.changes import Changes
from timestep_lab.lab.remote.rows import select
from timestep_lab.service import decode
from timestep_lab.service.connection import Connection
from timestep_lab.store.base import Change
from timestep_lab.types.clock import iso
from timestep_lab.types.graph import AgentGraph
from timestep_lab.types.records import ScoreRecord
from timestep_lab.ui.sources import Bucket, DiffRow, SpanColumns, Suggestion, TracePage, TraceQuery

if TYPE_CHECKING:
    import pandas

PATH = "/api/v1/traces"
AT_ONCE = 200
"""Spans asked for in one request: their ids are in its address."""


class RemoteTraceSource:
    def __init__(self, connection: Connection, changes: Changes) -> None:
        self._connection, self._changes = connection, changes

    def list(self, query: TraceQuery, *, limit: int, after: str | None = None) -> TracePage:
        told = self._connection.get(PATH, **_words(query), limit=limit, after=after)
        rows = tuple(decode.row(row) for row in told["data"])
        return TracePage(rows=rows, total=told["total"], sql=told["sql"], after=told["after"])

    def frame(self, query: TraceQuery) -> pandas.DataFrame:
        return select(self._connection, self.list(query, limit=1).sql).df()

    def histogram(self, query: TraceQuery, *, buckets: int) -> Sequence[Bucket]:
        return decode.records(Bucket, self._connection.get(f"{PATH}/histogram", **_words(query), buckets=buckets))

    def suggest(self, text: str, cursor: int) -> Sequence[Suggestion]:
        return decode.records(Suggestion, self._connection.get(f"{PATH}/suggest", text=text, cursor=cursor))

    def trace(self, trace_id: str) -> Mapping[str, Any]:
        return decode.row(self._connection.get(f"{PATH}/{trace_id}"))

    def spans(self, trace_id: str) -> SpanColumns:
        columns: dict[str, list[Any]] = self._connection.get(f"{PATH}/{trace_id}/columns")
        return columns

    def payloads(self, trace_id: str, span_ids: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        rows: list[dict[str, Any]] = []
        for start in range(0, len(span_ids), AT_ONCE):
            part = list(span_ids[start : start + AT_ONCE])
            rows += map(decode.row, self._connection.get("/api/v1/spans", trace_id=trace_id, span_id=part))
        return rows

    def graph(self, *, trace_id: str | None = None, query: TraceQuery | None = None) -> AgentGraph:
        if trace_id is not None:
            return decode.record(AgentGraph, self._connection.get(f"{PATH}/{trace_id}/graph"))
        return decode.record(AgentGraph, self._connection.get("/api/v1/graph", **_words(query or TraceQuery())))

    def diff(self, left: str, right: str) -> Sequence[DiffRow]:
        return decode.records(DiffRow, self._connection.get(f"{PATH}/{left}/diff/{right}"))

    def scores(self, trace_id: str) -> Sequence[ScoreRecord]:
        return decode.records(ScoreRecord, self._connection.get("/api/v1/scores", trace_id=trace_id))

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
        body = {"target": target, "target_id": target_id, "name": name, "value": value, "label": label, "note": note}
        return decode.record(ScoreRecord, self._connection.post("/api/v1/scores", body))

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        def changed(change: Change) -> None:
            if change.topic in ("traces", "runs"):
                callback(change.id)

        return self._changes.subscribe(changed)


def _words(query: TraceQuery) -> dict[str, Any]:
    return {
        "filter": query.filter or None, "search": query.search or None, "since": query.since and iso(query.since),
        "until": query.until and iso(query.until),
    }  # fmt: skip
