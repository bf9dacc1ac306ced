"""Spans of an OpenTelemetry SDK in this process, as the OTLP request that an exporter would send."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from timestep_lab.model.records import Json

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


def otlp_request(spans: Sequence[ReadableSpan]) -> dict[str, Json]:
    """The JSON form of an `ExportTraceServiceRequest`, for `otlp_in.read_otlp_json`."""
    return {"resourceSpans": [_of_resource(span) for span in spans]}


def _of_resource(span: ReadableSpan) -> dict[str, Json]:
    scope = span.instrumentation_scope
    return {
        "resource": {"attributes": _pairs(span.resource.attributes)},
        "scopeSpans": [{"scope": {"name": scope.name if scope else ""}, "spans": [_span(span)]}],
    }


def _span(span: ReadableSpan) -> dict[str, Json]:
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


def _pairs(attributes: Mapping[str, Any]) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Json]:
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
