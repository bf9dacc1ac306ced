"""Converts an SDK span to a `SpanRecord`: kind, name, agent, model, tokens, cost, times, input and output.

Ids: OpenTelemetry requires 16 and 8 bytes of lower-case hex. The SDK's `trace_<32 hex>` and `span_<24 hex>` are shortened to that; any
other id is hashed. The SDK's own id is kept in the attribute `timestep.sdk_id`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from agents.tracing import Span
from openai import BaseModel as ProviderModel

from timestep_lab.model.clock import ms_between, parse_iso, utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.records import Usage
from timestep_lab.model.spans import GenAI, Lab, SpanKind, SpanRecord
from timestep_lab.runtime.pricing import price

if TYPE_CHECKING:
    import httpx

SdkSpan: TypeAlias = Span[Any]

# --- Timing of a generation, measured the same way for every provider
#
#     queue_ms        waiting for a free slot of the limiter, or for a local model to load
#     rate_limit_ms   waiting because the provider returned 429
#     ttft_ms         from sending the successful request to the first content of its answer
#     inter_token_*   between consecutive pieces of content, as they arrived
#     duration_ms     total, including waits and retries
#     overhead_ms     added by this process: until the connection existed and the request was written, and after the answer had arrived
#
# A busy event loop writes and reads late, which must not count as the provider's time. `HTTP_HOOKS` let an HTTP client report when its
# request was sent, and the kernel reports when the answer arrived.
#
# `timing_of(span)` returns the timing of an Agents SDK generation span. It is published before the span ends
# (and before the last event is passed on, because a reader may stop there).


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationTiming:
    """Timing of one generation, in milliseconds; None where there was nothing to measure."""

    provider: str
    """Prefix of the router."""
    model: str
    """Model name without the prefix."""
    queue_ms: float = 0.0
    rate_limit_ms: float = 0.0
    backoff_ms: float = 0.0
    """Waiting before retries after 5xx, timeouts and lost connections."""
    ttft_ms: float | None = None
    inter_token_p50_ms: float | None = None
    inter_token_p95_ms: float | None = None
    duration_ms: float = 0.0
    overhead_ms: float = 0.0
    """Overhead of the successful request."""
    chunks: int = 0
    """Number of pieces of content."""
    attempts: int = 1
    stop_reason: str | None = None
    """`stop`, `length`, `tool_calls`, `content_filter`, `refusal`, `cancelled`, `error`, or another value of the provider."""
    usage: Usage | None = None
    """None when the provider reported no usage."""
    usage_is_estimate: bool = False
    cost_usd: float | None = None
    """As stated by the provider; None where it states none, and the price table is used."""
    set_aside: tuple[str, ...] = ()
    """Settings that were omitted because the model does not support them (temperature 0, for a model without temperature)."""


class Exchange:
    """Network times of one HTTP request and its response, as values of `time.perf_counter`."""

    def __init__(self) -> None:
        self.sent_at: float | None = None
        """None until the request was written, or without HTTP."""
        self._complete_at: float | None = None
        self._socket: socket.socket | None = None

    def arrived_at(self) -> float:
        """Returns when the latest data arrived at this machine; now, if that is unknown."""
        return self._complete_at or time.perf_counter() - unread_s(self._socket)

    async def trace(self, name: str, info: Mapping[str, object]) -> None:
        """Callback for httpx's `trace` extension."""
        if name.endswith("send_request_body.complete"):  # Each write before that waits for the event loop.
            self.sent_at, self._complete_at, self._socket = time.perf_counter(), None, None
        elif name.endswith(("receive_response_body.complete", "response_closed.started")):
            self._complete_at = self.arrived_at()

    def answered(self, response: httpx.Response) -> None:
        """Called when the response headers have arrived: the socket is known from now on."""
        stream = response.extensions.get("network_stream")
        connection = stream.get_extra_info("socket") if stream is not None else None
        self._socket = connection if hasattr(connection, "getsockopt") else None


