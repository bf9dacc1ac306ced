"""A user's traces: lists, single traces with their spans, handoff graphs, diffs of two traces, and annotations."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, Unpack, cast

from annotated_types import Interval, Len

from timestep_lab.model.clock import parse_iso, utc_now
from timestep_lab.model.codec import Json, JsonObject, Moment
from timestep_lab.model.errors import NotFoundError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import (
    AgentGraph,
    Interruption,
    RunRecord,
    RunStateRecord,
    ScoreRecord,
    TitledGraph,
)
from timestep_lab.model.spans import SpanRecord
from timestep_lab.service import operation as op
from timestep_lab.service import sharing
from timestep_lab.service.agents import Agents
from timestep_lab.service.operation import Scope, TraceId
from timestep_lab.service.runs import AgainChanges, AgainPlan, interruptions_of, plan_again, run_again
from timestep_lab.service.sharing import SharedTrace
from timestep_lab.store.base import Change, in_thread
from timestep_lab.store.filters.suggestions import Suggestion, suggest
from timestep_lab.store.table import Table
from timestep_lab.store.trace_diff import DiffRow
from timestep_lab.store.trace_selection import NEWEST_FIRST
from timestep_lab.store.trace_stats import FACETS, FacetField, FacetValue, Step, TimeBucket

if TYPE_CHECKING:
    import pandas
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

    from timestep_lab.service.causes import Causes

SPANS_AT_ONCE = 500
TIMES = ("started_at", "ended_at", "created_at")
"""Row columns that hold a time."""


class _Row:
    """JSON encoding of a row (a dict) of a view. NaN and infinity become null, bytes become hex; times are aware UTC
    when decoded.
    """

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        return schema.no_info_after_validator_function(
            lambda row: {k: parse_iso(v) if k in TIMES and isinstance(v, str) else v for k, v in row.items()},
            schema.dict_schema(schema.str_schema()),
            serialization=schema.plain_serializer_function_ser_schema(
                lambda row: {name: plain(value) for name, value in row.items()}, return_schema=schema.dict_schema()
            ),
        )


class _Columns:
    """JSON encoding of columns: text as sequences, numbers as numpy arrays (NaN: unknown) or, when decoded, lists
    (None: unknown).
    """

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        def lists(columns: SpanColumns) -> dict[str, list[object]]:
            values = {name: one.tolist() if hasattr(one, "tolist") else one for name, one in columns.items()}
            return {name: [plain(value) for value in column] for name, column in values.items()}

        return schema.dict_schema(
            schema.str_schema(), serialization=schema.plain_serializer_function_ser_schema(lists, return_schema=schema.dict_schema())
        )  # fmt: skip


def plain(value: object) -> object:
    """A value as JSON: NaN and infinity become null, bytes become hex."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value.hex() if isinstance(value, bytes) else value


Row = Annotated[Mapping[str, Any], _Row()]
SpanColumns = Annotated[Mapping[str, Sequence[Any]], _Columns()]
"""All spans of a trace without their payloads: column name to values, all of the same length, in any order.

Required: `span_id, parent_id, kind, name, status, started_us` (int, microseconds since 1970 UTC). Optional: `ended_us`
(None while pending), `agent, model, input_tokens, output_tokens, cost_usd, ttft_ms`. Values may be lists or numpy
arrays.
"""
SavedKind = Literal["traces", "sql"]
Filter = Annotated[str, Len(0, 10_000)]
"""For example `model == "gpt-4.1" and cost_usd > 0.01`."""
Search = Annotated[str, Len(0, 1_000)]
"""Words to find in the inputs, outputs and messages."""


