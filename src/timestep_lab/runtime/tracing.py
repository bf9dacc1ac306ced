"""Agents SDK traces as rows of the lab's store, exported nowhere else.

`install` replaces the SDK's own exporter, which would upload to OpenAI as soon as a key is set, by one processor.
Callbacks run inside the user's code on any thread: they only convert a span to a record and enqueue it.

A run of the lab binds its trace to its user, thread and writer. An unbound trace (the SDK used directly beside a lab) is stored in the
most recently installed lab, as the local user's.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from agents import ToolErrorFormatterArgs, UserError
from agents.tracing import Trace, TracingProcessor, get_current_span, set_trace_processors, trace
from agents.tracing.scope import Scope

from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import Json, object_of
from timestep_lab.model.ids import LOCAL_USER, new_span_id, new_trace_id
from timestep_lab.model.records import AgentRecord
from timestep_lab.model.spans import GenAI, Lab, SpanRecord, TraceStart
from timestep_lab.runtime.span_records import (
    SdkSpan,
    call_span_id,
    definition_of,
    ended,
    offered_of,
    otel_span_id,
    otel_trace_id,
    sdk_trace_id,
    started,
)
from timestep_lab.store.trace_writer import TraceWriter

KEPT_ROUTES = 4096
"""Number of traces whose late spans can still be routed."""


@dataclass(slots=True)
class TraceContext:
    """Destination of the spans of one trace, with context that the SDK does not provide."""

    writer: TraceWriter
    user_id: str
    trace_id: str
    thread_id: str | None = None
    run_id: str | None = None
    root: str | None = None
    """Span id of the row that becomes the parent of spans without one."""
    begin: Callable[[], None] | None = None
    """Called once before the first span; announces a bound trace lazily. Without it, the trace is announced when it starts."""
    resumes: bool = False
    """The next agent span continues after a pause."""
    agents: dict[str, str] = field(default_factory=dict)
    """Maps an SDK span id to the agent it runs for; child spans inherit it."""
    ids: dict[str, str] = field(default_factory=dict)
    """Maps an SDK span id to the id of its row."""
    open: dict[str, SpanRecord] = field(default_factory=dict)
    """Open spans by SDK span id."""
    closed_calls: set[str] = field(default_factory=set)
    """Calls whose row was closed because their process died; the next attempt gets a new row."""
    turns: dict[str, str] = field(default_factory=dict)
    """Maps an agent's name to the row id of its latest turn; the key "" holds the latest turn of all."""
    failed: str | None = None
    """Error of the most recently ended agent span, if any."""
    input: Json = None
    output: Json = None
    stored: Mapping[str, AgentRecord] = field(default_factory=dict)
    """Stored agents of this run by name; their spans carry id and version."""
    offered: dict[str | None, list[Json]] = field(default_factory=dict)
    """Maps an agent to the tools it was last offered."""
    costs: list[float | None] = field(default_factory=list)
    """Cost in USD of each finished generation since the run started or resumed; None where the price is unknown."""
    tokens: int = 0
    """Tokens of the same generations."""

    def turn_of(self, agent: str | None) -> str | None:
        """Returns the parent row of a call that was not executed: the agent's latest turn, or else the latest turn of all."""
        return self.turns.get(agent or "") or self.turns.get("")

    def row_of(self, call_id: str) -> str:
        """Returns the row id of a tool call, which is that of the row already open for its approval, if any."""
        return new_span_id() if call_id in self.closed_calls else call_span_id(self.trace_id, call_id)

    def for_late_spans(self) -> TraceContext:
        """Returns what is needed of a trace that is over: where its late spans belong, without payloads, tools, agents and callbacks."""
        return TraceContext(
            self.writer, self.user_id, self.trace_id, self.thread_id, self.run_id, self.root, agents=self.agents, ids=self.ids,
            turns=self.turns, closed_calls=self.closed_calls, only_ended=self.only_ended,
        )  # fmt: skip

    only_ended: bool = False
    """Write only the root of a trace while it runs, and other spans when they have ended. Halves the writes of many concurrent runs that
    nobody watches live."""

    on_span: Callable[[SpanRecord], None] | None = None
    """Called with each span as it ends, on the thread where it ended; for code that needs a run's steps without querying the store."""