EXCHANGE: ContextVar[Exchange | None] = ContextVar("timestep_lab_exchange", default=None)
"""Set by the code that measures; HTTP clients with `HTTP_HOOKS` fill it."""


async def _going_out(request: httpx.Request) -> None:
    if exchange := EXCHANGE.get():
        request.extensions["trace"] = exchange.trace


async def _coming_in(response: httpx.Response) -> None:
    if exchange := EXCHANGE.get():
        exchange.answered(response)


HTTP_HOOKS: Mapping[str, list[Callable[..., Awaitable[None]]]] = {"request": [_going_out], "response": [_coming_in]}
"""`event_hooks` for an httpx client whose exchanges are measured."""

_LAST_DATA_RECEIVED = 52
"""Offset of `tcpi_last_data_recv` in Linux' `struct tcp_info`: milliseconds since data arrived, in kernel ticks."""


def unread_s(connection: socket.socket | None) -> float:
    """Returns the seconds since the latest data arrived on a TCP connection, which may have waited for a busy event loop; 0 if unknown."""
    if connection is None or sys.platform != "linux":
        return 0.0
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED + 4)
    except OSError:  # Closed meanwhile, or not TCP.
        return 0.0
    return (
        struct.unpack_from("I", info, _LAST_DATA_RECEIVED)[0] / 1000.0 if len(info) >= _LAST_DATA_RECEIVED + 4 else 0.0
    )


TOGETHER_S = 0.001  # What the kernel tells of arrivals is as coarse.


class Stopwatch:
    """Measures one generation. Not shared between tasks."""

    def __init__(self, provider: str, model: str) -> None:
        self._so_far = GenerationTiming(provider=provider, model=model, attempts=0)
        self._started = time.perf_counter()
        self._sent = self._started
        self._arrivals: list[float] = []
        self._exchange: Exchange | None = None

    def waited(self, *, queue_ms: float = 0.0, rate_limit_ms: float = 0.0, backoff_ms: float = 0.0) -> None:
        now = self._so_far
        self._so_far = replace(
            now,
            queue_ms=now.queue_ms + queue_ms,
            rate_limit_ms=now.rate_limit_ms + rate_limit_ms,
            backoff_ms=now.backoff_ms + backoff_ms,
        )

    def sent(self) -> None:
        """Called when a request is sent."""
        self._so_far = replace(self._so_far, attempts=self._so_far.attempts + 1)
        self._sent = time.perf_counter()
        self._arrivals.clear()
        self._exchange = Exchange()
        EXCHANGE.set(self._exchange)

    @property
    def _written(self) -> float:
        """Time at which the request was written."""
        return self._sent if self._exchange is None else self._exchange.sent_at or self._sent

    def _arrived(self) -> float:
        now = time.perf_counter()
        if self._exchange is None or self._exchange.sent_at is None:
            return now
        return min(now, max(self._exchange.arrived_at(), self._exchange.sent_at))

    def content(self) -> None:
        """Called when a piece of content arrives. Of pieces that came together, the time is not looked up again."""
        now, last = time.perf_counter(), self._arrivals[-1] if self._arrivals else 0.0
        self._arrivals.append(now if now - last < TOGETHER_S else max(last, self._arrived()))

    def read(self, stop_reason: str | None, usage: Usage | None = None) -> GenerationTiming:
        """Returns the timing so far."""
        now = time.perf_counter()
        late = now - self._arrived()
        gaps = sorted((b - a) * 1000.0 for a, b in zip(self._arrivals, self._arrivals[1:], strict=False))
        return replace(
            self._so_far,
            ttft_ms=max(0.0, self._arrivals[0] - self._written) * 1000.0 if self._arrivals else None,
            inter_token_p50_ms=_quantile(gaps, 0.50),
            inter_token_p95_ms=_quantile(gaps, 0.95),
            duration_ms=(now - self._started) * 1000.0,
            overhead_ms=(self._written - self._sent + late) * 1000.0,
            chunks=len(self._arrivals),
            stop_reason=stop_reason,
            usage=usage,
        )


