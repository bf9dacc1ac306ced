"""Traces of one user: lists, single traces with their spans, handoff graphs, two traces aligned, and annotations."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval, Len

from timestep_lab.model.clock import parse_iso
from timestep_lab.model.codec import Moment
from timestep_lab.model.records import AgentGraph, ScoreRecord, TitledGraph
from timestep_lab.model.spans import SpanRecord
from timestep_lab.service import operation as op
from timestep_lab.service.agents import Agents
from timestep_lab.service.operation import Scope
from timestep_lab.store.base import Change
from timestep_lab.store.filters.suggestions import Suggestion, suggest
from timestep_lab.store.trace_diff import DiffRow
from timestep_lab.store.trace_sums import TimeBucket

if TYPE_CHECKING:
    import pandas
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

SPANS_AT_ONCE = 500
TIMES = ("started_at", "ended_at", "created_at")
"""Columns of rows that hold a time."""


class _Row:
    """A row of a view as a dict. In JSON: no NaN and no infinity, they go as null; bytes go as hex; times are aware UTC again when read."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        return schema.no_info_after_validator_function(
            lambda row: {k: parse_iso(v) if k in TIMES and isinstance(v, str) else v for k, v in row.items()},
            schema.dict_schema(schema.str_schema()),
            serialization=schema.plain_serializer_function_ser_schema(
                lambda row: {name: plain(value) for name, value in row.items()}, return_schema=schema.dict_schema()
            ),
        )


class _Columns:
    """Column name to values: text as sequences, numbers as numpy arrays (NaN: unknown) or, out of JSON, lists (None: unknown)."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        def lists(columns: Mapping[str, Any]) -> dict[str, Any]:
            values = {name: one.tolist() if hasattr(one, "tolist") else one for name, one in columns.items()}
            return {name: [plain(value) for value in column] for name, column in values.items()}

        return schema.dict_schema(
            schema.str_schema(), serialization=schema.plain_serializer_function_ser_schema(lists, return_schema=schema.dict_schema())
        )  # fmt: skip


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they go as null. Bytes go as hex."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value.hex() if isinstance(value, bytes) else value


Row = Annotated[Mapping[str, Any], _Row()]
SpanColumns = Annotated[Mapping[str, Sequence[Any]], _Columns()]
"""All spans of a trace without their payloads: column name to values, equally long, in any order.