class StoreProcessor(TracingProcessor):
    """The trace processor of this process; see `install`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._routes: OrderedDict[str, TraceContext] = OrderedDict()
        self._homes: list[TraceWriter] = []
        """One entry per use: the users of a served lab share a writer. Unbound traces go to the last entry."""
        self._watchers: list[Callable[[TraceContext], None]] = []

    # -- homes and routes

    def add_home(self, writer: TraceWriter) -> None:
        with self._lock:
            self._homes.append(writer)

    def remove_home(self, writer: TraceWriter) -> None:
        """Reverses one `add_home`. After the last one, further spans for the writer are dropped because it is being closed."""
        with self._lock:
            if writer in self._homes:
                self._homes.reverse()
                self._homes.remove(writer)
                self._homes.reverse()
            if writer not in self._homes:
                self._routes = OrderedDict((k, r) for k, r in self._routes.items() if r.writer is not writer)

    def bind(self, sdk_trace_id: str, route: TraceContext) -> None:
        """Routes the spans of a trace. Binding a trace again (on resume) keeps what is known about it.

        Also leaves the SDK's current trace in this task: the SDK would otherwise add the run to a trace that the caller has open.
        """
        Scope.set_current_trace(None)
        Scope.set_current_span(None)
        with self._lock:
            known = self._routes.get(sdk_trace_id)
            if known:
                route.agents.update(known.agents)
                route.ids.update(known.ids)
            self._keep(sdk_trace_id, route)

    def release(self, sdk_trace_id: str, reason: str) -> None:
        """Ends routing when the run is over or paused: spans still open, except calls waiting for approval, are closed as errors."""
        route = self._routes.get(sdk_trace_id)
        if route is None:
            return
        with self._lock:
            left, route.open = list(route.open.values()), {}
            if sdk_trace_id in self._routes:
                self._routes[sdk_trace_id] = route.for_late_spans()
        for record in left:
            route.writer.span_ended(replace(record, status="error", error=reason, ended_at=utc_now()))

    def watch(self, watcher: Callable[[TraceContext], None]) -> Callable[[], None]:
        """Registers a callback for every starting trace, called on the thread and in the context that starts it. Call the result to
        unregister."""
        with self._lock:
            self._watchers = [*self._watchers, watcher]

        def end() -> None:
            with self._lock:
                self._watchers = [w for w in self._watchers if w is not watcher]

        return end

    # -- tool call details that only the runner knows

    def tool_started(self, span: SdkSpan, call_id: str, server: str | None, approval: str) -> None:
        """Marks the tool of the function span `span` as started. From now on the span has the row id of the call, which is shared with the
        row that was open while the call waited for approval."""
        route = self._routes.get(span.trace_id)
        record = route.open.get(span.span_id) if route else None
        if route is None or record is None:
            return
        with self._lock:
            own_id = route.row_of(call_id)
            route.ids[span.span_id] = own_id
            attributes = {**record.attributes, GenAI.TOOL_CALL_ID: call_id, Lab.APPROVAL: approval}
            if server:
                attributes[Lab.SERVER] = server
            record = replace(record, span_id=own_id, attributes=attributes)
            route.open[span.span_id] = record
        if not route.only_ended:
            route.writer.span_started(record)

    def tool_noted(self, span: SdkSpan, attributes: Mapping[str, Json]) -> None:
        """Adds attributes to the row of a function span: the result sent to the model, the error class, a decision, tape use."""
        route = self._routes.get(span.trace_id)
        if route is None:
            return
        with self._lock:
            record = route.open.get(span.span_id)
            if record is not None:
                route.open[span.span_id] = replace(record, attributes={**record.attributes, **attributes})

    # -- the SDK's callbacks

    def on_trace_start(self, trace: Trace) -> None:
        exported = trace.export() or {}
        metadata = dict(exported.get("metadata") or {})
        with self._lock:
            route = self._routes.get(trace.trace_id)
            if route is None:
                if not self._homes:
                    return
                route = TraceContext(
                    self._homes[-1], LOCAL_USER, otel_trace_id(trace.trace_id), thread_id=exported.get("group_id")
                )
                self._keep(trace.trace_id, route)
                announced = False
            else:
                # The runner announces its own traces, including forks and inputs.
                announced = route.run_id is not None or route.begin is not None
        for watcher in self._watchers:
            watcher(route)
        if announced:
            return
        route.writer.trace_started(
            TraceStart(
                trace_id=route.trace_id,
                user_id=route.user_id,
                workflow=trace.name,
                thread_id=route.thread_id,
                started_at=utc_now(),
                metadata={**metadata, Lab.SDK_ID: trace.trace_id},
            )
        )

    def on_trace_end(self, trace: Trace) -> None:
        """Does nothing: the end of a trace is derived from its spans and its run."""

    def on_span_start(self, span: SdkSpan) -> None:
        route = self._routes.get(span.trace_id)
        if route is None:
            return
        with self._lock:
            route.ids[span.span_id] = otel_span_id(span.span_id)
            agent = _agent_name(span) or route.agents.get(span.parent_id or "")
            if agent:
                route.agents[span.span_id] = agent
            record = started(span, route.user_id, route.trace_id, route.ids, agent, route.thread_id)
            if record.parent_id is None:
                record = replace(record, parent_id=route.root)
            if record.kind == "agent" and (stored := route.stored.get(agent or "")):
                of = {GenAI.AGENT_ID: stored.id, GenAI.AGENT_VERSION: str(stored.version)}
                record = replace(record, attributes={**record.attributes, **of})
            begin, route.begin = route.begin, None
            if route.resumes and record.kind == "agent":
                route.resumes = False
                record = replace(record, attributes={**record.attributes, Lab.RESUMED: True})
            route.open[span.span_id] = record
            if record.kind == "turn":
                route.turns[""] = route.turns[record.agent or ""] = record.span_id
        if begin:
            begin()
        if route.only_ended and span.parent_id is not None:
            return
        if record.kind == "tool" and route.run_id:
            return  # Written when the tool starts: only then is its call id known.
        route.writer.span_started(record)

    def on_span_end(self, span: SdkSpan) -> None:
        route = self._routes.get(span.trace_id)
        if route is None:
            return
        with self._lock:
            record = route.open.pop(span.span_id, None)
        if record is None:
            return
        record = ended(span, record)
        if record.kind == "generation":
            record = _with_offer(route, record, offered_of(span))
            if not object_of(record.attributes.get("model_config")).get("replayed_span"):
                route.costs.append(record.cost_usd)
                route.tokens += (record.input_tokens or 0) + (record.output_tokens or 0)
            route.input = route.input if route.input is not None else record.input
            route.output = record.output if record.output is not None else route.output
        elif record.kind in ("task", "agent"):
            record = replace(record, input=route.input, output=route.output)
            if record.kind == "agent":
                route.failed = record.error
            elif record.status == "ok" and route.failed:
                # The SDK does not set an error on a run's own span.
                record = replace(record, status="error", error=route.failed)
        elif record.kind == "tool":
            if _never_ran(route, record):
                return  # It waits for approval; the runner records that.
            if record.error and GenAI.ERROR_TYPE not in record.attributes and (raised := sys.exc_info()[1]):
                record = replace(record, attributes={**record.attributes, GenAI.ERROR_TYPE: error_class(raised)})
        route.writer.span_ended(record)
        if route.on_span:
            route.on_span(record)

    def shutdown(self, timeout: float | None = None) -> None:
        """Does nothing: the SDK calls this at exit, but writers are closed by their labs."""

    def force_flush(self) -> None:
        for writer in dict.fromkeys(self._homes):
            writer.flush()

    # --

    def _keep(self, sdk_trace_id: str, route: TraceContext) -> None:
        self._routes[sdk_trace_id] = route
        self._routes.move_to_end(sdk_trace_id)
        while len(self._routes) > KEPT_ROUTES:
            self._routes.popitem(last=False)


def error_class(error: BaseException) -> str:
    """Returns the class name of a tool's exception, without the SDK's wrapper."""
    inner = error.__cause__ if isinstance(error, UserError) and error.__cause__ else error
    return type(inner).__name__


def note_error_class(details: ToolErrorFormatterArgs) -> None:
    """For `RunConfig.tool_error_formatter`: records the class of an error that is returned to the model as text. The text is unchanged."""
    error, span = getattr(details, "error", None), get_current_span()
    if error is not None and span is not None:
        note(span, {GenAI.ERROR_TYPE: error_class(error)})


def note(span: SdkSpan, attributes: Mapping[str, Json]) -> None:
    """Calls `StoreProcessor.tool_noted` if a processor is installed."""
    if _processor is not None:
        _processor.tool_noted(span, attributes)


def _with_offer(route: TraceContext, record: SpanRecord, tools: Sequence[object] | None) -> SpanRecord:
    """Returns the record with the tools offered to its agent, if they changed since the last generation."""
    if tools is None:
        return record
    definitions: list[Json] = [definition_of(tool) for tool in tools]
    if definitions == route.offered.get(record.agent, []):
        return record
    route.offered[record.agent] = definitions
    return replace(record, attributes={**record.attributes, GenAI.TOOL_DEFINITIONS: definitions})


def _never_ran(route: TraceContext, record: SpanRecord) -> bool:
    """Returns whether a function span of a lab run ended before its tool was executed (it has no call id)."""
    asked_only = record.output is None and record.error is None
    return route.run_id is not None and asked_only and GenAI.TOOL_CALL_ID not in record.attributes


def _agent_name(span: SdkSpan) -> str | None:
    data = span.span_data
    if data.type == "agent":
        return str(data.name)
    return str(data.agent_name) if data.type == "turn" else None


_processor: StoreProcessor | None = None
_install_lock = threading.Lock()


def install(writer: TraceWriter) -> StoreProcessor:
    """Adds `writer` as a destination of this process's traces. Call it before the first run, and `uninstall` when the writer closes.

    The first call replaces all trace processors of the SDK, in particular its uploading exporter. A processor that the user adds
    later with `agents.add_trace_processor` is kept.
    """
    global _processor
    with _install_lock:
        if _processor is None:
            _processor = StoreProcessor()
            set_trace_processors([_processor])
        _processor.add_home(writer)
        return _processor


def uninstall(writer: TraceWriter) -> None:
    """Removes `writer`. The SDK's exporter is not restored: later traces go to another open lab, or nowhere."""
    if _processor is not None:
        _processor.remove_home(writer)