def _quantile(ordered: list[float], q: float) -> float | None:
    """Quantile by nearest rank."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None


@dataclass(slots=True)
class _Published:
    of: WeakKeyDictionary[object, GenerationTiming] = field(default_factory=WeakKeyDictionary)


_published = _Published()


def publish(span: object, timing: GenerationTiming) -> None:
    """Attaches `timing` to an SDK span for the lifetime of the span."""
    _published.of[span] = timing


_offered: WeakKeyDictionary[object, Sequence[object]] = WeakKeyDictionary()


def offer(span: object, tools: Sequence[object]) -> None:
    """Attaches the tools that the model was offered to an SDK span."""
    _offered[span] = tools


def offered_of(span: object) -> Sequence[object] | None:
    """Returns the tools that the model was offered; None if unknown."""
    return _offered.get(span)


def timing_of(span: object) -> GenerationTiming | None:
    """Returns the timing of a generation span; None for any other span."""
    return _published.of.get(span)


KINDS: Mapping[str, SpanKind] = {
    "agent": "agent", "generation": "generation", "response": "generation", "function": "tool", "handoff": "handoff",
    "guardrail": "guardrail", "task": "task", "turn": "turn",
}  # fmt: skip
RETRIEVAL = "retrieval"
"""A custom span whose data has `{"kind": "retrieval"}` becomes a retrieval span."""

_TRACE_ID = re.compile(r"trace_([0-9a-f]{32})")
_SPAN_ID = re.compile(r"span_([0-9a-f]{16})[0-9a-f]{8}")


def otel_trace_id(sdk_id: str) -> str:
    match = _TRACE_ID.fullmatch(sdk_id)
    return match[1] if match else hashlib.sha256(sdk_id.encode()).hexdigest()[:32]


def sdk_trace_id(trace_id: str) -> str:
    """Inverse of `otel_trace_id` for ids created by the lab."""
    return f"trace_{trace_id}"


def otel_span_id(sdk_id: str) -> str:
    match = _SPAN_ID.fullmatch(sdk_id)
    return match[1] if match else hashlib.sha256(sdk_id.encode()).hexdigest()[:16]


def call_span_id(trace_id: str, call_id: str) -> str:
    """Returns the row id of a tool call: the same before and after its approval, in every process."""
    return hashlib.sha256(f"{trace_id}/{call_id}".encode()).hexdigest()[:16]


def started(
    span: SdkSpan,
    user_id: str,
    trace_id: str,
    ids: Mapping[str, str],
    agent: str | None,
    thread_id: str | None,
) -> SpanRecord:
    """Returns the record of a started span: `pending`, without what is known only at its end."""
    data = span.span_data
    kind = _kind(data)
    attributes: dict[str, Json] = {Lab.SDK_ID: span.span_id}
    if kind in GenAI.OPERATION_OF:
        attributes[GenAI.OPERATION] = GenAI.OPERATION_OF[kind]
    if agent:
        attributes[GenAI.AGENT_NAME] = agent
    if thread_id:
        attributes[GenAI.CONVERSATION_ID] = thread_id
    return SpanRecord(
        trace_id=trace_id,
        span_id=ids[span.span_id],
        parent_id=ids.get(span.parent_id or "", otel_span_id(span.parent_id) if span.parent_id else None),
        user_id=user_id,
        kind=kind,
        name=_name(data),
        agent=agent,
        model=getattr(data, "model", None),
        started_at=parse_iso(span.started_at) if span.started_at else utc_now(),
        attributes={**attributes, **_attributes(data)},
    )


def ended(span: SdkSpan, record: SpanRecord) -> SpanRecord:
    """Returns the completed record of an ended span."""
    data = span.span_data
    error = _error(span)
    record = replace(
        record,
        name=_name(data),
        status="error" if error else "ok",
        error=error,
        ended_at=parse_iso(span.ended_at) if span.ended_at else utc_now(),
        attributes={**record.attributes, **_attributes(data)},
    )
    if record.kind == "generation":
        return _generation(span, record)
    if record.kind == "tool":
        return replace(record, input=parsed(data.input), output=jsonable(data.output))
    if record.kind == "guardrail":
        return replace(record, output={"triggered": bool(data.triggered)})
    if data.type == "mcp_tools":
        return replace(record, output=jsonable(data.result))
    if data.type == "custom":
        return replace(record, input=jsonable(data.data.get("input")), output=jsonable(data.data.get("output")))
    return record


def _generation(span: SdkSpan, record: SpanRecord) -> SpanRecord:
    data, timing = span.span_data, timing_of(span)
    response = getattr(data, "response", None)
    usage = (timing.usage if timing else None) or usage_of(data.usage or getattr(response, "usage", None))
    model = response.model if response is not None else data.model
    provider = timing.provider if timing else None
    attributes = dict(record.attributes)
    known: list[tuple[str, Json]] = [(GenAI.REQUEST_MODEL, model), (GenAI.PROVIDER, provider)]
    if timing:
        # The rest of the span's duration was spent closing the connection and in the code that read the answer.
        beside_ms = max(0.0, ms_between(record.started_at, record.ended_at or utc_now()) - timing.duration_ms)
        known += [
            (Lab.INTER_TOKEN_P50_MS, timing.inter_token_p50_ms),
            (Lab.INTER_TOKEN_P95_MS, timing.inter_token_p95_ms),
            (Lab.ATTEMPTS, timing.attempts),
            (Lab.OVERHEAD_MS, round(timing.overhead_ms + beside_ms, 3)),
            ("timestep.usage_is_estimate", timing.usage_is_estimate or None),
        ]
    attributes.update((name, value) for name, value in known if value is not None)
    return replace(
        record,
        name=model or record.name,
        model=model or record.model,
        provider=provider,
        input=jsonable(data.input),
        output=jsonable(response.output if response is not None else data.output),
        attributes=attributes,
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        cached_tokens=usage.cached_tokens if usage else None,
        reasoning_tokens=usage.reasoning_tokens if usage else None,
        cost_usd=_cost(timing, usage) if timing else None,
        queue_ms=timing.queue_ms if timing else None,
        rate_limit_ms=timing.rate_limit_ms if timing else None,
        ttft_ms=timing.ttft_ms if timing else None,
        stop_reason=timing.stop_reason if timing else None,
    )


def _cost(timing: GenerationTiming, usage: Usage | None) -> float | None:
    return price(timing.provider, timing.model, usage) if timing.cost_usd is None else timing.cost_usd


def definition_of(tool: Any) -> dict[str, Json]:
    """Returns a tool definition as offered to a model, with the tool's server."""
    definition: dict[str, Json] = {"type": getattr(tool, "type", None) or "function", "name": str(tool.name)}
    if (schema := getattr(tool, "params_json_schema", None)) is None:
        return {**definition, "type": type(tool).__name__}
    definition |= {"type": "function", "description": tool.description, "parameters": schema}
    if binding := getattr(tool, "_mcp_tool_binding", None):
        definition |= {"server": binding[0], "server_tool": binding[1]}
    return {**definition, "read_only": True} if is_read_only(tool) else definition