Needed: `span_id, parent_id, kind, name, status, started_us` (int, microseconds since 1970 UTC). Optional: `ended_us` (None while
pending), `agent, model, input_tokens, output_tokens, cost_usd, ttft_ms`. Values may be lists or numpy arrays.
"""
TraceId = Annotated[str, Len(1, 200)]
Filter = Annotated[str, Len(0, 10_000)]
"""For example `model == "gpt-4.1" and cost_usd > 0.01`."""
Search = Annotated[str, Len(0, 1_000)]
"""Words to find in what was said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceQuery:
    """Which traces: a filter expression, words to find, and the time they started in (`since` inclusive, `until` exclusive)."""

    filter: str = ""
    search: str = ""
    since: Moment | None = None
    until: Moment | None = None

    def words(self) -> dict[str, Any]:
        """As the arguments of `Traces.page`, `histogram`, `graph` and `frame`."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePage:
    """Rows of the view `traces`, newest first."""

    data: list[Row]
    has_more: bool
    after: str | None
    """Pass it for the next page; None when there is none."""
    total: int | None
    """How many traces match in all; None after the first page."""
    sql: str
    """The query that answers the same, to read and to copy."""


class Traces:
    """What a trace row and a span are: dicts with the columns of the views `traces` and `spans`, spans with `cached_tokens,
    reasoning_tokens, queue_ms, rate_limit_ms, ttft_ms, stop_reason` where known. Missing keys count as unknown. All methods block.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @op.get("/traces", costly=True)
    def page(
        self,
        *,
        filter: Filter = "",
        search: Search = "",
        since: Moment | None = None,
        until: Moment | None = None,
        limit: Annotated[int, Interval(ge=1, le=1000)] = 50,
        after: Annotated[str, Len(0, 200)] | None = None,
    ) -> TracePage:
        """Newest first. Raises `FilterError` for a filter that cannot be read."""
        traces = self._scope.store.traces
        words: dict[str, Any] = {"filter": filter, "search": search, "since": since, "until": until}
        page = traces.list(**words, limit=limit, after=after)
        total = None if after is not None else traces.count(**words) if page.has_more else len(page.data)
        return TracePage(
            data=[*page.data], has_more=page.has_more, after=page.after, total=total, sql=traces.sql(**words)
        )

    @op.get("/traces/histogram", costly=True)
    def histogram(
        self,
        *,
        buckets: Annotated[int, Interval(ge=1, le=500)] = 60,
        filter: Filter = "",
        search: Search = "",
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> list[TimeBucket]:
        """Traces over time, in equal steps over the range, or over all that matches. Raises `FilterError`."""
        return self._scope.store.traces.histogram(buckets, filter=filter, search=search, since=since, until=until)

    @op.get("/traces/suggest", costly=True)
    def suggest(self, text: Filter = "", cursor: Annotated[int, Interval(ge=0, le=10_000)] = 0) -> list[Suggestion]:
        """What may stand at `cursor` of a filter, best first."""
        return suggest(text, cursor, self._scope.store.traces.facets())

    @op.get("/graph", costly=True)
    def graph(
        self, *, filter: Filter = "", search: Search = "", since: Moment | None = None, until: Moment | None = None
    ) -> AgentGraph:
        """Who hands off to whom: all that agents declare, and what the matching traces travelled. Raises `FilterError`."""
        from timestep_lab.runtime.agent_graph import declared_graph_of, with_declared

        observed = self._scope.store.traces.graph(filter=filter, search=search, since=since, until=until)
        agents = Agents(self._scope).list()
        return with_declared(observed, declared_graph_of(agents, agents))

    @op.get("/handoffs", costly=True)
    def handoffs(
        self,
        *,
        agent: Annotated[str, Len(1, 200)] | None = None,
        filter: Filter = "",
        trace_id: Annotated[list[str], Len(0, 500)] | None = None,
    ) -> TitledGraph:
        """Handoffs declared from `agent` (a name or an id), under those observed in the given traces or in all that match.

        Raises `NotFoundError`, `FilterError`.
        """
        from timestep_lab.runtime.agent_graph import declared_graph_of, over

        self._scope.flush()
        observed = self._scope.store.traces.graph(trace_id, filter)
        if agent is None:
            return TitledGraph(nodes=observed.nodes, edges=observed.edges, title="Handoffs")
        agents = Agents(self._scope)
        root = agents.get(agent)
        graph = over(declared_graph_of([root], agents.list()), observed)
        return TitledGraph(nodes=graph.nodes, edges=graph.edges, title=f"Handoffs of {root.name}")

    @op.get("/traces/{trace_id}")
    def read(self, trace_id: TraceId) -> Row:
        """One row of the view `traces`. Raises `NotFoundError`."""
        return self._scope.store.traces.get(trace_id)

    @op.get("/traces/{trace_id}/spans", costly=True)
    def spans(self, trace_id: TraceId) -> list[SpanRecord]:
        """In order of start, finished and open, without attributes, input and output. Raises `NotFoundError`."""
        return self._scope.store.traces.spans(trace_id)

    @op.get("/traces/{trace_id}/columns", costly=True)
    def columns(self, trace_id: TraceId) -> SpanColumns:
        """All spans without their payloads, column by column; times in microseconds since 1970 UTC. Raises `NotFoundError`."""
        return self._scope.store.traces.columns(trace_id)

    @op.get("/traces/{trace_id}/graph", costly=True)
    def graph_of(self, trace_id: TraceId) -> AgentGraph:
        """Who handed off to whom in one trace, over what its agents declare. Raises `NotFoundError`."""
        from timestep_lab.runtime.agent_graph import declared_graph_of, with_declared

        workflow = self.read(trace_id)["workflow"]
        agents = Agents(self._scope).list()
        declared = declared_graph_of([agent for agent in agents if agent.name == workflow], agents)
        return with_declared(self._scope.store.traces.graph([trace_id]), declared)

    @op.get("/traces/{trace_id}/diff/{other_id}", costly=True)
    def diff(self, trace_id: TraceId, other_id: TraceId) -> list[DiffRow]:
        """Two traces aligned, a row a step, in the order of a reader. Raises `NotFoundError`."""
        return self._scope.store.traces.diff(trace_id, other_id)

    @op.get("/spans", costly=True)
    def whole_spans(
        self, trace_id: TraceId, span_id: Annotated[list[str], Len(0, SPANS_AT_ONCE)] | None = None
    ) -> list[Row]:
        """Whole spans with input, output and attributes; without `span_id`, the first 500 of the trace. Unknown ids are left out."""
        traces = self._scope.store.traces
        ids = [span.span_id for span in traces.spans(trace_id)][:SPANS_AT_ONCE] if span_id is None else span_id
        return [*traces.payloads(trace_id, ids)]

    @op.get("/scores")
    def scores(self, trace_id: TraceId) -> list[ScoreRecord]:
        """Annotations of a trace and of its spans, oldest first."""
        return self._scope.store.traces.scores(trace_id)

    @op.post("/scores", status=201)
    def score(
        self,
        target: Literal["trace", "span", "case"],
        target_id: Annotated[str, Len(1, 200)],
        name: Annotated[str, Len(1, 200)],
        value: float | None = None,
        *,
        label: Annotated[str, Len(0, 1000)] | None = None,
        note: Annotated[str, Len(0, 100_000)] | None = None,
    ) -> ScoreRecord:
        """Annotate a trace, a span or a comparison's case. Raises `NotFoundError` for a trace that is not there."""
        if target == "trace":
            self.read(target_id)
        return self._scope.store.traces.score(target, target_id, name, value, label=label, note=note)

    # -- what is not one request

    def payloads(self, trace_id: str, span_ids: Sequence[str]) -> builtins.list[Mapping[str, Any]]:
        """Whole spans of any number, in the order asked for; unknown ids are left out."""
        starts = range(0, len(span_ids), SPANS_AT_ONCE)
        parts = (self.whole_spans(trace_id, [*span_ids[start : start + SPANS_AT_ONCE]]) for start in starts)
        return [row for part in parts for row in part]

    def frame(
        self, *, filter: str = "", search: str = "", since: Moment | None = None, until: Moment | None = None
    ) -> pandas.DataFrame:
        """All traces that match, with the columns of the view `traces`. Raises `FilterError`."""
        return self._scope.store.traces.frame(filter, search, since=since, until=until)

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call back with a trace's id, on any thread, after it changed. Returns what ends it."""
        return self._scope.store.subscribe(of_traces(callback))


def of_traces(callback: Callable[[str], None]) -> Callable[[Change], None]:
    """A listener to all changes that passes on those of traces."""

    def changed(change: Change) -> None:
        if change.topic in ("traces", "runs"):
            callback(change.id)

    return changed