# --- A notebook cell as a trace: the cell is the root span of the runs and Agents SDK spans that it starts


class CellTrace:
    """The trace of a notebook cell, started in the context that runs the cell. Nothing is written before a span starts or `end` requires
    it."""

    def __init__(self, processor: StoreProcessor, writer: TraceWriter, user_id: str, name: str, source: str) -> None:
        self.trace_id = new_trace_id()
        self.has_begun = False
        self._processor, self._writer = processor, writer
        self._root = SpanRecord(
            trace_id=self.trace_id, span_id=new_span_id(), parent_id=None, user_id=user_id, kind="task", name=name,
            started_at=utc_now(), input=source,
        )  # fmt: skip
        self._sdk_id = sdk_trace_id(self.trace_id)
        route = TraceContext(writer, user_id, self.trace_id, root=self._root.span_id, begin=self._begin)
        processor.bind(self._sdk_id, route)
        self._trace: Trace = trace(name, trace_id=self._sdk_id)
        self._trace.start(mark_as_current=True)

    def _begin(self) -> None:
        self.has_begun = True
        root = self._root
        self._writer.trace_started(
            TraceStart(
                trace_id=root.trace_id, user_id=root.user_id, workflow=root.name, thread_id=None, started_at=root.started_at
            )
        )  # fmt: skip
        self._writer.span_started(root)

    def end(
        self, *, output: object = None, error: BaseException | None = None, is_wanted: bool, same_context: bool
    ) -> None:
        """Ends the trace when the cell ends. A trace without spans is written only if `is_wanted`.

        `same_context`: whether the caller runs in the context in which the trace started (false after a cell with `await`).
        """
        self._trace.finish(reset_current=same_context)
        if not self.has_begun:
            if not is_wanted:
                return
            self._begin()
        self._processor.release(self._sdk_id, "The cell ended before this step did.")
        value = output if output is None or isinstance(output, str | int | float) else repr(output)
        self._writer.span_ended(
            replace(
                self._root, ended_at=utc_now(), status="error" if error else "ok", output=value,
                error=f"{type(error).__name__}: {error}" if error else None,
            )
        )  # fmt: skip


# --- A model call as a trace of its own, without an agent or a run


@contextmanager
def traced_call(
    writer: TraceWriter,
    user_id: str,
    workflow: str,
    metadata: Mapping[str, Json] | None = None,
    on_span: Callable[[SpanRecord], None] | None = None,
) -> Iterator[str]:
    """Context manager that traces the calls made inside it for `user_id` as `workflow`, and yields the trace id. Enter and exit it in the
    same task."""
    processor = install(writer)
    try:
        begun = trace(workflow, metadata=dict(metadata or {}) or None)
        route = TraceContext(writer, user_id, otel_trace_id(begun.trace_id), on_span=on_span)
        processor.bind(begun.trace_id, route)
        try:
            with begun:
                yield route.trace_id
        finally:
            processor.release(begun.trace_id, "The call ended before its answer was complete.")
    finally:
        uninstall(writer)