Source = Literal["", "live", "evaluation", "imported"]
"""The origin of traces; empty: all."""
OrderText = Annotated[str, Len(0, 60)]
"""A column and a direction, such as `cost_usd desc`."""
Name = Annotated[str, Len(1, 100)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceQuery:
    """A selection of traces: a filter expression, search words, the origin, and the range of start times (`since`
    inclusive, `until` exclusive)."""

    filter: str = ""
    search: str = ""
    source: Source = ""
    since: Moment | None = None
    until: Moment | None = None

    def words(self) -> TraceWords:
        """As keyword arguments of `Traces.page`, `histogram`, `facets`, `graph` and `frame`."""
        return cast("TraceWords", asdict(self))


class TraceWords(TypedDict):
    """A `TraceQuery` as keyword arguments."""

    filter: str
    search: str
    source: Source
    since: Moment | None
    until: Moment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePage:
    """A page of rows of the view `traces`; each also has `scores`, the latest of each name."""

    data: list[Row]
    has_more: bool
    after: str | None
    """The cursor of the next page; None on the last page."""
    total: int | None
    """The number of matching traces; only on the first page and if counted (`with_total`), else None."""
    sql: str
    """An equivalent SQL query, to read or copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facet:
    """A property by which traces are counted, and its most frequent values."""

    name: FacetField
    values: list[FacetValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedView:
    """A named view, query or panel saved by the user."""

    id: str
    user_id: str
    kind: SavedKind
    name: str
    body: JsonObject
    """For `traces`: the page's URL parameters. For `sql`: `query`, `chart`, and `panel` (on the overview)."""
    created_at: Moment = field(default_factory=utc_now)
    updated_at: Moment = field(default_factory=utc_now)


@op.noun("trace_source")
class Traces:
    """A user's traces. Traces and spans are dicts with the columns of the views `traces` and `spans`; spans also have
    `cached_tokens, reasoning_tokens, queue_ms, rate_limit_ms, ttft_ms, stop_reason` where known. Missing keys mean
    unknown. All methods block.
    """

    causes: Callable[[], Causes] | None = None
    """Returns the root-cause analysis of this lab; None if runs cannot be replayed."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @op.get("/traces", costly=True)
    def page(
        self,
        *,
        filter: Filter = "",
        search: Search = "",
        source: Source = "",
        since: Moment | None = None,
        until: Moment | None = None,
        order: OrderText = NEWEST_FIRST,
        limit: Annotated[int, Interval(ge=1, le=1000)] = 50,
        after: Annotated[str, Len(0, 200)] | None = None,
        with_total: bool = True,
    ) -> TracePage:
        """A page of traces. `order`: a column, or `score`, followed by `asc` or `desc`. `with_total=False` skips counting all matches. Raises
        `FilterError` for an invalid filter, `UsageError` for an unknown column."""
        traces = self._scope.store.traces
        words: TraceWords = {"filter": filter, "search": search, "source": source, "since": since, "until": until}
        page = traces.list(**words, order=order, limit=limit, after=after)
        is_counted = after is None and with_total
        total = None if not is_counted else traces.count(**words) if page.has_more else len(page.data)
        scores = traces.scores_of([row["trace_id"] for row in page.data])
        rows = [{**row, "scores": scores.get(row["trace_id"], {})} for row in page.data]
        sql = traces.sql(**words, order=order)
        return TracePage(data=[*rows], has_more=page.has_more, after=page.after, total=total, sql=sql)

    @op.get("/traces/histogram", costly=True)
    def histogram(
        self,
        *,
        buckets: Annotated[int, Interval(ge=1, le=500)] = 60,
        filter: Filter = "",
        search: Search = "",
        source: Source = "",
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> list[TimeBucket]:
        """Traces over time in equal intervals, over the given range or over all matches. Raises `FilterError`."""
        return self._scope.store.traces.histogram(
            buckets, filter=filter, search=search, source=source, since=since, until=until
        )

    @op.get("/traces/facets", costly=True)
    def facets(
        self,
        *,
        filter: Filter = "",
        search: Search = "",
        source: Source = "",
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> list[Facet]:
        """Counts of the matching traces by outcome, source, agent, model, failed tool, error type, user, tag and score:
        each value with its number of traces and the filter that selects it. Raises `FilterError`."""
        facets = self._scope.store.traces.facets(filter=filter, search=search, source=source, since=since, until=until)
        return [Facet(name=name, values=values) for name, values in facets.items()]

    @op.get("/traces/series", costly=True)
    def series(
        self,
        *,
        steps: Annotated[int, Interval(ge=1, le=500)] = 48,
        by: Literal["model", "agent"] | None = None,
        filter: Filter = "",
        search: Search = "",
        source: Source = "",
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> list[Step]:
        """Runs, failures, cost, tokens, and percentiles of duration, cost and time to first token over time, in equal
        intervals, optionally split by model or by first agent. Empty intervals are left out. Raises `FilterError`."""
        return self._scope.store.traces.series(
            steps, by, filter=filter, search=search, source=source, since=since, until=until
        )

    @op.get("/views")
    def views(self, kind: SavedKind | None = None) -> list[SavedView]:
        """Saved trace views, queries and overview panels, by name."""
        views = self._saved.find() if kind is None else self._saved.find(kind=kind)
        return sorted(views, key=lambda view: view.name.casefold())

    @op.post("/views")
    def save_view(self, kind: SavedKind, name: Name, body: JsonObject) -> SavedView:
        """Save under a name, replacing an existing one."""
        name = name.strip()
        if not name:
            raise UsageError("A saved view needs a name.", "Enter a name, such as: slow this week", param="name")
        for view in self._saved.find(kind=kind, name=name):
            return self._saved.update(view.id, body=body, updated_at=utc_now())
        return self._saved.insert(
            SavedView(id=new_id("view"), user_id=self._scope.store.user_id, kind=kind, name=name, body=body)
        )

    @op.delete("/views/{view_id}")
    def delete_view(self, view_id: TraceId) -> None:
        """Delete a saved view. Raises `NotFoundError`."""
        self._saved.delete(view_id)

    @property
    def _saved(self) -> Table[SavedView]:
        store = self._scope.store
        return Table(store.db, store.user_id, "saved_views", SavedView, noun="saved view", topic="traces")

    @op.get("/traces/suggest", costly=True)
    def suggest(self, text: Filter = "", cursor: Annotated[int, Interval(ge=0, le=10_000)] = 0) -> list[Suggestion]:
        """Completions at position `cursor` of a filter, best first."""
        facets = self._scope.store.traces.facets()
        return suggest(text, cursor, {FACETS[name]: [(v.value, v.count) for v in facets[name]] for name in FACETS})

    @op.get("/graph", costly=True)
    def graph(
        self,
        *,
        filter: Filter = "",
        search: Search = "",
        source: Source = "",
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> AgentGraph:
        """The handoff graph: all declared handoffs, and those observed in the matching traces. Raises `FilterError`."""
        from timestep_lab.runtime.agent_graph import declared_graph_of, with_declared

        observed = self._scope.store.traces.graph(filter=filter, search=search, source=source, since=since, until=until)
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
        """Handoffs declared from `agent` (a name or an id), combined with those observed in one trace or in all that
        match.

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
        """The spans of a trace in order of start, finished and open, without attributes, input and output. Raises
        `NotFoundError`.
        """
        return self._scope.store.traces.spans(trace_id)

    @op.get("/traces/{trace_id}/columns", costly=True)
    def columns(self, trace_id: TraceId) -> SpanColumns:
        """All spans without their payloads, as columns; times in microseconds since 1970 UTC. Raises `NotFoundError`."""
        return self._scope.store.traces.columns(trace_id)

    @op.get("/traces/{trace_id}/graph", costly=True)
    def graph_of(self, trace_id: TraceId) -> AgentGraph:
        """The handoff graph of one trace: observed handoffs, and those its agents declare. Raises `NotFoundError`."""
        from timestep_lab.runtime.agent_graph import declared_graph_of, with_declared

        workflow = self.read(trace_id)["workflow"]
        agents = Agents(self._scope).list()
        declared = declared_graph_of([agent for agent in agents if agent.name == workflow], agents)
        return with_declared(self._scope.store.traces.graph([trace_id]), declared)

    @op.get("/traces/{trace_id}/diff/{other_id}", costly=True)
    def diff(self, trace_id: TraceId, other_id: TraceId) -> list[DiffRow]:
        """Two traces aligned step by step, in reading order. Raises `NotFoundError`."""
        return self._scope.store.traces.diff(trace_id, other_id)

    @op.get("/spans", costly=True)
    def whole_spans(
        self, trace_id: TraceId, span_id: Annotated[list[str], Len(0, SPANS_AT_ONCE)] | None = None
    ) -> list[Row]:
        """Complete spans with input, output and attributes; without `span_id`, the first 500 of the trace. Unknown ids
        are skipped.
        """
        traces = self._scope.store.traces
        ids = [span.span_id for span in traces.spans(trace_id)][:SPANS_AT_ONCE] if span_id is None else span_id
        return [*traces.payloads(trace_id, ids)]

    @op.get("/scores")
    def scores(self, trace_id: TraceId) -> list[ScoreRecord]:
        """Annotations of a trace and its spans, oldest first."""
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
        """Annotate a trace, a span or a case of a comparison. Raises `NotFoundError` if the trace does not exist."""
        if target == "trace":
            self.read(target_id)
        return self._scope.store.traces.score(target, target_id, name, value, label=label, note=note)

    # -- actions on one trace

    @op.delete("/traces/{trace_id}")
    def delete(self, trace_id: TraceId) -> None:
        """Delete a trace with its steps, annotations and shared links. Its conversation is kept.

        Raises `NotFoundError`, and `ConflictError` if it is running or waiting for approval.
        """
        self.read(trace_id)
        self._scope.store.traces.delete([trace_id])

    @op.post("/traces/{trace_id}/shares", status=201)
    def share(self, trace_id: TraceId, *, days: Annotated[int, Interval(ge=1, le=365)] = 7) -> SharedTrace:
        """Create a link that shows this trace, and nothing else, to anyone who has it, for `days` days. Raises
        `NotFoundError`.
        """
        self.read(trace_id)
        return sharing.share(self._scope, trace_id, days)

    @op.get("/shares")
    def shares(self, *, trace_id: TraceId | None = None) -> list[SharedTrace]:
        """Links that have not expired, newest first."""
        return sharing.shares(self._scope, trace_id)

    @op.delete("/shares/{share_id}")
    def revoke(self, share_id: Annotated[str, Len(1, 200)]) -> None:
        """Revoke a shared link. Raises `NotFoundError`."""
        self._scope.store.shares.delete(share_id)

    @op.post("/traces/{trace_id}/again/plan")
    async def plan_again(self, trace_id: TraceId, **changes: Unpack[AgainChanges]) -> AgainPlan:
        """What running it again with these changes would replay, and what would run live. Calls and writes nothing.

        Raises `NotFoundError`, `UsageError` for changes that have no effect, `RunError` if the trace is not a run of
        this lab.
        """
        return await plan_again(self._scope, trace_id, changes)

    @op.post("/traces/{trace_id}/again", status=201)
    async def run_again(self, trace_id: TraceId, **changes: Unpack[AgainChanges]) -> RunRecord:
        """Run the trace again in a new conversation, with this trace as its parent. The run continues in the
        background.

        Raises what `plan_again` raises.
        """
        return await run_again(self._scope, trace_id, changes)

    @op.get("/traces/{trace_id}/waiting")
    def waiting(self, trace_id: TraceId) -> list[Interruption]:
        """Pending approvals of this trace. Raises `NotFoundError`."""
        self.read(trace_id)
        state = self._waiting_state(trace_id)
        return [] if state is None else interruptions_of(state)

    @op.post("/traces/{trace_id}/decisions", status=201)
    async def decide(
        self,
        trace_id: TraceId,
        call_id: Annotated[str, Len(1, 200)],
        decision: Literal["approved", "rejected"],
        *,
        message: Annotated[str, Len(0, 10_000)] = "",
        always: bool = False,
        answer: JsonObject | None = None,
    ) -> None:
        """Decide about a pending tool call; `answer` fills in the form that its server asks for. Returns when the
        decision is stored; the run then continues in the background.

        Raises `NotFoundError` if nothing in this trace is waiting, `UsageError` for an invalid form, `ConflictError` if
        someone else has decided.
        """
        state = await in_thread(self._waiting_state, trace_id)
        if state is None:
            raise NotFoundError(
                f"No call of trace {trace_id} is waiting for approval.",
                "Someone may have decided already; reload the trace.",
            )
        chosen: dict[str, dict[str, Json]] = {
            call_id: {"decision": decision, "message": message, "always": always, "answer": answer}
        }
        events = self._scope.runner.resume(state.run_id, chosen, keep_running=True)
        try:
            await anext(events)
        finally:
            await events.aclose()

    def _waiting_state(self, trace_id: str) -> RunStateRecord | None:
        store = self._scope.store
        waiting = store.runs.find(1, trace_id=trace_id, status="needs_approval")
        return store.run_states.try_get(waiting[0].id) if waiting else None

    # -- not single requests

    def payloads(self, trace_id: str, span_ids: Sequence[str]) -> builtins.list[Row]:
        """Complete spans, any number, in the given order; unknown ids are skipped."""
        starts = range(0, len(span_ids), SPANS_AT_ONCE)
        parts = (self.whole_spans(trace_id, [*span_ids[start : start + SPANS_AT_ONCE]]) for start in starts)
        return [row for part in parts for row in part]

    def frame(
        self,
        *,
        filter: str = "",
        search: str = "",
        source: Source = "",
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> pandas.DataFrame:
        """All matching traces, with the columns of the view `traces`. Raises `FilterError`."""
        return self._scope.store.traces.frame(filter, search, source=source, since=since, until=until)

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback` with a trace's id, on any thread, after it changed. Returns a function that unsubscribes."""
        return self._scope.store.subscribe(of_traces(callback))


def of_traces(callback: Callable[[str], None]) -> Callable[[Change], None]:
    """A change listener that passes on only changes of traces, and of what is said about them."""

    def changed(change: Change) -> None:
        if change.topic in ("traces", "runs", "scores"):
            callback(change.id)

    return changed
