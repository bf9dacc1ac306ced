"""OTLP trace requests, as protobuf or JSON, plain or compressed, into rows."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from timestep_lab.runtime.interchange.conventions import about_trace, kind_of, span_row
from timestep_lab.runtime.interchange.decoded import Decoded
from timestep_lab.runtime.interchange.messages import event_message, plain
from timestep_lab.runtime.interchange.otlp_wire import AttributeReader, request_class, text
from timestep_lab.store.imported_trace import said_key
from timestep_lab.store.span_rows import Row
from timestep_lab.types.errors import DataError, TooLargeError
from timestep_lab.types.spans import GenAI, Lab, OpenInference

MAX_BODY = 256 * 1024 * 1024
"""Bytes of one request, as it is sent and after decompression. An exporter's default batch of 512 spans may have 512 kB a span."""
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_NO_SPAN = b"\0" * 8
PROTOBUF = "application/x-protobuf"
ReadAttributes = Callable[[Iterable[bytes]], tuple[dict[str, Any], dict[str, str]]]


def read_otlp(body: bytes, content_type: str, content_encoding: str | None, user_id: str) -> Decoded:
    """An `ExportTraceServiceRequest`. Single spans that make no sense are counted in `rejected`, the rest is kept.

    Raises `DataError` when the body as a whole cannot be read, `TooLargeError` when it is over `MAX_BODY`.
    """
    plain = decompressed(body, content_encoding)
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            return read_otlp_json(json.loads(plain.decode("utf-8-sig", "replace")), user_id)
        except (ValueError, RecursionError) as error:
            raise DataError(f"The request is no JSON: {error}", "Send an ExportTraceServiceRequest.") from None
    if kind in (PROTOBUF, "application/protobuf", "application/octet-stream", ""):
        return read_otlp_protobuf(plain, user_id)
    raise DataError(f"Traces of type {content_type!r} cannot be read.", f"Send {PROTOBUF} or application/json.")


def decompressed(body: bytes, content_encoding: str | None) -> bytes:
    encoding = (content_encoding or "identity").strip().lower()
    if encoding in ("identity", ""):
        if len(body) > MAX_BODY:
            raise too_large()
        return body
    if encoding not in ("gzip", "deflate"):
        raise DataError(f"Bodies compressed by {encoding!r} cannot be read.", "Use gzip, deflate, or none.")
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # reads the headers of both
    try:
        plain = unpacker.decompress(body, MAX_BODY)
    except zlib.error as error:
        raise DataError(f"The body is not {encoding}: {error}", "Send it as the Content-Encoding says.") from None
    if unpacker.unconsumed_tail:
        raise too_large()
    if not unpacker.eof:
        raise DataError(f"The {encoding} body ends too early.", "Send it again.")
    return plain


def too_large() -> TooLargeError:
    return TooLargeError(
        f"The request is larger than {MAX_BODY >> 20} MB.",
        "Send the spans in smaller batches: of the official exporters, set OTEL_BSP_MAX_EXPORT_BATCH_SIZE.",
    )


def read_otlp_protobuf(plain: bytes, user_id: str) -> Decoded:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        request = request_class().FromString(plain)
    except DecodeError as error:
        raise DataError(f"The request is no OTLP protobuf: {error}", "Send an ExportTraceServiceRequest.") from None
    decoded = Decoded(user_id)
    read = AttributeReader().read
    for of_resource in request.resource_spans:
        try:
            resource, _ = read(of_resource.resource.attributes)
        except DecodeError as error:
            raise DataError(f"The request is no OTLP protobuf: {error}", "Send an ExportTraceServiceRequest.") from None
        for of_scope in of_resource.scope_spans:
            scope = text(of_scope.scope.name)
            for span in of_scope.spans:
                try:
                    decoded.spans.append(_span(span, decoded, scope, resource, read))
                except (ValueError, OverflowError, DecodeError) as error:
                    decoded.reject(f"A span could not be read: {error}")
    return decoded.finish()


