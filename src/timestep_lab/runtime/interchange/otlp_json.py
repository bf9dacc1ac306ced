"""The values of OTLP/JSON: reads attributes, 64-bit numbers, ids and field names in each form that senders write them in, and writes
attributes and spans of an SDK.

JSON writers leave out a field or set it to null, write numbers as numbers or text, and ids in hex or base64; all of them mean the same.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from timestep_lab.model.codec import Json, list_of, object_of, objects_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

NO_IDS = "it has no 16-byte trace id and 8-byte span id, or one of them is all zeros"


def json_attributes(pairs: object) -> dict[str, object]:
    return {str(pair.get("key") or ""): json_value(pair.get("value")) for pair in objects_of(pairs)}


def json_value(value: object) -> object:
    """Reads an `AnyValue`: the first of its fields that is not null, since some writers state all of them. None if there is none:
    JavaScript writes NaN as null. A number that cannot be read as one is returned as it is."""
    fields = ((kind, given) for kind, given in object_of(value).items() if given is not None)
    kind, given = next(fields, ("", None))
    match kind.replace("_", "").lower():
        case "stringvalue":
            return str(given)
        case "intvalue" | "doublevalue" as of:
            try:
                return integer(given) if of == "intvalue" else float(str(given))
            except (ValueError, OverflowError):
                return given
        case "arrayvalue":
            return [json_value(inner) for inner in list_of(object_of(given).get("values"))]
        case "kvlistvalue":
            return json_attributes(object_of(given).get("values"))
        case "bytesvalue":
            return _bytes_of(str(given)).hex() or given
    return given


def integer(given: object) -> int:
    """Reads an integer from a number, its digits (also `1.7e18` and `5.0`, as protobuf's JSON permits), or the two halves that JavaScript
    writes for 64 bits. Raises `ValueError`, `OverflowError`."""
    if isinstance(given, int | float):
        return int(given)
    if isinstance(given, Mapping) and "low" in given and "high" in given:
        return integer(given["high"]) << 32 | integer(given["low"]) & 0xFFFFFFFF
    text = str(given)
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is not an integer") from None
    if number.adjusted() > _MOST_DIGITS:
        raise ValueError(f"{text!r} is too large")
    return int(number)


_MOST_DIGITS = 30
"""Of a number with an exponent: a short text could state one that fills the memory."""


def id_of(value: object, n_bytes: int) -> str:
    """Reads an id in hex, as OTLP specifies, or in base64, as plain protobuf JSON writes bytes. Returns lower-case hex; raises
    `ValueError` for another length, and for zeros only."""
    found = _id(str(value or ""), n_bytes)
    if found is None:
        raise ValueError(f"{str(value or '')!r} is not an id of {n_bytes} bytes")
    if not found.strip("0"):
        raise ValueError(NO_IDS)
    return found


def id_or_none(value: object, n_bytes: int) -> str | None:
    """Like `id_of`; None if there is none or it has only zeros, as for the parent of a root."""
    return id_of(value, n_bytes) if value and (_id(str(value), n_bytes) or str(value)).strip("0") else None


def id_of_link(value: object, n_bytes: int) -> str:
    """Like `id_of`, but returns what is no id as it is: a link is kept whatever it states."""
    return _id(str(value or ""), n_bytes) or str(value or "")


def _id(text: str, n_bytes: int) -> str | None:
    try:
        data = bytes.fromhex(text) if len(text) == 2 * n_bytes else _bytes_of(text)
    except ValueError:
        return None
    return data.hex() if len(data) == n_bytes else None


def _bytes_of(text: str) -> bytes:
    """Decodes base64, also its alphabet for URLs, with or without padding; returns nothing if it is not."""
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        return b""


def field_of(found: Mapping[str, object], name: str) -> object:
    """Returns a field by its camelCase name, or by the snake_case name that some writers use."""
    if name in found:
        return found[name]
    return found.get("".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name))


# --- Spans of an OpenTelemetry SDK in this process, as the OTLP request that an exporter would send


def otlp_request(spans: Sequence[ReadableSpan]) -> dict[str, Json]:
    """Returns the JSON form of an `ExportTraceServiceRequest`, for `otlp_in.read_otlp_json`."""
    return {"resourceSpans": [_of_resource(span) for span in spans]}


def _of_resource(span: ReadableSpan) -> dict[str, Json]:
    scope = span.instrumentation_scope
    return {
        "resource": {"attributes": pairs_of(span.resource.attributes)},
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
        "attributes": pairs_of(span.attributes or {}),
        "events": [
            {"name": event.name, "timeUnixNano": str(event.timestamp), "attributes": pairs_of(event.attributes or {})}
            for event in span.events
        ],
        "links": [
            {
                "traceId": f"{link.context.trace_id:032x}",
                "spanId": f"{link.context.span_id:016x}",
                "attributes": pairs_of(link.attributes or {}),
            }
            for link in span.links
        ],
        "status": {"code": span.status.status_code.value, "message": span.status.description or ""},
    }


def pairs_of(attributes: Mapping[str, object]) -> list[Json]:
    """Writes attributes as OTLP/JSON."""
    return [{"key": key, "value": _any_value(value)} for key, value in attributes.items()]


def _any_value(value: object) -> dict[str, Json]:
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
            return {"kvlistValue": {"values": pairs_of(value)}}
        case list() | tuple():
            return {"arrayValue": {"values": [_any_value(each) for each in value]}}
    return {"stringValue": str(value)}