READ_ONLY = "_timestep_lab_read_only"
T = TypeVar("T")


def read_only(tool: T) -> T:
    """Decorator that marks a function tool of the Agents SDK as free of side effects: `@read_only` above `@function_tool`.

    Such a tool can be called for real when a tape has no answer (`on_miss="live-if-readonly"`), and a fork calls it without approval.

    Example:
        from agents import function_tool

        @read_only
        @function_tool
        def opening_hours(day: str) -> str:
            return "9 to 5"
    """
    setattr(tool, READ_ONLY, True)
    return tool


def is_read_only(tool: object) -> bool:
    """Returns whether a tool has no side effects, according to its MCP server (`readOnlyHint`) or its author (`timestep_lab.read_only`)."""
    hints = getattr(tool, "_mcp_annotations", None)
    return bool(getattr(tool, READ_ONLY, False) or (hints and hints.read_only_hint))


def usage_of(reported: object) -> Usage | None:
    """Returns token usage in any form of the SDK or the Responses API. None when there are no counts."""
    if reported is None:
        return None
    plain = (
        reported
        if isinstance(reported, Mapping)
        else reported.model_dump()
        if hasattr(reported, "model_dump")
        else vars(reported)
    )
    if not (plain.get("input_tokens") or plain.get("output_tokens")):
        return None
    inside, outside = _details(plain, "input_tokens_details"), _details(plain, "output_tokens_details")
    return Usage(
        requests=plain.get("requests") or 1,
        input_tokens=plain.get("input_tokens") or 0,
        output_tokens=plain.get("output_tokens") or 0,
        cached_tokens=inside.get("cached_tokens") or 0,
        cache_write_tokens=inside.get("cache_write_tokens") or 0,
        reasoning_tokens=outside.get("reasoning_tokens") or 0,
    )