def _span(
    span: Any,
    decoded: Decoded,
    scope: str,
    resource: Mapping[str, Any],
    read: ReadAttributes,
) -> Row:
    trace_id, span_id, parent = span.trace_id, span.span_id, span.parent_span_id
    if len(trace_id) != 16 or len(span_id) != 8:
        raise ValueError("it has no 16-byte trace id and 8-byte span id")
    attributes, fragments = read(span.attributes)
    started_at = _EPOCH + timedelta(microseconds=span.start_time_unix_nano // 1000)
    end = span.end_time_unix_nano
    hex_id = trace_id.hex()
    parent_id = parent.hex() if parent and parent != _NO_SPAN else None
    _learn(decoded, hex_id, said_key(parent_id is None, started_at, span_id.hex()), attributes, resource, scope)
    failure = None
    status = span.status
    events = [_event(text(event.name), event.time_unix_nano, read(event.attributes)[0]) for event in span.events]
    if status.code == 2:
        failure = text(status.message) or _exception(events)
    links = [_link(link.trace_id.hex(), link.span_id.hex(), read(link.attributes)[0]) for link in span.links]
    if events or links:
        _keep(attributes, events, links, text(span.name), scope, parent_id)
    return span_row(
        decoded.user_id, hex_id, span_id.hex(), parent_id, text(span.name), started_at,
        max(started_at, _EPOCH + timedelta(microseconds=end // 1000)) if end else None, failure, attributes, scope, fragments,
    )  # fmt: skip


def _learn(
    decoded: Decoded, trace_id: str, key: int, attributes: Mapping[str, Any], resource: Mapping[str, Any], scope: str
) -> None:
    told = about_trace(attributes, scope)
    if resource:
        told["metadata"] = {"resource": resource}
    decoded.learn(trace_id, key, told)


# -- events and links

_LIFTED = (
    GenAI.INPUT_MESSAGES, GenAI.OUTPUT_MESSAGES, GenAI.SYSTEM_INSTRUCTIONS, GenAI.PROMPT_DEPRECATED, GenAI.COMPLETION_DEPRECATED,
)  # fmt: skip
"""What an event may carry in the place of its span."""
_ROLES = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}
_CHOICE = "gen_ai.choice"


def _event(name: str, time: int, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "time_unix_nano": str(time), "attributes": attributes}


def _link(trace_id: str, span_id: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"trace_id": trace_id, "span_id": span_id, "attributes": attributes}


def _keep(
    attributes: dict[str, Any],
    events: list[dict[str, Any]],
    links: list[dict[str, Any]],
    name: str,
    scope: str,
    parent_id: str | None,
) -> None:
    """Events and links as attributes; messages that events carry as the attributes that carry messages, unless the span has those."""
    if links:
        attributes[Lab.LINKS] = links
    if not events:
        return
    attributes[Lab.EVENTS] = events
    if Lab.KIND in attributes:
        return  # Exported from a lab, with its input and output.
    asked: list[dict[str, Any]] = []
    answered: list[dict[str, Any]] = []
    for event in events:
        said = event["attributes"]
        if (role := _ROLES.get(event["name"])) is not None:
            asked.append(event_message(role, said, said.get("content")))
        elif event["name"] == _CHOICE:
            answered.append(event_message("assistant", said, said.get("message", said.get("content"))))
        else:
            for lifted in _LIFTED:
                if lifted in said:
                    attributes.setdefault(lifted, said[lifted])
    kind = kind_of(name, attributes, scope, parent_id)
    if kind == "tool":
        for messages, key in ((asked, GenAI.TOOL_CALL_ARGUMENTS), (answered, GenAI.TOOL_CALL_RESULT)):
            if messages:
                attributes.setdefault(key, plain(messages[-1]))
        return
    generation = kind == "generation"
    into = GenAI.INPUT_MESSAGES if generation else OpenInference.INPUT
    out = GenAI.OUTPUT_MESSAGES if generation else OpenInference.OUTPUT
    for messages, key in ((asked, into), (answered, out)):
        if messages:
            attributes.setdefault(key, messages)


def _exception(events: Iterable[Mapping[str, Any]]) -> str:
    for event in events:
        if event["name"] == "exception":
            attributes = event["attributes"]
            kind, message = attributes.get("exception.type"), attributes.get("exception.message")
            return ": ".join(str(part) for part in (kind, message) if part) or "error"
    return "error"


# -- JSON


def read_otlp_json(request: Any, user_id: str) -> Decoded:
    """The JSON form of the same message: camelCase names, ids in hex, 64-bit numbers as strings. Raises `DataError`."""
    if not isinstance(request, Mapping) or not isinstance(_get(request, "resourceSpans"), list):
        raise DataError(
            "The JSON is no OTLP trace request: it has no list `resourceSpans`.", "Send an ExportTraceServiceRequest."
        )
    decoded = Decoded(user_id)
    for of_resource in _objects(_get(request, "resourceSpans")):
        resource = _json_attributes(_get(_object(_get(of_resource, "resource")), "attributes"))
        for of_scope in _objects(_get(of_resource, "scopeSpans")):
            scope = str(_object(_get(of_scope, "scope")).get("name") or "")
            for span in _objects(_get(of_scope, "spans")):
                try:
                    row = _json_span(span, decoded, scope, resource)
                except (ValueError, OverflowError, TypeError) as error:
                    decoded.reject(f"A span could not be read: {error}")
                else:
                    decoded.spans.append(row)
    return decoded.finish()


def _json_span(span: Mapping[str, Any], decoded: Decoded, scope: str, resource: Mapping[str, Any]) -> tuple[Any, ...]:
    trace_id, span_id = _hex(_get(span, "traceId"), 16), _hex(_get(span, "spanId"), 8)
    parent = _get(span, "parentSpanId")
    parent_id = _hex(parent, 8) if parent and set(str(parent)) != {"0"} else None
    attributes = _json_attributes(_get(span, "attributes"))
    started_at = _EPOCH + int(_get(span, "startTimeUnixNano") or 0) // 1000 * _MICROSECOND
    _learn(decoded, trace_id, said_key(parent_id is None, started_at, span_id), attributes, resource, scope)
    end = int(_get(span, "endTimeUnixNano") or 0)
    status = _object(_get(span, "status"))
    error = None
    events = [
        _event(
            str(event.get("name") or ""),
            int(_get(event, "timeUnixNano") or 0),
            _json_attributes(event.get("attributes")),
        )
        for event in _objects(_get(span, "events"))
    ]
    links = [
        _link(
            str(_get(link, "traceId") or ""), str(_get(link, "spanId") or ""), _json_attributes(link.get("attributes"))
        )
        for link in _objects(_get(span, "links"))
    ]
    if events or links:
        _keep(attributes, events, links, str(span.get("name") or ""), scope, parent_id)
    if status.get("code") in (2, "2", "STATUS_CODE_ERROR"):
        error = str(status.get("message") or "") or _exception(events)
    return span_row(
        decoded.user_id, trace_id, span_id, parent_id, str(span.get("name") or ""), started_at,
        max(started_at, _EPOCH + end // 1000 * _MICROSECOND) if end else None, error, attributes, scope,
    )  # fmt: skip


def _json_attributes(pairs: Any) -> dict[str, Any]:
    return {str(pair.get("key")): _json_value(pair.get("value")) for pair in _objects(pairs)}


def _json_value(value: Any) -> Any:
    if not isinstance(value, Mapping) or not value:
        return None
    [kind, given] = next(iter(value.items()))
    match kind.replace("_", "").lower():
        case "stringvalue":
            return str(given)
        case "intvalue":
            return int(given)
        case "doublevalue":
            return float(given)
        case "arrayvalue":
            return [_json_value(inner) for inner in _object(given).get("values") or []]
        case "kvlistvalue":
            return _json_attributes(_object(given).get("values"))
    return given


def _hex(value: Any, n_bytes: int) -> str:
    """An id in hex as OTLP says, or in base64 as plain protobuf JSON writes bytes."""
    text = str(value or "")
    if len(text) == 2 * n_bytes:
        return bytes.fromhex(text).hex()
    import base64

    data = base64.b64decode(text, validate=True)
    if len(data) != n_bytes:
        raise ValueError(f"{text!r} is no id of {n_bytes} bytes")
    return data.hex()


def _get(found: Mapping[str, Any], name: str) -> Any:
    """A field by its camelCase name, or the snake_case one that some writers use."""
    if name in found:
        return found[name]
    return found.get("".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name))


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> Iterable[Mapping[str, Any]]:
    return (entry for entry in value if isinstance(entry, Mapping)) if isinstance(value, list) else ()
