"""Reads exports of the Agents SDK: objects `trace` and `trace.span`, alone, in a list, under `data`, or one per line."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from timestep_lab.model.clock import parse_iso, to_naive_utc
from timestep_lab.model.records import Json
from timestep_lab.model.spans import GenAI, Lab, OpenInference
from timestep_lab.runtime.interchange.conventions import span_row
from timestep_lab.runtime.interchange.lab_rows import Decoded
from timestep_lab.store.imported_trace import TOLD

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


# --- Spans of an OpenTelemetry SDK in this process, as the OTLP request that an exporter would send


def otlp_request(spans: Sequence[ReadableSpan]) -> dict[str, Json]:
    """Returns the JSON form of an `ExportTraceServiceRequest`, for `otlp_in.read_otlp_json`."""
    return {"resourceSpans": [_of_resource(span) for span in spans]}


def _of_resource(span: ReadableSpan) -> dict[str, Json]:
    scope = span.instrumentation_scope
    return {
        "resource": {"attributes": _pairs(span.resource.attributes)},
        "scopeSpans": [{"scope": {"name": scope.name if scope else ""}, "spans": [_otel_spans_span(span)]}],
    }


def _otel_spans_span(span: ReadableSpan) -> dict[str, Json]:
    context = span.get_span_context()
    if context is None:
        raise ValueError(f"The span {span.name!r} has no context.")
    return {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "parentSpanId": f"{span.parent.span_id:016x}" if span.parent else "",
        "name": span.name,
        "startTimeUnixNano": str(span.start_time or 0),
        "endTimeUnixNano": str(span.end_time or 0),
        "attributes": _pairs(span.attributes or {}),
        "events": [
            {"name": event.name, "timeUnixNano": str(event.timestamp), "attributes": _pairs(event.attributes or {})}
            for event in span.events
        ],
        "links": [
            {
                "traceId": f"{link.context.trace_id:032x}",
                "spanId": f"{link.context.span_id:016x}",
                "attributes": _pairs(link.attributes or {}),
            }
            for link in span.links
        ],
        "status": {"code": span.status.status_code.value, "message": span.status.description or ""},
    }


def _pairs(attributes: Mapping[str, object]) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: object) -> dict[str, Json]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case bytes():
            return {"bytesValue": base64.b64encode(value).decode()}
        case Mapping():
            return {"kvlistValue": {"values": _pairs(value)}}
        case list() | tuple():
            return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"stringValue": str(value)}


TRACE, SPAN = "trace", "trace.span"
_KINDS = {
    "agent": "agent", "generation": "generation", "response": "generation", "function": "tool", "handoff": "handoff",
    "guardrail": "guardrail", "task": "task", "turn": "turn", "transcription": "generation", "speech": "generation",
}  # fmt: skip
_TRACE_ID = re.compile(r"(?:trace_)?([0-9a-f]{32})")
_SPAN_ID = re.compile(r"(?:span_)?([0-9a-f]{16})[0-9a-f]*")


def is_sdk_export(value: object) -> bool:
    return isinstance(value, Mapping) and value.get("object") in (TRACE, SPAN)


def read_sdk_export(objects: Iterable[Mapping[str, Any]], user_id: str) -> Decoded:
    """Decodes the objects; any that are neither a trace nor a span are counted as rejected."""
    decoded = Decoded(user_id)
    for entry in objects:
        try:
            if entry.get("object") == TRACE:
                about = {
                    "workflow": entry.get("workflow_name") or None,
                    "thread_id": entry.get("group_id") or None,
                    "metadata": {**(entry.get("metadata") or {}), Lab.SDK_ID: entry["id"]},
                }
                decoded.learn(_trace_id(str(entry["id"])), TOLD, about)
            elif entry.get("object") == SPAN:
                decoded.spans.append(_span(entry, user_id))
            else:
                decoded.reject(f"An object {entry.get('object')!r} is neither a trace nor a span.")
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            decoded.reject(f"A span could not be read: {error!r}")
    return decoded.finish()


def _span(found: Mapping[str, Any], user_id: str) -> tuple[Any, ...]:
    data: Mapping[str, Any] = found["span_data"]
    inner = data.get("data") if isinstance(data.get("data"), Mapping) else {}
    assert isinstance(inner, Mapping)
    # Tasks and turns are exported as custom spans that state what they are.
    kind = _KINDS.get(str(inner.get("sdk_span_type") or data["type"]), "other")
    attributes: dict[str, Any] = {Lab.KIND: kind, Lab.SDK_ID: found["id"]}
    attributes.update(_of_kind(kind, data, inner))
    error = found.get("error")
    ended_at = found.get("ended_at")
    return span_row(
        user_id, _trace_id(str(found["trace_id"])), _span_id(str(found["id"])),
        _span_id(str(found["parent_id"])) if found.get("parent_id") else None,
        str(inner.get("name") or data.get("name") or data.get("model") or data["type"]),
        to_naive_utc(parse_iso(found["started_at"])), to_naive_utc(parse_iso(ended_at)) if ended_at else None,
        str(error.get("message") or error) if isinstance(error, Mapping) else str(error) if error else None,
        {name: value for name, value in attributes.items() if value is not None},
    )  # fmt: skip


def _of_kind(kind: str, data: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    match kind:
        case "generation":
            usage = data.get("usage") or {}
            return {
                GenAI.REQUEST_MODEL: data.get("model"), GenAI.PROVIDER: "openai" if data["type"] == "response" else None,
                GenAI.INPUT_TOKENS: usage.get("input_tokens", usage.get("prompt_tokens")),
                GenAI.OUTPUT_TOKENS: usage.get("output_tokens", usage.get("completion_tokens")),
                GenAI.RESPONSE_ID: data.get("response_id"), "model_config": data.get("model_config") or None,
                OpenInference.INPUT: data.get("input"), OpenInference.OUTPUT: data.get("output"),
            }  # fmt: skip
        case "tool":
            server = (data.get("mcp_data") or {}).get("server")
            return {
                OpenInference.INPUT: data.get("input"),
                OpenInference.OUTPUT: data.get("output"),
                Lab.SERVER: server,
            }
        case "handoff":
            return {Lab.FROM_AGENT: data.get("from_agent"), Lab.TO_AGENT: data.get("to_agent")}
        case "agent":
            return {GenAI.AGENT_NAME: data.get("name"), "tools": data.get("tools"), "handoffs": data.get("handoffs")}
        case "turn":
            return {GenAI.AGENT_NAME: inner.get("agent_name"), "turn": inner.get("turn"), "usage": inner.get("usage")}
        case "guardrail":
            return {OpenInference.OUTPUT: {"triggered": bool(data.get("triggered"))}}
    return {name: value for name, value in {**data, **inner}.items() if name not in ("type", "name", "data")}


def _trace_id(sdk_id: str) -> str:
    match = _TRACE_ID.fullmatch(sdk_id)
    return match[1] if match else hashlib.sha256(sdk_id.encode()).hexdigest()[:32]


def _span_id(sdk_id: str) -> str:
    match = _SPAN_ID.fullmatch(sdk_id)
    return match[1] if match else hashlib.sha256(sdk_id.encode()).hexdigest()[:16]