def jsonable(value: object) -> Json:
    """Converts a value to JSON. A value without a JSON form becomes its `str`, as the SDK does when sending it to a model."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if hasattr(value, "model_dump"):
        # The provider's own objects include only fields that were sent; the defaults of other models are part of the value.
        plain: Json = value.model_dump(mode="json", exclude_unset=isinstance(value, ProviderModel))
        return plain
    if isinstance(value, Mapping):
        return {str(name): jsonable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(inner) for inner in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: jsonable(getattr(value, one.name)) for one in fields(value)}
    return str(value)


def _details(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    details = usage.get(name) or {}
    if isinstance(details, list):
        details = details[0] if details else {}
    return details if isinstance(details, Mapping) else details.model_dump()


def _kind(data: Any) -> SpanKind:
    if data.type == "custom":
        return "retrieval" if data.data.get("kind") == RETRIEVAL else "other"
    return KINDS.get(data.type, "other")


def _name(data: Any) -> str:
    if data.type == "handoff":
        return f"{data.from_agent} → {data.to_agent}" if data.to_agent else f"{data.from_agent} →"
    if data.type == "turn":
        return f"turn {data.turn}"
    if data.type == "mcp_tools":
        return f"list tools of {data.server}" if data.server else "list tools"
    return str(getattr(data, "name", None) or getattr(data, "model", None) or data.type)


def _attributes(data: Any) -> dict[str, Json]:
    if data.type == "function":
        server = (data.mcp_data or {}).get("server")
        return {GenAI.TOOL_NAME: data.name, **({Lab.SERVER: server} if server else {})}
    if data.type == "handoff":
        return {Lab.FROM_AGENT: data.from_agent, Lab.TO_AGENT: data.to_agent}
    if data.type == "agent":
        return {"handoffs": list(data.handoffs or ()), "tools": list(data.tools or ())}
    if data.type == "mcp_tools":
        return {Lab.SERVER: data.server}
    if data.type == "generation" and data.model_config:
        asked = {name: value for name, value in data.model_config.items() if value is not None}
        return {"model_config": jsonable(asked)}
    if data.type == "custom":
        return {name: jsonable(value) for name, value in data.data.items() if name not in ("input", "output")}
    return {}


def _error(span: SdkSpan) -> str | None:
    if not span.error:
        return None
    detail = (span.error.get("data") or {}).get("error")
    return f"{span.error['message']}: {detail}" if detail else str(span.error["message"])


def parsed(arguments: object) -> Json:
    """Parses a tool's arguments; returns the text unchanged if it is not JSON."""
    if not isinstance(arguments, str):
        return jsonable(arguments)
    try:
        read: Json = json.loads(arguments)
        return read
    except ValueError:
        return arguments
